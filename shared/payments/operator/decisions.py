"""What operators decide about one payment's money: hold, release, write off, void (I14).

Like `requests.py`: the caller's transaction, a refusal says why and what to do instead and is in the trail, and
what is to be rung for is rung after the commit. `now` is business time.
"""

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from uuid import UUID

from sqlalchemy import Connection, select, update

from shared.db.billing_events import BillingEvent, record_event
from shared.db.tables.payments import payments
from shared.db.tables.system import billing_events
from shared.domain.calendar import instant, local_date
from shared.domain.states import ENDED, UNPAID, WORD_OF_CLOSE, Lane, PaymentState
from shared.messaging.jobs import ChargePayment, ClosePayment
from shared.payments.cancellation import (
    REQUESTED,
    Closed,
    CloseRequest,
    LockedForClose,
    close_payment_as,
    live_intent,
    lock_for_close,
)
from shared.payments.operator.charge import Refused
from shared.payments.outcome_handlers import UNTIL_RELEASED
from shared.payments.state_changes import Cause, PaymentRow, lock_payment, open_attempt
from shared.policy import Policy

#: A hold for longer than a year is forgotten by everybody; until it is released is another thing.
LONGEST_HOLD = timedelta(days=366)

HELD, RELEASED = "payment_held", "hold_released"
NO_REASON = Refused("no reason was given", "say why; the reason is kept in the trail")


@dataclass(frozen=True)
class Held:
    """The payment isn't asked for before that instant; UNTIL_RELEASED waits for a person."""

    payment_id: UUID
    until: datetime


@dataclass(frozen=True)
class Released:
    """The hold is over. `job`, if it is due by now, is to be rung after the commit."""

    payment_id: UUID
    job: ChargePayment | None


@dataclass(frozen=True)
class CloseWithdrawn:
    """The payment is collected again, as before somebody wanted it ended."""

    payment_id: UUID
    job: ChargePayment | None


def hold_payment(
    connection: Connection,
    policy: Policy,
    payment_id: UUID,
    until: date | None,
    who: str,
    reason: str,
    now: datetime,
) -> Held | Refused:
    """Keep a payment from being asked for until midnight of a day in its coverage, or until it is released (None).

    A brake works at any time: what is under way goes its way, and what would follow it is held.
    """
    payment = _lock(connection, payment_id)
    if payment is None:
        return _no_payment(payment_id)
    refused = _why_no_hold(policy, payment, until, reason, now)
    if refused is not None:
        _write_down(connection, payment, "hold", refused, who, reason, now)
        return refused
    zone = policy.coverage(payment.coverage).zone
    held_until = UNTIL_RELEASED if until is None else instant(until, time(0), zone)
    earlier = _reason_without_hold(connection, payment)
    said = f"{reason.strip()} (held by {who} {f'until {until}' if until else 'until it is released'}"
    state_reason = f"{said}; before that: {earlier})" if earlier else f"{said})"
    _change_hold(connection, payment, HELD, held_until, state_reason, Cause(who, now, reason), earlier)
    return Held(payment.id, held_until)


def release_payment(
    connection: Connection, payment_id: UUID, who: str, reason: str, now: datetime
) -> Released | Refused:
    """End a payment's hold, whoever holds it: what it waited for before, it waits for again."""
    payment = _lock(connection, payment_id)
    if payment is None:
        return _no_payment(payment_id)
    refused = None
    if not reason.strip():
        refused = NO_REASON
    elif payment.held_until is None or payment.held_until <= now or payment.state in ENDED:
        refused = Refused("it isn't held", "nothing: see on its page what comes next")
    if refused is not None:
        _write_down(connection, payment, "release", refused, who, reason, now)
        return refused
    earlier = _reason_without_hold(connection, payment)
    _change_hold(connection, payment, RELEASED, None, earlier, Cause(who, now, reason), earlier)
    return Released(payment.id, _job_if_due(payment, now))


