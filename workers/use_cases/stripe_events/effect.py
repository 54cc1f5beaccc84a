"""The signature of the handlers, and the effects that they return."""

from collections.abc import Callable
from datetime import datetime

from shared.domain.states import Lane
from shared.messaging.jobs import ChargePayment
from shared.operations.stripe_event_processing import Apply, Effect, StripeEvent
from shared.payments.card_changes import Woken
from shared.runtime import Runtime


class LookLaterError(Exception):
    """The event can't be applied yet. Not an error: it is due again at `at` (machine time)."""

    def __init__(self, at: datetime, why: str) -> None:
        self.at = at
        super().__init__(why)


#: Retrieves the object's current state outside any transaction; what it returns writes.
Handler = Callable[[Runtime, StripeEvent], Apply]


def nothing_but(note: str) -> Apply:
    """Return the application of an event that changes nothing."""
    return lambda _connection: Effect(note)


def effect_of(change: Woken) -> Effect:
    """Return a card change's effect: whatever it made due is charged on the interactive lane."""
    jobs = tuple(ChargePayment(payment_id, Lane.INTERACTIVE) for payment_id in change.made_due)
    return Effect(change.note, account_id=change.account_id, jobs=jobs)
