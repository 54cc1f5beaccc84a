"""Settle an attempt whose answer is missing: look the PaymentIntent up and record what it shows."""

from uuid import UUID

import structlog

from shared.db.session import in_turn
from shared.failpoints import Failpoint, reach
from shared.gateway.port import Answer, Outcome, request
from shared.payments.record_outcome import record_answer, record_observation
from shared.payments.settlement import LookUp, NeverSent, take_turn
from shared.runtime import Runtime

log = structlog.get_logger()


def settle_attempt(runtime: Runtime, attempt_id: UUID) -> None:
    """Settle one attempt. Safe to deliver twice: the first delivery takes the look-up's turn."""
    step = in_turn(
        runtime.engine,
        lambda connection: take_turn(connection, runtime, attempt_id),
        f"look-up of {attempt_id}",
        step="settle.turn",
    )
    match step:
        case None:
            return
        case NeverSent():
            answer = Answer(Outcome.NOT_SENT, "the worker was lost before it sent the request")
            record_answer(runtime, attempt_id, answer, actor="settlement")
        case LookUp():
            _look_up(runtime, attempt_id, step)
    reach(Failpoint.SETTLE_RECORDED)


def _look_up(runtime: Runtime, attempt_id: UUID, step: LookUp) -> None:
    gateway = runtime.gateways.get(step.coverage)
    if gateway is None:
        log.error("settlement.no_key", coverage=step.coverage, do="add it to STRIPE_API_KEYS")
        return
    answer = request("settle.look_up", gateway.retrieve_payment_intent, step.stripe_payment_intent_id)
    if answer.payment_intent is None:
        log.warning("settlement.no_answer", attempt_id=str(attempt_id), reason=answer.reason)
        return
    record_observation(runtime, step.payment_intent_id, answer, actor="settlement")
