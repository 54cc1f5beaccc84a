"""Close a payment that an operator writes off or voids, but never while it could still be paid (I3).

`pending_close_as` holds the requested state; the billing events hold who requested it and why. From then on no
charge starts. The payment is closed once no attempt is open and its PaymentIntent was seen canceled, by any user
or process. If money arrives first, the payment is paid and the request is dropped.
"""

from dataclasses import dataclass, replace
from uuid import UUID

from sqlalchemy import Connection, select, update

from shared.accounts.standing import update_standing
from shared.db.billing_events import Cause
from shared.db.rows import AccountRow, PaymentRow
from shared.db.tables.invoices import invoices
from shared.db.tables.system import billing_events
from shared.domain.calendar import local_date
from shared.domain.event_types import EventType
from shared.domain.states import ENDED, WORD_OF_CLOSE, AttemptKind, PaymentKind, PaymentState, Standing, Trigger
from shared.failpoints import Failpoint, reach
from shared.payments.claim import (
    Claimed,
    NotClaimed,
    Wanted,
    abandon_intent,
    is_create_key_stale,
    start_attempt,
)
from shared.payments.eligibility import is_backing_off
from shared.payments.locked_rows import lock_live_intent, lock_with_account
from shared.payments.state_changes import move_payment, open_attempt, record_payment_event
from shared.policy import Policy
from shared.runtime import Runtime

ACTOR = "worker"


@dataclass(frozen=True)
class Closed:
    """The payment is closed as `as_`."""

    payment_id: UUID
    as_: PaymentState


@dataclass(frozen=True)
class CloseRequest:
    """Who requested the close, and why."""

    who: str
    reason: str


def claim_cancellation(connection: Connection, runtime: Runtime, payment_id: UUID) -> Claimed | Closed | NotClaimed:
    """Close a payment, or claim the attempt that cancels its PaymentIntent, in the caller's transaction."""
    locked = lock_with_account(connection, payment_id)
    if locked is None:
        return NotClaimed("there is no such payment")
    now, machine_now = runtime.clock.now(), runtime.machine_now()
    payment = locked.payment
    if payment.pending_close_as is None or payment.state in ENDED:
        return NotClaimed("no close is pending")
    if is_backing_off(payment.backoff_until, machine_now):
        return NotClaimed("backs off from an outage")
    if open_attempt(connection, payment_id) is not None:
        return NotClaimed("has an open attempt")
    close_request = close_request_of(connection, payment)
    intent = lock_live_intent(connection, payment_id)
    if intent is not None and is_create_key_stale(intent, machine_now):
        # The id of a create that may have been sent is unknown. While Stripe keeps the key, the attempt repeats the
        # create to learn the id and cancels it; after that, the repetition would create another PaymentIntent.
        abandon_intent(connection, intent, now)
        intent = None
    if intent is None:
        to = PaymentState(payment.pending_close_as)
        close_as_requested(connection, locked.account, payment, to, runtime.policy, Cause(ACTOR, now, ""))
        reach(Failpoint.END_AT_ONCE_BEFORE_COMMIT)
        return Closed(payment.id, to)
    wanted = Wanted(AttemptKind.CANCEL, None, locked.settings.card_revision, Trigger.OPERATOR, close_request.who)
    claimed = start_attempt(connection, runtime, payment, intent, wanted, now, machine_now)
    reach(Failpoint.END_CLAIM_BEFORE_COMMIT)
    return claimed


def close_request_of(connection: Connection, payment: PaymentRow) -> CloseRequest:
    """Return who requested the close, and why: the latest such billing event."""
    row = connection.execute(
        select(billing_events.c.actor, billing_events.c.reason)
        .where(billing_events.c.payment_id == payment.id, billing_events.c.type == EventType.CLOSE_REQUESTED)
        .order_by(billing_events.c.id.desc())
        .limit(1)
    ).one_or_none()
    return (
        CloseRequest("operator", "no reason was recorded") if row is None else CloseRequest(row.actor, row.reason)
    )


def close_as_requested(
    connection: Connection,
    account: AccountRow,
    payment: PaymentRow,
    to: PaymentState,
    policy: Policy,
    cause: Cause,
) -> None:
    """Close a locked payment as its `pending_close_as` says (`to`); the reason is the request's."""
    close_payment_as(connection, account, payment, policy, to, close_request_of(connection, payment), cause)


def close_payment_as(
    connection: Connection,
    account: AccountRow,
    payment: PaymentRow,
    policy: Policy,
    to: PaymentState,
    close_request: CloseRequest,
    cause: Cause,
) -> None:
    """Close a locked payment, void its invoice if it closes as void, and update the account's standing.

    The caller has checked under the lock that no attempt is open and no PaymentIntent is live.
    """
    cause = replace(cause, reason=f"{WORD_OF_CLOSE[to]} by {close_request.who}: {close_request.reason}")
    move_payment(connection, payment, to, cause, held_until=None, not_sent_count=0)
    if to is PaymentState.VOID and payment.invoice_id is not None:
        _void_invoice(connection, payment, cause)
    if (
        payment.kind == PaymentKind.MONTHLY and account.standing != Standing.GOOD
    ):  # a close never worsens the standing
        today = local_date(cause.at, policy.coverage(payment.coverage).zone)
        update_standing(connection, account, policy, today, cause, payment.id)


def record_close_overtaken(
    connection: Connection, payment: PaymentRow, close_as: PaymentState, cause: Cause
) -> None:
    """Record that money arrived for a payment with a pending close: it is paid and stays paid."""
    close_request = close_request_of(connection, payment)
    record_payment_event(
        connection,
        payment,
        EventType.CLOSE_OVERTAKEN,
        replace(
            cause, reason=f"paid before it could be {WORD_OF_CLOSE[close_as]}, as {close_request.who} requested"
        ),
        before={"pending_close_as": close_as},
        after={"pending_close_as": None},
    )


def _void_invoice(connection: Connection, payment: PaymentRow, cause: Cause) -> None:
    """Void the invoice. It keeps its number and its lines (I1)."""
    voided = connection.scalar(
        update(invoices)
        .where(invoices.c.id == payment.invoice_id, invoices.c.voided_at.is_(None))
        .values(voided_at=cause.at)
        .returning(invoices.c.number)
    )
    if voided is None:
        return
    record_payment_event(
        connection,
        payment,
        EventType.INVOICE_VOIDED,
        cause,
        data={"invoice_id": str(payment.invoice_id), "number": voided},
    )
