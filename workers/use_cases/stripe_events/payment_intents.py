"""A PaymentIntent changed. The webhook is only a hint to retrieve it; recording decides what follows."""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, ScalarSelect, and_, select

from shared.db.tables.payments import payment_attempts, payment_intents
from shared.domain.states import OPEN_ATTEMPT, AttemptState
from shared.gateway.port import GatewayMissingError, GatewayRefusedError, GatewayUnavailableError, request
from shared.operations.stripe_event_processing import Apply, Effect, ProcessAgain, StripeEvent, nothing_but
from shared.payments.record_outcome import apply_observation
from shared.runtime import Runtime

DECLINED = "payment_intent.payment_failed"
#: Machine time within which nearly every answer is recorded; after it the PaymentIntent is retrieved.
ANSWERS_COME_WITHIN = timedelta(seconds=10)
#: Answers to a read that waiting doesn't change: our request or our key is wrong.
REFUSED = (400, 401, 403)
#: Reasons that Stripe showed. A PaymentIntent that *we* gave up (abandoned) may still be confirmed at Stripe.
FINAL = ("succeeded", "canceled")
_ATTEMPTS = payment_attempts.alias("attempts_of_intent")
NOT_OURS = "not ours: no payment has this PaymentIntent"


def echo_of_our_request(
    connection: Connection, event: StripeEvent, machine_now: datetime
) -> Effect | ProcessAgain | None:
    """Return the effect of an event that tells nothing new; None if its PaymentIntent has to be retrieved.

    Most events only echo our own confirm. Succeeded and canceled are final at Stripe and already recorded here; of
    a PaymentIntent that we abandoned, the event may be the only news of money. A decline closes nothing inside a
    lease (I5), and outside of one there is no attempt to close. An event that overtakes the answer to a request
    sent just now is processed a little later.
    """
    ours = _find(connection, event)
    if ours is None:
        return Effect(NOT_OURS)
    if ours.closed_reason in FINAL:
        return Effect(
            f"already known: the PaymentIntent is {ours.closed_reason}",
            payment_id=ours.payment_id,
            attempt_id=ours.attempt_id,
        )
    has_expired_attempt = ours.lease_expires_at is not None and ours.lease_expires_at <= machine_now
    if event.type == DECLINED and not has_expired_attempt:
        return Effect(
            "nothing new: the answer to our request records this decline",
            payment_id=ours.payment_id,
            attempt_id=ours.attempt_id,
        )
    if ours.state == AttemptState.STARTED and ours.confirm_allowed_at is not None:
        recorded_at = ours.confirm_allowed_at + ANSWERS_COME_WITHIN
        return ProcessAgain(recorded_at) if machine_now < recorded_at else None
    return None


def observe_payment_intent(runtime: Runtime, event: StripeEvent) -> Apply:
    """Retrieve a PaymentIntent of ours; its state is recorded in the transaction that applies the event."""
    with runtime.engine.connect() as connection:
        ours = _find(connection, event)
    if ours is None:
        return nothing_but(NOT_OURS)
    gateway = runtime.gateways[event.coverage]
    answer = request("event.payment_intent", gateway.retrieve_payment_intent, event.stripe_object_id)
    if answer.payment_intent is None:
        if answer.http_status == 404:
            raise GatewayMissingError(answer.reason)
        if answer.http_status in REFUSED:
            raise GatewayRefusedError(answer.reason, http_status=answer.http_status)
        raise GatewayUnavailableError(answer.reason)
    note = f"retrieved the PaymentIntent: {answer.payment_intent.status}"

    def apply(connection: Connection) -> Effect:
        jobs = apply_observation(connection, runtime, ours.id, answer, actor="stripe")
        return Effect(note, payment_id=ours.payment_id, attempt_id=ours.attempt_id, jobs=jobs)

    return apply


def _find(connection: Connection, event: StripeEvent) -> Row[Any, Any, Any, Any, Any, Any, Any] | None:
    """Our row of the event's PaymentIntent, with the lease of its open attempt if there is one.

    `attempt_id` is the attempt that the event is about: the last that had begun when Stripe made the event, whose
    instants are whole seconds.
    """
    has_open_attempt = and_(
        payment_attempts.c.payment_intent_id == payment_intents.c.id, payment_attempts.c.state.in_(OPEN_ATTEMPT)
    )
    return connection.execute(
        select(
            payment_intents.c.id,
            payment_intents.c.payment_id,
            payment_intents.c.closed_reason,
            payment_attempts.c.lease_expires_at,
            payment_attempts.c.confirm_allowed_at,
            payment_attempts.c.state,
            _attempt_of(event).label("attempt_id"),
        )
        .outerjoin(payment_attempts, has_open_attempt)
        .where(
            payment_intents.c.coverage == event.coverage,
            payment_intents.c.stripe_payment_intent_id == event.stripe_object_id,
        )
    ).one_or_none()


def _attempt_of(event: StripeEvent) -> ScalarSelect[Any]:
    had_begun = _ATTEMPTS.c.started_at < event.stripe_created_at + timedelta(seconds=1)
    return (
        select(_ATTEMPTS.c.id)
        .where(
            _ATTEMPTS.c.payment_id == payment_intents.c.payment_id,
            _ATTEMPTS.c.payment_intent_id == payment_intents.c.id,
        )
        .order_by(had_begun.desc(), _ATTEMPTS.c.number.desc())
        .limit(1)
        .correlate(payment_intents)
        .scalar_subquery()
    )
