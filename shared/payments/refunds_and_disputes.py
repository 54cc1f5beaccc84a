"""Refunds and disputes of captured charges: billing events and findings, as Stripe shows them now.

Paid stays paid (I8): what to do about the invoice is an operator's decision. A disputed payment that is still open
in our records isn't charged again until an operator releases it.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, select

from shared.db.billing_events import Cause
from shared.db.rows import PaymentRow
from shared.db.tables.payments import payment_intents, receipts
from shared.domain.event_types import EventType
from shared.domain.money import format_minor
from shared.domain.states import UNPAID
from shared.gateway.port import ChargeReadBack, DisputeSnapshot
from shared.payments.locked_rows import lock_payment
from shared.payments.operator.hold import hold_until_released
from shared.payments.receipts import details_of_known, open_finding, resolve_finding
from shared.payments.state_changes import record_payment_event

REFUND_FINDING = "charge_refunded"
DISPUTE_FINDING = "charge_disputed"
#: The bank has decided for us, or the inquiry ended without a dispute (docs.stripe.com/api/disputes/object).
_FOR_US = frozenset({"won", "warning_closed"})
#: Statuses before the bank's first decision; one retrieved earlier may be applied later than the decision.
_UNDECIDED = frozenset({"warning_needs_response", "warning_under_review", "needs_response", "under_review"})


def record_refund(
    connection: Connection, coverage: str, charge: ChargeReadBack, actor: str, at: datetime
) -> tuple[str, UUID | None]:
    """Record what of a charge was refunded at Stripe; return a note and the payment. Safe to repeat."""
    payment = _payment_of(connection, coverage, charge.stripe_id, charge.stripe_payment_intent_id)
    if payment is None:
        return "not ours: no payment has this charge", None
    if charge.amount_captured_minor == 0 or charge.amount_refunded_minor == 0:
        return "no money was given back: a hold was released", payment.id
    facts = {
        "charge_id": charge.stripe_id,
        "captured_minor": charge.amount_captured_minor,
        "refunded_minor": charge.amount_refunded_minor,
        "currency": charge.currency,
    }
    known = details_of_known(connection, REFUND_FINDING, coverage, charge.stripe_id)
    if known is not None and known["refunded_minor"] >= charge.amount_refunded_minor:
        return "already known: the refund is recorded", payment.id
    refunded, captured = (
        format_minor(amount, charge.currency)
        for amount in (charge.amount_refunded_minor, charge.amount_captured_minor)
    )
    cause = Cause(actor, at, f"{refunded} of {captured} refunded at Stripe")
    _record(connection, payment, EventType.CHARGE_REFUNDED, known, facts, cause)
    open_finding(connection, REFUND_FINDING, payment, charge.stripe_id, facts, cause)
    return cause.reason, payment.id


def record_dispute(
    connection: Connection, coverage: str, dispute: DisputeSnapshot, actor: str, at: datetime
) -> tuple[str, UUID | None]:
    """Record a dispute's present state, and stop charging its payment; return a note and the payment.

    Safe to repeat. The finding is resolved once the bank has decided for us and no money is missing.
    """
    payment = _payment_of(connection, coverage, dispute.stripe_charge_id, dispute.stripe_payment_intent_id)
    if payment is None:
        return "not ours: no payment has this charge", None
    facts = _facts(dispute)
    known = details_of_known(connection, DISPUTE_FINDING, coverage, dispute.stripe_id)
    if known == facts:
        return f"already known: the dispute is {dispute.status}", payment.id
    if known is not None and dispute.status in _UNDECIDED and known["status"] not in _UNDECIDED:
        return f"already known: the dispute is {known['status']}", payment.id
    amount = format_minor(dispute.amount_minor, dispute.currency)
    cause = Cause(actor, at, f"{amount} disputed by the cardholder ({dispute.reason}): {dispute.status}")
    _record(connection, payment, EventType.CHARGE_DISPUTED, known, facts, cause)
    open_finding(connection, DISPUTE_FINDING, payment, dispute.stripe_id, facts, cause)
    is_over = dispute.status in _FOR_US and dispute.withdrawn_minor <= 0
    if is_over:
        over = Cause(actor, at, f"the dispute was closed in our favor: {dispute.status}")
        resolve_finding(connection, DISPUTE_FINDING, coverage, dispute.stripe_id, over)
    elif payment.state in UNPAID and payment.pending_close_as is None:
        hold = Cause(actor, at, f"its charge is disputed ({dispute.reason}): an operator decides")
        hold_until_released(connection, payment, hold)
    return cause.reason, payment.id


def _facts(dispute: DisputeSnapshot) -> dict[str, Any]:
    due_at = dispute.evidence_due_at
    return {
        "charge_id": dispute.stripe_charge_id,
        "status": dispute.status,
        "reason": dispute.reason,
        "disputed_minor": dispute.amount_minor,
        "withdrawn_minor": dispute.withdrawn_minor,
        "currency": dispute.currency,
        "evidence_due_at": None if due_at is None else due_at.isoformat(),
    }


def _payment_of(
    connection: Connection, coverage: str, charge_id: str, payment_intent_id: str | None
) -> PaymentRow | None:
    """Lock the payment that a charge belongs to: by its receipt, or else by its PaymentIntent."""
    by_receipt = select(receipts.c.payment_id).where(
        receipts.c.coverage == coverage, receipts.c.stripe_charge_id == charge_id
    )
    by_intent = select(payment_intents.c.payment_id).where(
        payment_intents.c.coverage == coverage, payment_intents.c.stripe_payment_intent_id == payment_intent_id
    )
    payment_id = connection.scalar(by_receipt) or connection.scalar(by_intent)
    return None if payment_id is None else lock_payment(connection, payment_id)


def _record(
    connection: Connection,
    payment: PaymentRow,
    what: EventType,
    known: Mapping[str, Any] | None,
    facts: Mapping[str, Any],
    cause: Cause,
) -> None:
    record_payment_event(connection, payment, what, cause, before=known or {}, after=facts)
