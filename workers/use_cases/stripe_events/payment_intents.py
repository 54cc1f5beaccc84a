"""Something became of a PaymentIntent. The webhook is only a hint to look at it; record decides what follows."""

from sqlalchemy import select

from shared.collection.record import record_observation
from shared.db.tables import payment_intents
from shared.gateway.port import GatewayMissingError, GatewayUnavailableError
from shared.runtime import Runtime
from workers.use_cases.stripe_events.effect import Apply, Effect, StripeEvent, nothing_but


def observe_payment_intent(runtime: Runtime, event: StripeEvent) -> Apply:
    """Retrieve a PaymentIntent of ours and hand it to record, which has a transaction of its own.

    Recording the same answer twice changes nothing, so a crash between the two transactions does no harm.
    """
    with runtime.engine.connect() as connection:
        ours = connection.execute(
            select(payment_intents.c.id, payment_intents.c.payment_id, payment_intents.c.closed_reason).where(
                payment_intents.c.coverage == event.coverage,
                payment_intents.c.stripe_payment_intent_id == event.stripe_object_id,
            )
        ).one_or_none()
    if ours is None:
        return nothing_but("not ours: no payment has this PaymentIntent")
    if ours.closed_reason is not None:
        # Succeeded and canceled are final at Stripe, and we were shown it: most events only echo our own confirm.
        note = f"known already: the PaymentIntent is {ours.closed_reason}"
        return lambda _connection: Effect(note, payment_id=ours.payment_id)
    answer = runtime.gateways[event.coverage].retrieve_payment_intent(event.stripe_object_id)
    if answer.payment_intent is None:
        error = GatewayMissingError if answer.http_status == 404 else GatewayUnavailableError
        raise error(answer.reason)
    record_observation(runtime, ours.id, answer, actor="stripe")
    note = f"looked at the PaymentIntent: {answer.payment_intent.status}"
    return lambda _connection: Effect(note, payment_id=ours.payment_id)
