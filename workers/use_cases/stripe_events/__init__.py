"""What each Stripe event leads to: one table, and beside it the handlers by the object that they look at."""

from collections.abc import Mapping

from workers.use_cases.stripe_events.effect import Handler
from workers.use_cases.stripe_events.payment_intents import observe_payment_intent
from workers.use_cases.stripe_events.payment_methods import refresh_stored_card, retire_card
from workers.use_cases.stripe_events.setup_intents import register_card_of_setup_intent

#: The same types as in shared/stripe_event_types.py, which the web process reads; a test compares them.
HANDLERS: Mapping[str, Handler] = {
    "setup_intent.succeeded": register_card_of_setup_intent,  # the only one that makes a card primary
    "payment_method.attached": refresh_stored_card,  # stores, no more: consent comes with the SetupIntent
    "payment_method.detached": retire_card,
    "payment_method.updated": refresh_stored_card,
    "payment_method.automatically_updated": refresh_stored_card,  # the network's updater: often a new expiry
    "payment_intent.succeeded": observe_payment_intent,  # all four: the PaymentIntent's present status decides
    "payment_intent.payment_failed": observe_payment_intent,
    "payment_intent.canceled": observe_payment_intent,
    "payment_intent.requires_action": observe_payment_intent,
}

__all__ = ["HANDLERS"]