def request_close(
    connection: Connection,
    policy: Policy,
    payment_id: UUID,
    as_: PaymentState,
    who: str,
    reason: str,
    now: datetime,
) -> Closed | ClosePayment | Refused:
    """End a payment as uncollectible or void: at once, or once its PaymentIntent is seen canceled (ring the job).

    Void means that it was never owed: its invoice is voided with it. From here on no charge starts.
    """
    locked = lock_for_close(connection, payment_id)
    if locked is None:
        return _no_payment(payment_id)
    payment, what = locked.payment, WORD_OF_CLOSE[as_]
    refused = NO_REASON if not reason.strip() else _why_no_ending(connection, payment, what)
    if refused is not None:
        _write_down(connection, payment, f"be {what}", refused, who, reason, now)
        return refused
    cause = Cause(who, now, reason.strip())
    _tell_ending(connection, payment, REQUESTED, cause, before=None, after=as_)
    if live_intent(connection, payment_id) is None:
        _end(connection, locked, policy, as_, cause)
        return Closed(payment.id, as_)
    connection.execute(
        update(payments).where(payments.c.id == payment.id).values(pending_close_as=as_, backoff_until=None)
    )
    return ClosePayment(payment.id)


def withdraw_close(
    connection: Connection, payment_id: UUID, who: str, reason: str, now: datetime
) -> CloseWithdrawn | Refused:
    """Take back that a payment is to be ended, as long as nobody is canceling its PaymentIntent."""
    payment = _lock(connection, payment_id)
    if payment is None:
        return _no_payment(payment_id)
    refused = None
    if not reason.strip():
        refused = NO_REASON
    elif payment.state in ENDED or payment.pending_close_as is None:
        refused = Refused("nobody wants it ended", "nothing: see on its page where it stands")
    elif open_attempt(connection, payment.id) is not None:
        refused = Refused(
            "its PaymentIntent is being canceled at this moment",
            "look again in a moment: if that came to nothing, it can be taken back then",
        )
    if refused is not None:
        _write_down(connection, payment, "stay in collection", refused, who, reason, now)
        return refused
    cause = Cause(who, now, reason.strip())
    _tell_ending(connection, payment, "ending_taken_back", cause, before=payment.pending_close_as, after=None)
    connection.execute(update(payments).where(payments.c.id == payment.id).values(pending_close_as=None))
    return CloseWithdrawn(payment.id, _job_if_due(payment, now))


# -- why not


def _why_no_hold(
    policy: Policy, payment: PaymentRow, until: date | None, reason: str, now: datetime
) -> Refused | None:
    if not reason.strip():
        return NO_REASON
    if payment.state not in UNPAID:
        return Refused(f"it is {payment.state}", "nothing: it isn't asked for any more")
    if payment.pending_close_as is not None:
        return Refused(
            f"it is being {WORD_OF_CLOSE[payment.pending_close_as]}: it isn't asked for any more",
            "take that back first",
        )
    if until is None:
        return None
    today = local_date(now, policy.coverage(payment.coverage).zone)
    if until <= today:
        return Refused(f"{until} has begun already (it is {today} in {payment.coverage})", "give a later day")
    if until > today + LONGEST_HOLD:
        return Refused(
            f"{until} is more than {LONGEST_HOLD.days} days away", "hold it until it is released, or for less"
        )
    return None


def _why_no_ending(connection: Connection, payment: PaymentRow, what: str) -> Refused | None:
    state = PaymentState(payment.state)
    if state is PaymentState.PAID:
        return Refused(
            f"it was paid at {payment.paid_at:%Y-%m-%d %H:%M} UTC", "nothing here: pay it back at the processor"
        )
    if state in ENDED:
        return Refused(f"it is {state}: {payment.state_reason}", "nothing: collection has ended")
    if payment.pending_close_as is not None:
        already = WORD_OF_CLOSE[payment.pending_close_as]
        return Refused(f"it is being {already} already", f"nothing; to have it {what} otherwise, take that back")
    if state is PaymentState.AUTHORISED:
        return Refused("the money is on hold at the bank", "release that hold first")
    attempt = open_attempt(connection, payment.id)
    if attempt is None:
        return None
    return Refused(
        f"attempt {attempt.number} may be taking the money ({attempt.state})",
        "wait until its outcome is known: that takes minutes at most, unless the processor is away",
    )


