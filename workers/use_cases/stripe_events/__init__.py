"""The handler of each Stripe event type; the modules here are named after what the event is about."""

from collections.abc import Callable, Mapping

from shared.operations.stripe_event_processing import Apply, Echo, StripeEvent
from shared.runtime import Runtime
from workers.use_cases.stripe_events.cards import (
    echo_of_registration,
    refresh_stored_card,
    register_card_of_setup_intent,
    retire_card,
)
from workers.use_cases.stripe_events.payment_intents import echo_of_our_request, observe_payment_intent
from workers.use_cases.stripe_events.refunds_and_disputes import observe_dispute, observe_refund

#: Retrieves the object's current state outside any transaction; what it returns writes.
Handler = Callable[[Runtime, StripeEvent], Apply]

#: The same types as in shared/gateway/stripe_event_types.py, which the web process reads; a test compares them.
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
    "charge.refunded": observe_refund,
    "charge.dispute.created": observe_dispute,  # all four: the dispute's present status decides
    "charge.dispute.closed": observe_dispute,
    "charge.dispute.funds_withdrawn": observe_dispute,
    "charge.dispute.funds_reinstated": observe_dispute,
}

#: Events that mostly echo our own requests: reading our own rows saves the request.
ECHOES: Mapping[str, Echo] = {
    "payment_method.attached": echo_of_registration,
    "payment_intent.succeeded": echo_of_our_request,
    "payment_intent.payment_failed": echo_of_our_request,
    "payment_intent.canceled": echo_of_our_request,
}

__all__ = ["ECHOES", "HANDLERS"]
