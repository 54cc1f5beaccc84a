"""Settle an attempt whose answer is missing: look the PaymentIntent up and record what it shows."""

from dataclasses import dataclass
from uuid import UUID

import structlog
from sqlalchemy import Connection, select, update

from shared.collection.payments import lock_payment
from shared.collection.record import FIRST_LOOK_UP, LONGEST_LOOK_UP, record_answer, record_observation
from shared.db.session import in_transaction
from shared.db.tables import payment_attempts, payment_intents
from shared.db.trail import TrailEvent, record_event
from shared.domain.states import AttemptState
from shared.gateway.port import Answer, Outcome
from shared.runtime import Runtime

log = structlog.get_logger()


@dataclass(frozen=True)
class LookUp:
    """A PaymentIntent to retrieve for an unknown attempt."""

    coverage: str
    payment_intent_id: UUID
    stripe_payment_intent_id: str


@dataclass(frozen=True)
class NeverAsked:
    """The worker was lost before it could ask an issuer: certain without a look."""


def settle_attempt(runtime: Runtime, attempt_id: UUID) -> None:
    """Find out what became of an attempt. Safe to deliver twice: the first takes the look-up's turn."""
    step = in_transaction(runtime.engine, lambda connection: _take_turn(connection, runtime, attempt_id))
    match step:
        case None:
            return
        case NeverAsked():
            answer = Answer(Outcome.NOT_SENT, "the worker was lost before it could ask")
            record_answer(runtime, attempt_id, answer, actor="settlement")
        case LookUp():
            _look_up(runtime, attempt_id, step)


def _take_turn(connection: Connection, runtime: Runtime, attempt_id: UUID) -> LookUp | NeverAsked | None:
    """Decide under the lock what to do now, and push the next look-up into the future."""
    machine_now = runtime.machine_now()
    payment_id = connection.scalar(select(payment_attempts.c.payment_id).where(payment_attempts.c.id == attempt_id))
    if payment_id is None:
        return None
    payment = lock_payment(connection, payment_id)
    attempt = connection.execute(
        select(payment_attempts).where(payment_attempts.c.id == attempt_id).with_for_update()
    ).one()
    is_expired = attempt.state == AttemptState.STARTED and attempt.lease_expires_at <= machine_now
    is_unknown = attempt.state == AttemptState.UNKNOWN and attempt.look_up_at <= machine_now
    if not (is_expired or is_unknown):
        return None
    # Unknown from here on, so that a worker which wakes up late finds the attempt taken and sends nothing.
    wait = min(LONGEST_LOOK_UP, FIRST_LOOK_UP * 2 ** min(attempt.look_ups, 12))
    connection.execute(
        update(payment_attempts)
        .where(payment_attempts.c.id == attempt_id)
        .values(state=AttemptState.UNKNOWN, look_up_at=machine_now + wait, look_ups=attempt.look_ups + 1)
    )
    if is_expired:
        record_event(
            connection,
            TrailEvent(
                type="attempt_became_unknown",
                at=runtime.clock.now(),
                actor="settlement",
                reason="its lease ran out without an answer",
                account_id=payment.account_id,
                payment_id=payment.id,
                attempt_id=attempt_id,
                before={"state": AttemptState.STARTED},
                after={"state": AttemptState.UNKNOWN},
            ),
        )
    intent = connection.execute(
        select(payment_intents).where(payment_intents.c.id == attempt.payment_intent_id)
    ).one()
    if attempt.confirm_allowed_at is None or intent.stripe_payment_intent_id is None:
        return NeverAsked()
    return LookUp(attempt.coverage, intent.id, intent.stripe_payment_intent_id)


def _look_up(runtime: Runtime, attempt_id: UUID, step: LookUp) -> None:
    gateway = runtime.gateways.get(step.coverage)
    if gateway is None:
        log.error("settlement.no_key", coverage=step.coverage, do="add it to STRIPE_API_KEYS")
        return
    answer = gateway.retrieve_payment_intent(step.stripe_payment_intent_id)
    if answer.payment_intent is None:
        log.warning("settlement.no_answer", attempt_id=str(attempt_id), reason=answer.reason)
        return
    record_observation(runtime, step.payment_intent_id, answer, actor="settlement")
