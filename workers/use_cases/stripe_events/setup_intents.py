"""A customer registered a card."""

from shared.accounts.cards import find_card, register_card
from shared.accounts.registrations import read_registration
from shared.gateway.port import request
from shared.operations.stripe_event_processing import Apply, StripeEvent
from shared.payments.card_changes import wake_payments
from shared.runtime import Runtime
from workers.use_cases.stripe_events.effect import effect_of, nothing_but


def register_card_of_setup_intent(runtime: Runtime, event: StripeEvent) -> Apply:
    """Retrieve the SetupIntent, then its card's current state: it may be detached again."""
    gateway = runtime.gateways[event.coverage]
    setup_intent = request("event.setup_intent", gateway.retrieve_setup_intent, event.stripe_object_id)
    registration = read_registration(event.coverage, setup_intent, event.stripe_created_at)
    if isinstance(registration, str):
        return nothing_but(registration)
    with runtime.engine.connect() as connection:
        known = find_card(connection, event.coverage, registration.stripe_payment_method_id)
    card = request("event.new_card", gateway.retrieve_card, registration.stripe_payment_method_id)
    now = runtime.clock.now()
    return lambda connection: effect_of(
        wake_payments(connection, register_card(connection, registration, card, known, now))
    )