# -- rows and trail


def _lock(connection: Connection, payment_id: UUID) -> PaymentRow | None:
    try:
        return lock_payment(connection, payment_id)
    except LookupError:
        return None


def _no_payment(payment_id: UUID) -> Refused:
    return Refused(f"there is no payment {payment_id}", "look it up by invoice number or account")


def _end(connection: Connection, locked: LockedForClose, policy: Policy, as_: PaymentState, cause: Cause) -> None:
    close_request = CloseRequest(cause.actor, cause.reason)
    close_payment_as(connection, locked.account, locked.payment, policy, as_, close_request, cause)


def _job_if_due(payment: PaymentRow, now: datetime) -> ChargePayment | None:
    """What to ring for after a brake is taken off; the sweep would find it, only later."""
    is_due = payment.next_attempt_at is not None and payment.next_attempt_at <= now
    return ChargePayment(payment.id, Lane(payment.lane)) if is_due else None


def _reason_without_hold(connection: Connection, payment: PaymentRow) -> str | None:
    """The reason of the payment's state as it was before a person's hold was written over it."""
    last = connection.execute(
        select(billing_events.c.data, billing_events.c.after)
        .where(billing_events.c.payment_id == payment.id, billing_events.c.type == HELD)
        .order_by(billing_events.c.id.desc())
        .limit(1)
    ).one_or_none()
    if last is None or last.after.get("state_reason") != payment.state_reason:
        return payment.state_reason  # type: ignore[no-any-return]
    earlier: str | None = last.data.get("reason_without_hold")
    return earlier


def _change_hold(
    connection: Connection,
    payment: PaymentRow,
    what: str,
    held_until: datetime | None,
    state_reason: str | None,
    cause: Cause,
    earlier: str | None,
) -> None:
    connection.execute(
        update(payments).where(payments.c.id == payment.id).values(held_until=held_until, state_reason=state_reason)
    )
    before, after = payment.held_until, held_until
    record_event(
        connection,
        BillingEvent(
            type=what,
            at=cause.at,
            actor=cause.actor,
            reason=cause.reason,
            account_id=payment.account_id,
            payment_id=payment.id,
            before={
                "held_until": before.isoformat() if before else None,
                "state_reason": payment.state_reason,
            },
            after={"held_until": after.isoformat() if after else None, "state_reason": state_reason},
            data={"reason_without_hold": earlier},
        ),
    )


def _tell_ending(
    connection: Connection,
    payment: PaymentRow,
    what: str,
    cause: Cause,
    *,
    before: str | None,
    after: str | None,
) -> None:
    record_event(
        connection,
        BillingEvent(
            type=what,
            at=cause.at,
            actor=cause.actor,
            reason=cause.reason,
            account_id=payment.account_id,
            payment_id=payment.id,
            before={"pending_close_as": before},
            after={"pending_close_as": after},
        ),
    )


def _write_down(
    connection: Connection, payment: PaymentRow, what: str, refused: Refused, who: str, reason: str, now: datetime
) -> None:
    write_down_refusal(connection, what, refused, Cause(who, now, reason), payment.account_id, payment.id)


def write_down_refusal(
    connection: Connection,
    what: str,
    refused: Refused,
    cause: Cause,
    account_id: UUID,
    payment_id: UUID | None = None,
) -> None:
    """A refusal is in the trail like every attempt that was not made; `because` says who asked for it, and why."""
    record_event(
        connection,
        BillingEvent(
            type="decision_refused",
            at=cause.at,
            actor=cause.actor,
            reason=refused.reason,
            account_id=account_id,
            payment_id=payment_id,
            data={"asked_for": what, "asked_because": cause.reason},
        ),
    )
