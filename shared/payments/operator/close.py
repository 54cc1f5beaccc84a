"""Request that a payment is closed as uncollectible or void, or withdraw the request (I14).

The caller's transaction; a refusal says why and what to do instead and is recorded; jobs are enqueued after the
commit. `now` is business time.
"""

from dataclasses import dataclass, replace
from uuid import UUID

from sqlalchemy import Connection, update

from shared.db.billing_events import Cause
from shared.db.rows import PaymentRow
from shared.db.tables.payments import payments
from shared.domain.event_types import EventType
from shared.domain.refusals import NO_REASON, Refused
from shared.domain.states import ENDED, WORD_OF_CLOSE, PaymentState
from shared.messaging.jobs import ChargePayment, ClosePayment
from shared.payments.cancellation import (
    Closed,
    CloseRequest,
    close_payment_as,
)
from shared.payments.locked_rows import LockedPayment, lock_live_intent, lock_with_account
from shared.payments.operator.refusals import job_if_due, lock_if_known, no_such_payment, record_payment_refusal
from shared.payments.state_changes import open_attempt, record_payment_event
from shared.policy import Policy


@dataclass(frozen=True)
class CloseWithdrawn:
    """The pending close is canceled; collection continues as before."""

    payment_id: UUID
    job: ChargePayment | None


def request_close(
    connection: Connection,
    policy: Policy,
    payment_id: UUID,
    as_: PaymentState,
    cause: Cause,
) -> Closed | ClosePayment | Refused:
    """Close a payment as uncollectible or void: now, or by the returned job once its PaymentIntent is canceled.

    Void means that it was never owed: its invoice is voided too. No charge starts after this.
    """
    locked = lock_with_account(connection, payment_id)
    if locked is None:
        return no_such_payment(payment_id)
    payment, what = locked.payment, WORD_OF_CLOSE[as_]
    refused = NO_REASON if not cause.reason.strip() else _why_not_closable(connection, payment, what)
    if refused is not None:
        record_payment_refusal(connection, payment, f"be {what}", refused, cause)
        return refused
    cause = replace(cause, reason=cause.reason.strip())
    _record_close_event(connection, payment, EventType.CLOSE_REQUESTED, cause, before=None, after=as_)
    if lock_live_intent(connection, payment_id) is None:
        _close(connection, locked, policy, as_, cause)
        return Closed(payment.id, as_)
    connection.execute(
        update(payments).where(payments.c.id == payment.id).values(pending_close_as=as_, backoff_until=None)
    )
    return ClosePayment(payment.id)


def withdraw_close(connection: Connection, payment_id: UUID, cause: Cause) -> CloseWithdrawn | Refused:
    """Cancel a pending close, unless its PaymentIntent is being canceled right now."""
    payment = lock_if_known(connection, payment_id)
    if payment is None:
        return no_such_payment(payment_id)
    refused = None
    if not cause.reason.strip():
        refused = NO_REASON
    elif payment.state in ENDED or payment.pending_close_as is None:
        refused = Refused("no close is pending", "nothing: its page shows its state")
    elif open_attempt(connection, payment.id) is not None:
        refused = Refused(
            "its PaymentIntent is being canceled right now",
            "try again in a moment: if the cancellation does not succeed, the pending close can be canceled then",
        )
    if refused is not None:
        record_payment_refusal(connection, payment, "stay in collection", refused, cause)
        return refused
    cause = replace(cause, reason=cause.reason.strip())
    _record_close_event(
        connection, payment, EventType.CLOSE_WITHDRAWN, cause, before=payment.pending_close_as, after=None
    )
    connection.execute(update(payments).where(payments.c.id == payment.id).values(pending_close_as=None))
    return CloseWithdrawn(payment.id, job_if_due(payment, cause.at))


# -- refusals


def _why_not_closable(connection: Connection, payment: PaymentRow, what: str) -> Refused | None:
    state = PaymentState(payment.state)
    if state is PaymentState.PAID:
        return Refused(
            f"it was paid at {payment.paid_at:%Y-%m-%d %H:%M} UTC", "nothing here: refund it at the processor"
        )
    if state in ENDED:
        return Refused(f"it is {state}: {payment.state_reason}", "nothing: collection has ended")
    if payment.pending_close_as is not None:
        already = WORD_OF_CLOSE[payment.pending_close_as]
        return Refused(
            f"it is already being {already}", f"nothing; to have it {what} instead, cancel the pending close"
        )
    if state is PaymentState.AUTHORISED:
        return Refused("the amount is authorised at the bank", "cancel the authorisation first")
    attempt = open_attempt(connection, payment.id)
    if attempt is None:
        return None
    return Refused(
        f"attempt {attempt.number} may still charge the card ({attempt.state})",
        "wait until its outcome is known: minutes at most, unless the processor is unavailable",
    )


# -- rows and billing events


def _close(connection: Connection, locked: LockedPayment, policy: Policy, as_: PaymentState, cause: Cause) -> None:
    close_request = CloseRequest(cause.actor, cause.reason)
    close_payment_as(connection, locked.account, locked.payment, policy, as_, close_request, cause)


def _record_close_event(
    connection: Connection,
    payment: PaymentRow,
    what: EventType,
    cause: Cause,
    *,
    before: str | None,
    after: str | None,
) -> None:
    record_payment_event(
        connection, payment, what, cause, before={"pending_close_as": before}, after={"pending_close_as": after}
    )
