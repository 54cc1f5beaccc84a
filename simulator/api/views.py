"""Records as Stripe's JSON, API version 2026-10-28.endive. A test checks every field against the SDK's types."""

from collections.abc import Callable, Mapping
from typing import Any

from simulator.api.dispute_view import dispute
from simulator.store.records import (
    KINDS,
    Charge,
    Customer,
    Dispute,
    Event,
    PaymentIntent,
    PaymentMethod,
    Record,
    SetupIntent,
)

API_VERSION = "2026-10-28.endive"

Json = dict[str, Any]

_NO_ADDRESS: Json = dict.fromkeys(("city", "country", "line1", "line2", "postal_code", "state"))
_NO_CHECKS: Json = {"address_line1_check": None, "address_postal_code_check": None, "cvc_check": "pass"}


def billing_details(given: Mapping[str, Any]) -> Json:
    return {
        "address": {**_NO_ADDRESS, **(given.get("address") or {})},
        "email": given.get("email"),
        "name": given.get("name"),
        "phone": given.get("phone"),
        "tax_id": given.get("tax_id"),
    }


def customer(record: Customer) -> Json:
    return {
        "id": record.id,
        "object": "customer",
        "address": {**_NO_ADDRESS, **record.address} if record.address else None,
        "balance": 0,
        "created": record.created,
        "currency": None,
        "default_source": None,
        "delinquent": False,
        "description": record.description,
        "discount": None,
        "email": record.email,
        "invoice_prefix": record.id[-8:].upper(),
        "invoice_settings": {
            "custom_fields": None,
            "default_payment_method": record.default_payment_method,
            "footer": None,
            "rendering_options": None,
        },
        "livemode": False,
        "metadata": record.metadata,
        "name": record.name,
        "next_invoice_sequence": 1,
        "phone": record.phone,
        "preferred_locales": record.preferred_locales,
        "shipping": None,
        "tax_exempt": "none",
        "test_clock": None,
    }


def payment_method(record: PaymentMethod) -> Json:
    return {
        "id": record.id,
        "object": "payment_method",
        "allow_redisplay": record.allow_redisplay,
        "billing_details": billing_details(record.billing_details),
        "card": {
            "brand": record.brand,
            "checks": _NO_CHECKS,
            "country": record.country,
            "display_brand": record.brand,
            "exp_month": record.exp_month,
            "exp_year": record.exp_year,
            "fingerprint": record.fingerprint,
            "funding": "credit",
            "generated_from": None,
            "last4": record.last4,
            "networks": {"available": [record.brand], "preferred": None},
            "regulated_status": "unregulated",
            "three_d_secure_usage": {"supported": True},
            "wallet": None,
        },
        "created": record.created,
        "customer": record.customer,
        "livemode": False,
        "metadata": record.metadata,
        "type": "card",
    }


def setup_intent(record: SetupIntent) -> Json:
    return {
        "id": record.id,
        "object": "setup_intent",
        "application": None,
        "automatic_payment_methods": record.automatic_payment_methods,
        "cancellation_reason": record.cancellation_reason,
        "client_secret": f"{record.id}_secret_{record.id[-10:]}",
        "created": record.created,
        "customer": record.customer,
        "description": record.description,
        "flow_directions": None,
        "last_setup_error": record.last_setup_error,
        "latest_attempt": record.latest_attempt,
        "livemode": False,
        "mandate": None,
        "metadata": record.metadata,
        "next_action": record.next_action,
        "on_behalf_of": None,
        "payment_method": record.payment_method,
        "payment_method_options": {
            "card": {"mandate_options": None, "network": None, "request_three_d_secure": "automatic"}
        },
        "payment_method_types": record.payment_method_types,
        "single_use_mandate": None,
        "status": record.status,
        "usage": record.usage,
    }


def payment_intent(record: PaymentIntent) -> Json:
    return {
        "id": record.id,
        "object": "payment_intent",
        "amount": record.amount,
        "amount_capturable": record.amount_capturable,
        "amount_details": {"tip": {}},
        "amount_received": record.amount_received,
        "application": None,
        "application_fee_amount": None,
        "automatic_payment_methods": record.automatic_payment_methods,
        "canceled_at": record.canceled_at,
        "cancellation_reason": record.cancellation_reason,
        "capture_method": record.capture_method,
        "client_secret": f"{record.id}_secret_{record.id[-10:]}",
        "confirmation_method": "automatic",
        "created": record.created,
        "currency": record.currency,
        "customer": record.customer,
        "description": record.description,
        "last_payment_error": record.last_payment_error,
        "latest_charge": record.latest_charge,
        "livemode": False,
        "metadata": record.metadata,
        "next_action": record.next_action,
        "on_behalf_of": None,
        "payment_method": record.payment_method,
        "payment_method_options": {
            "card": {
                "installments": None,
                "mandate_options": None,
                "network": None,
                "request_three_d_secure": record.request_three_d_secure,
            }
        },
        "payment_method_types": record.payment_method_types,
        "processing": None,
        "receipt_email": record.receipt_email,
        "review": None,
        "setup_future_usage": record.setup_future_usage,
        "shipping": None,
        "statement_descriptor": record.statement_descriptor,
        "statement_descriptor_suffix": record.statement_descriptor_suffix,
        "status": record.status,
        "transfer_data": None,
        "transfer_group": None,
    }


