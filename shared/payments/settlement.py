"""Settlement: decide under locks whether an attempt without an answer is looked up now, and when next.

Raises an alert for an attempt whose outcome has been unknown for long.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import structlog
from sqlalchemy import Connection, func, select, update

from shared.clock import has_come
from shared.db.billing_events import BillingEvent, record_event
from shared.db.rows import AttemptRow, PaymentIntentRow, PaymentRow, read_one
from shared.db.tables.payments import payment_attempts, payment_intents
from shared.db.tables.system import billing_events
from shared.domain.event_types import EventType
from shared.domain.states import OPEN_ATTEMPT, AttemptState
from shared.payments.locked_rows import lock_attempt, lock_payment
from shared.payments.record_outcome import LOOK_UP_BACKOFF
from shared.runtime import Runtime

log = structlog.get_logger()

#: Machine time. Outages of an hour are rare; one that lasts days raises an alert each day.
FIRST_ALERT, ALERT_AGAIN = timedelta(hours=1), timedelta(days=1)


@dataclass(frozen=True)
class LookUp:
    """A PaymentIntent to retrieve for an unknown attempt."""

    coverage: str
    payment_intent_id: UUID
    stripe_payment_intent_id: str


@dataclass(frozen=True)
class NeverSent:
    """The worker was lost before it sent a confirm: no look-up is needed."""


def take_turn(connection: Connection, runtime: Runtime, attempt_id: UUID) -> LookUp | NeverSent | None:
    """Decide under locks what to do now, and schedule the next look-up. None: nothing is due."""
    machine_now = runtime.machine_now()
    payment_id = connection.scalar(select(payment_attempts.c.payment_id).where(payment_attempts.c.id == attempt_id))
    if payment_id is None:
        return None
    payment = lock_payment(connection, payment_id)
    attempt = lock_attempt(connection, attempt_id)
    _shorten_lease(connection, attempt, machine_now + runtime.lease)
    is_expired = attempt.state == AttemptState.STARTED and attempt.lease_expires_at <= machine_now
    is_look_up_due = (
        attempt.state == AttemptState.UNKNOWN
        and attempt.look_up_at is not None
        and has_come(attempt.look_up_at, machine_now)
    )
    if not (is_expired or is_look_up_due):
        return None
    look_ups = attempt.look_ups + 1
    look_up_at = machine_now + LOOK_UP_BACKOFF.after(look_ups)
    # Unknown from here on, so that a worker which resumes late finds the attempt taken and sends nothing.
    connection.execute(
        update(payment_attempts)
        .where(payment_attempts.c.id == attempt_id)
        .values(state=AttemptState.UNKNOWN, look_up_at=look_up_at, look_ups=look_ups)
    )
    if is_expired:
        record_event(
            connection,
            BillingEvent(
                type=EventType.ATTEMPT_BECAME_UNKNOWN,
                at=runtime.clock.now(),
                actor="settlement",
                reason="its lease expired without an answer",
                account_id=payment.account_id,
                payment_id=payment.id,
                attempt_id=attempt_id,
                before={"state": AttemptState.STARTED},
                after={"state": AttemptState.UNKNOWN},
            ),
        )
    _raise_alert(connection, runtime, payment, attempt)
    found = connection.execute(select(payment_intents).where(payment_intents.c.id == attempt.payment_intent_id))
    intent = read_one(PaymentIntentRow, found)
    if attempt.confirm_allowed_at is None or intent.stripe_payment_intent_id is None:
        return NeverSent()
    return LookUp(attempt.coverage, intent.id, intent.stripe_payment_intent_id)


def _shorten_lease(connection: Connection, attempt: AttemptRow, longest: datetime) -> None:
    """Limit a lease to what one would get now: it is longer only if the machine's clock was set back since."""
    connection.execute(
        update(payment_attempts)
        .where(
            payment_attempts.c.id == attempt.id,
            payment_attempts.c.state.in_(OPEN_ATTEMPT),
            payment_attempts.c.lease_expires_at > longest,
        )
        .values(lease_expires_at=longest)
    )


def _raise_alert(connection: Connection, runtime: Runtime, payment: PaymentRow, attempt: AttemptRow) -> None:
    """Raise an alert once an outcome has been unknown for an hour, and again for each day of it."""
    age = runtime.machine_now() - attempt.created_at
    due = alerts_due(age)
    if due == 0:
        return
    given: int = connection.execute(
        select(func.count()).where(
            billing_events.c.payment_id == payment.id,
            billing_events.c.attempt_id == attempt.id,
            billing_events.c.type == EventType.ATTEMPT_UNKNOWN_FOR_LONG,
        )
    ).scalar_one()
    if given >= due:
        return
    hours = int(age.total_seconds() // 3600)
    reason = f"the outcome has been unknown for {hours} h, after {attempt.look_ups} look-ups"
    log.error("settlement.unknown_for_long", payment_id=str(payment.id), attempt_id=str(attempt.id), hours=hours)
    record_event(
        connection,
        BillingEvent(
            type=EventType.ATTEMPT_UNKNOWN_FOR_LONG,
            at=runtime.clock.now(),
            actor="settlement",
            reason=reason,
            account_id=payment.account_id,
            payment_id=payment.id,
            attempt_id=attempt.id,
            data={"hours": hours, "look_ups": attempt.look_ups},
        ),
    )


def alerts_due(age: timedelta) -> int:
    """How many alerts an attempt with an unknown outcome should have raised at this age (machine time)."""
    return 0 if age < FIRST_ALERT else 1 + age // ALERT_AGAIN
