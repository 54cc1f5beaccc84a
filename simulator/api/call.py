"""The input of a handler: the checked parameters, and the processor."""

from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, TypeVar

from simulator.api.errors import missing
from simulator.store.ids import IdMint
from simulator.store.records import Record
from simulator.store.store import Store
from simulator.webhooks.events import Cause, Outbox

R = TypeVar("R", bound=Record)

#: Declines that a PaymentIntent survives; the confirm after them cancels it. Stripe documents "a variable
#: upper limit"; ten were seen in practice (design.md of the project, I3).
CONFIRMATION_LIMIT = 10


@dataclass(frozen=True)
class Processor:
    """The parts that all requests share."""

    store: Store
    mint: IdMint
    outbox: Outbox
    confirmation_limit: int = CONFIRMATION_LIMIT


@dataclass(frozen=True)
class Call:
    """One request of one account, at one instant of the business clock (seconds)."""

    processor: Processor
    account: str
    now: int
    params: dict[str, Any]
    ids: tuple[str, ...] = ()
    path: str = ""
    request_id: str | None = None
    idempotency_key: str | None = None
    forced_decline: str | None = (
        None  # a fault: the issuer declines with this code, whatever the card would have answered
    )
    lists_until_ns: int | None = (
        None  # a fault: lists show only what was created before this instant of machine time
    )

    @property
    def store(self) -> Store:
        return self.processor.store

    @property
    def today(self) -> date:
        return datetime.fromtimestamp(self.now, UTC).date()

    def given(self, name: str) -> Any:
        """Return a parameter; None if it was not given or empty."""
        return self.params.get(name)

    def new_id(self, kind: type[Record]) -> str:
        return self.processor.mint.new(kind.PREFIX)

    def subject(self, kind: type[R]) -> R:
        """Return the object in the path; 404 if the account has none."""
        found = self.store.get(kind, self.account, self.ids[0])
        if found is None:
            raise missing(kind.NOUN, self.ids[0], "intent" if kind.NOUN.endswith("_intent") else "id")
        return found

    def named(self, kind: type[R], object_id: str, param: str) -> R:
        """Return the object that a parameter names; 400 if the account has none."""
        found = self.store.get(kind, self.account, object_id)
        if found is None or getattr(found, "is_deleted", False):
            raise missing(kind.NOUN, object_id, param, status=400)
        return found

    def emit(self, event_type: str, record: Record, previous: dict[str, Any] | None = None) -> None:
        cause = Cause(self.account, self.now, self.request_id, self.idempotency_key)
        self.processor.outbox.emit(cause, event_type, record, previous)


def merged_metadata(old: dict[str, str], given: dict[str, str | None] | None) -> dict[str, str]:
    """Set the given keys, remove keys given empty, keep the others (docs.stripe.com/api/metadata)."""
    if not given:
        return old
    return {key: value for key, value in {**old, **given}.items() if value is not None}