def charge(record: Charge) -> Json:
    is_paid = record.status == "succeeded"
    return {
        "id": record.id,
        "object": "charge",
        "amount": record.amount,
        "amount_captured": record.amount_captured,
        "amount_refunded": record.amount_refunded,
        "application": None,
        "application_fee": None,
        "application_fee_amount": None,
        "balance_transaction": None,
        "billing_details": billing_details(record.billing_details),
        "calculated_statement_descriptor": record.statement_descriptor,
        "captured": record.captured,
        "created": record.created,
        "currency": record.currency,
        "customer": record.customer,
        "description": record.description,
        "disputed": record.disputed,
        "failure_balance_transaction": None,
        "failure_code": record.failure_code,
        "failure_message": record.failure_message,
        "fraud_details": {},
        "livemode": False,
        "metadata": record.metadata,
        "on_behalf_of": None,
        "outcome": record.outcome,
        "paid": is_paid,
        "payment_intent": record.payment_intent,
        "payment_method": record.payment_method,
        "payment_method_details": {"card": _charged_card(record), "type": "card"},
        "radar_options": {},
        "receipt_email": record.receipt_email,
        "receipt_number": None,
        "receipt_url": None,
        "refunded": record.amount_refunded >= record.amount,
        "review": None,
        "shipping": None,
        "source_transfer": None,
        "statement_descriptor": record.statement_descriptor,
        "statement_descriptor_suffix": record.statement_descriptor_suffix,
        "status": record.status,
        "transfer_data": None,
        "transfer_group": None,
    }


def _charged_card(record: Charge) -> Json:
    return {
        "amount_authorized": record.amount if record.status == "succeeded" else None,
        "authorization_code": record.authorization_code,
        "brand": record.brand,
        **({} if record.capture_before is None else {"capture_before": record.capture_before}),
        "checks": _NO_CHECKS,
        "country": record.country,
        "exp_month": record.exp_month,
        "exp_year": record.exp_year,
        "extended_authorization": {"status": "disabled"},
        "fingerprint": record.fingerprint,
        "funding": "credit",
        "incremental_authorization": {"status": "unavailable"},
        "installments": None,
        "last4": record.last4,
        "mandate": None,
        "multicapture": {"status": "unavailable"},
        "network": record.brand,
        "network_token": {"used": False},
        "network_transaction_id": record.id[-15:] if record.status == "succeeded" else None,
        "overcapture": {"maximum_amount_capturable": record.amount, "status": "unavailable"},
        "regulated_status": "unregulated",
        "three_d_secure": None,
        "wallet": None,
    }


def event(record: Event, pending_webhooks: int = 0) -> Json:
    kind = KINDS[record.subject_table]
    data: Json = {"object": render(kind(**record.subject))}
    if record.previous_attributes is not None:
        data["previous_attributes"] = record.previous_attributes
    return {
        "id": record.id,
        "object": "event",
        "api_version": API_VERSION,
        "created": record.created,
        "data": data,
        "livemode": False,
        "pending_webhooks": pending_webhooks,
        "request": {"id": record.request_id, "idempotency_key": record.idempotency_key},
        "type": record.type,
    }


#: Countries whose accounts settle in a currency other than US dollars, by account name.
_COUNTRIES = {"japan": ("JP", "jpy")}


def account(name: str) -> Json:
    country, currency = _COUNTRIES.get(name, ("US", "usd"))
    return {
        "id": f"acct_sim_{name}",
        "object": "account",
        "business_profile": {"mcc": None, "name": f"Simulated {name}", "url": None},
        "business_type": "company",
        "capabilities": {"card_payments": "active", "transfers": "active"},
        "charges_enabled": True,
        "country": country,
        "created": 0,
        "default_currency": currency,
        "details_submitted": True,
        "email": None,
        "metadata": {},
        "payouts_enabled": True,
        "type": "standard",
    }


_VIEWS: dict[type[Record], Callable[[Any], Json]] = {
    Customer: customer,
    PaymentMethod: payment_method,
    SetupIntent: setup_intent,
    PaymentIntent: payment_intent,
    Charge: charge,
    Dispute: dispute,
    Event: event,
}


def render(record: Record) -> Json:
    return _VIEWS[type(record)](record)
