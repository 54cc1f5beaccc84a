"""What a handler gets and what it gives back."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection

from shared.domain.states import Lane
from shared.messaging.jobs import ChargePayment, Job
from shared.payments.card_changes import Woken
from shared.runtime import Runtime


@dataclass(frozen=True)
class StripeEvent:
    """A stored event, claimed. `stored_at` is machine time, `stripe_created_at` the processor's."""

    coverage: str
    stripe_event_id: str
    type: str
    stripe_object_id: str
    stripe_created_at: datetime
    stored_at: datetime
    state: str
    tries: int


@dataclass(frozen=True)
class Effect:
    """What applying the event did: a note for people, whom it concerned, and whom to ring after the commit."""

    note: str
    account_id: UUID | None = None
    payment_id: UUID | None = None
    jobs: tuple[Job, ...] = ()


class LookLaterError(Exception):
    """The event can't be understood yet. Not a trouble: it comes back at `at` (machine time)."""

    def __init__(self, at: datetime, why: str) -> None:
        self.at = at
        super().__init__(why)


#: Applies what was fetched, in the transaction that also marks the event as applied. May run again after a
#: deadlock, so it touches nothing but the database.
Apply = Callable[[Connection], Effect]
#: Fetches the truth, outside any transaction.
Handler = Callable[[Runtime, StripeEvent], Apply]


@dataclass(frozen=True)
class AskAgain:
    """What an event is about is being written down at this moment: look at it at `at` (machine time)."""

    at: datetime


#: Says, in the transaction of the claim, what an event tells that we know already; None if it is worth a look.
Echo = Callable[[Connection, StripeEvent, datetime], Effect | AskAgain | None]


def nothing_but(note: str) -> Apply:
    """Return what applies an event that changes nothing."""
    return lambda _connection: Effect(note)


def effect_of(change: Woken) -> Effect:
    """Return a card change's effect: whatever it made due is charged on the interactive lane."""
    jobs = tuple(ChargePayment(payment_id, Lane.INTERACTIVE) for payment_id in change.made_due)
    return Effect(change.note, account_id=change.account_id, jobs=jobs)
