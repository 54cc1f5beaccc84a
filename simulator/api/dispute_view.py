"""A dispute as Stripe's JSON, API version 2026-10-28.endive."""

from typing import Any

from simulator.store.records import Dispute

#: Days until the evidence is due; the network decides (docs.stripe.com/disputes/responding: usually 7 to 21).
EVIDENCE_DUE_S = 14 * 86_400

_NO_EVIDENCE = dict.fromkeys(
    (
        "access_activity_log",
        "appeal",
        "billing_address",
        "cancellation_policy",
        "cancellation_policy_disclosure",
        "cancellation_rebuttal",
        "customer_communication",
        "customer_email_address",
        "customer_name",
        "customer_purchase_ip",
        "customer_signature",
        "duplicate_charge_documentation",
        "duplicate_charge_explanation",
        "duplicate_charge_id",
        "product_description",
        "receipt",
        "refund_policy",
        "refund_policy_disclosure",
        "refund_refusal_explanation",
        "service_date",
        "service_documentation",
        "shipping_address",
        "shipping_carrier",
        "shipping_date",
        "shipping_documentation",
        "shipping_tracking_number",
        "uncategorized_file",
        "uncategorized_text",
    )
)


def dispute(record: Dispute) -> dict[str, Any]:
    is_inquiry = record.status.startswith("warning_")
    return {
        "id": record.id,
        "object": "dispute",
        "amount": record.amount,
        "balance_transactions": [_move(record, number, amount) for number, amount in enumerate(record.moves)],
        "charge": record.charge,
        "created": record.created,
        "currency": record.currency,
        "enhanced_eligibility_types": [],
        "evidence": {**_NO_EVIDENCE, "enhanced_evidence": {}},
        "evidence_details": {
            "due_by": record.created + EVIDENCE_DUE_S,
            "enhanced_eligibility": {},
            "has_evidence": False,
            "past_due": False,
            "submission_count": 0,
            "submission_method": "not_submitted",
        },
        "is_charge_refundable": is_inquiry,
        "livemode": False,
        "metadata": {},
        "network_reason_code": None,
        "payment_intent": record.payment_intent,
        "payment_method_details": {
            "card": {
                "brand": record.brand,
                "case_type": "inquiry" if is_inquiry else "chargeback",
                "network": record.brand,
                "network_reason_code": None,
            },
            "type": "card",
        },
        "reason": record.reason,
        "status": record.status,
    }


def _move(record: Dispute, number: int, amount: int) -> dict[str, Any]:
    is_withdrawal = amount < 0
    return {
        "id": f"txn_{record.id.removeprefix('du_')}{number}",
        "object": "balance_transaction",
        "amount": amount,
        "available_on": record.created,
        "balance_type": "payments",
        "created": record.created,
        "currency": record.currency,
        "description": "Chargeback withdrawal" if is_withdrawal else "Chargeback reversal",
        "exchange_rate": None,
        "fee": 0,
        "fee_details": [],
        "net": amount,
        "reporting_category": "dispute" if is_withdrawal else "dispute_reversal",
        "source": record.id,
        "status": "available",
        "type": "adjustment",
    }
