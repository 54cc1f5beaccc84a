"""What the operators' actions on one payment share: the locked row, refusals, and the job to enqueue after them."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection

from shared.db.billing_events import Cause, record_refusal
from shared.db.rows import PaymentRow
from shared.domain.refusals import Refused
from shared.domain.states import Lane
from shared.messaging.jobs import ChargePayment
from shared.payments.locked_rows import lock_payment


def lock_if_known(connection: Connection, payment_id: UUID) -> PaymentRow | None:
    try:
        return lock_payment(connection, payment_id)
    except LookupError:
        return None


def no_such_payment(payment_id: UUID) -> Refused:
    return Refused(f"there is no payment {payment_id}", "search by invoice number or account")


def job_if_due(payment: PaymentRow, now: datetime) -> ChargePayment | None:
    """Return the job to enqueue after a hold or close is lifted; without it the sweep would find it later."""
    is_due = payment.next_attempt_at is not None and payment.next_attempt_at <= now
    return ChargePayment(payment.id, Lane(payment.lane)) if is_due else None


def record_payment_refusal(
    connection: Connection, payment: PaymentRow, what: str, refused: Refused, cause: Cause
) -> None:
    record_refusal(connection, what, refused, cause, payment.account_id, payment.id)
