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

#: News that mostly echoes what is being written down already: our own confirm, or the registration of the card that
#: was attached. The sweep rings for these a little later, when a look at our own rows says so; for the others,
#: which somebody waits for, the web process rings at once.
ECHO_EVENT_TYPES = frozenset(
    {
        "payment_method.attached",
        "payment_intent.succeeded",
        "payment_intent.payment_failed",
        "payment_intent.canceled",
    }
)
