"""The Stripe event types that we process; the web process stores every other type as ignored.

Defined here rather than beside the handlers, because web never imports workers. A test compares the two lists.
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
        "charge.refunded",
        "charge.dispute.created",
        "charge.dispute.closed",
        "charge.dispute.funds_withdrawn",
        "charge.dispute.funds_reinstated",
    }
)

#: Events that mostly echo our own request: our confirm, or the registration of the card that was attached. The
#: sweep
#: enqueues these a little later, unless our own rows show that they are done. The web process enqueues the others
#: at
#: once, because a customer or operator waits for them.
ECHO_EVENT_TYPES = frozenset(
    {
        "payment_method.attached",
        "payment_intent.succeeded",
        "payment_intent.payment_failed",
        "payment_intent.canceled",
    }
)
