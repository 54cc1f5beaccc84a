"""Hold a payment, and release it: operators' actions, each with a name and a reason (I14)."""

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from uuid import UUID

from sqlalchemy import Connection, select, update

from shared.db.billing_events import Cause
from shared.db.rows import PaymentRow, read_one_or_none
from shared.db.tables.payments import payments
from shared.db.tables.system import billing_events
from shared.domain.calendar import UNTIL_RELEASED, instant, local_date
from shared.domain.event_types import EventType
from shared.domain.refusals import NO_REASON, Refused
from shared.domain.states import ENDED, UNPAID, WORD_OF_CLOSE
from shared.messaging.jobs import ChargePayment
from shared.payments.eligibility import is_held
from shared.payments.operator.refusals import job_if_due, lock_if_known, no_such_payment, record_payment_refusal
from shared.payments.state_changes import record_payment_event
from shared.policy import Policy

#: A dated hold of more than a year would be forgotten. A hold without a date has no limit.
LONGEST_HOLD = timedelta(days=366)


@dataclass(frozen=True)
class Held:
    """The payment isn't charged before that instant; UNTIL_RELEASED waits for an operator."""

    payment_id: UUID
    until: datetime


@dataclass(frozen=True)
class Released:
    """The hold is released. Enqueue `job`, if there is one, after the commit: the payment is due now."""

    payment_id: UUID
    job: ChargePayment | None


@dataclass(frozen=True)
class WouldRelease:
    """What a release would do: who holds the payment and why (`reason`), and whether it is charged at once."""

    payment_id: UUID
    amount_minor: int
    currency: str
    state: str
    held_until: datetime
    reason: str | None
    is_charged_at_once: bool


def hold_payment(
    connection: Connection,
    policy: Policy,
    payment_id: UUID,
    until: date | None,
    cause: Cause,
) -> Held | Refused:
    """Hold a payment until midnight of a day in its coverage, or until it is released (None).

    Works in any unpaid state: an attempt in progress finishes, and the next one is held.
    """
    payment = lock_if_known(connection, payment_id)
    if payment is None:
        return no_such_payment(payment_id)
    refused = _why_no_hold(policy, payment, until, cause)
    if refused is not None:
        record_payment_refusal(connection, payment, "hold", refused, cause)
        return refused
    zone = policy.coverage(payment.coverage).zone
    held_until = UNTIL_RELEASED if until is None else instant(until, time(0), zone)
    earlier = _reason_without_hold(connection, payment)
    said = f"{cause.reason.strip()} (held by {cause.actor} {f'until {until}' if until else 'until it is released'}"
    state_reason = f"{said}; before that: {earlier})" if earlier else f"{said})"
    _change_hold(connection, payment, EventType.PAYMENT_HELD, held_until, state_reason, cause, earlier)
    return Held(payment.id, held_until)


def hold_until_released(connection: Connection, payment: PaymentRow, cause: Cause) -> None:
    """Hold a locked, unpaid payment until an operator releases it; nothing if it is held so already."""
    if payment.held_until == UNTIL_RELEASED:
        return
    earlier = _reason_without_hold(connection, payment)
    _change_hold(connection, payment, EventType.PAYMENT_HELD, UNTIL_RELEASED, cause.reason, cause, earlier)


def preview_release(connection: Connection, payment_id: UUID, now: datetime) -> WouldRelease | Refused:
    """Return what `release_payment` would do now. Reads without locks, so the result may be outdated at once."""
    payment = read_one_or_none(PaymentRow, connection.execute(select(payments).where(payments.c.id == payment_id)))
    if payment is None:
        return no_such_payment(payment_id)
    refused = _why_no_release(payment, now)
    if refused is not None:
        return refused
    if payment.held_until is None:
        raise AssertionError("a payment that is held has a hold")
    return WouldRelease(
        payment.id,
        payment.amount_minor,
        payment.currency,
        payment.state,
        payment.held_until,
        payment.state_reason,
        is_charged_at_once=payment.pending_close_as is None and job_if_due(payment, now) is not None,
    )


def release_payment(connection: Connection, payment_id: UUID, cause: Cause) -> Released | Refused:
    """Release a payment's hold, also another user's; the payment waits again for what it waited for before."""
    payment = lock_if_known(connection, payment_id)
    if payment is None:
        return no_such_payment(payment_id)
    refused = _why_no_release(payment, cause.at) if cause.reason.strip() else NO_REASON
    if refused is not None:
        record_payment_refusal(connection, payment, "release", refused, cause)
        return refused
    earlier = _reason_without_hold(connection, payment)
    _change_hold(connection, payment, EventType.HOLD_RELEASED, None, earlier, cause, earlier)
    return Released(payment.id, job_if_due(payment, cause.at))


def _why_no_release(payment: PaymentRow, now: datetime) -> Refused | None:
    if not is_held(payment.held_until, now) or payment.state in ENDED:
        return Refused("it isn't held", "nothing: its page shows the next step")
    return None


def _why_no_hold(policy: Policy, payment: PaymentRow, until: date | None, cause: Cause) -> Refused | None:
    if not cause.reason.strip():
        return NO_REASON
    if payment.state not in UNPAID:
        return Refused(f"it is {payment.state}", "nothing: it is no longer charged")
    if payment.pending_close_as is not None:
        return Refused(
            f"it is being {WORD_OF_CLOSE[payment.pending_close_as]}: it is no longer charged",
            "cancel the pending close first",
        )
    if until is None:
        return None
    today = local_date(cause.at, policy.coverage(payment.coverage).zone)
    if until <= today:
        return Refused(f"{until} has already begun (it is {today} in {payment.coverage})", "choose a later day")
    if until > today + LONGEST_HOLD:
        return Refused(
            f"{until} is more than {LONGEST_HOLD.days} days away", "hold it until it is released, or for less"
        )
    return None


def _reason_without_hold(connection: Connection, payment: PaymentRow) -> str | None:
    """Return the reason of the payment's state without the hold's own reason."""
    last = connection.execute(
        select(billing_events.c.data, billing_events.c.after)
        .where(billing_events.c.payment_id == payment.id, billing_events.c.type == EventType.PAYMENT_HELD)
        .order_by(billing_events.c.id.desc())
        .limit(1)
    ).one_or_none()
    if last is None or last.after.get("state_reason") != payment.state_reason:
        return payment.state_reason
    earlier: str | None = last.data.get("reason_without_hold")
    return earlier


def _change_hold(
    connection: Connection,
    payment: PaymentRow,
    what: EventType,
    held_until: datetime | None,
    state_reason: str | None,
    cause: Cause,
    earlier: str | None,
) -> None:
    connection.execute(
        update(payments).where(payments.c.id == payment.id).values(held_until=held_until, state_reason=state_reason)
    )
    before, after = payment.held_until, held_until
    record_payment_event(
        connection,
        payment,
        what,
        cause,
        before={
            "held_until": before.isoformat() if before else None,
            "state_reason": payment.state_reason,
        },
        after={"held_until": after.isoformat() if after else None, "state_reason": state_reason},
        data={"reason_without_hold": earlier},
    )
