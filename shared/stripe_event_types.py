"""The Stripe event types that we act on: the web process stores every other type as ignored.

Here rather than beside the handlers, because web never imports workers; a test holds the two lists together.
"""

HANDLED_EVENT_TYPES = frozenset(
    {
        "setup_intent.succeeded",
        "payment_method.attached",
        "payment_method.detached",
        "payment_method.updated",
        "payment_method.automatically_updated",
        "payment_intent.succeeded",
        "payment_intent.payment_failed",
        "payment_intent.canceled",
        "payment_intent.requires_action",
    }
)
