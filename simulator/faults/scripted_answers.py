"""The door for faults: the places where one can step in. simulator/faults/scripted.py is what stands there.

A fault may sleep, answer something else, or raise CutConnection. A test may bring faults of its own as a
subclass of NoFaults: they are asked before the scripted ones.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from simulator.api.call import Call
from simulator.api.errors import Answer
from simulator.store.records import Event


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request as it came in, before anything was believed of it. `operation` is its route's.

    `is_replay`: its key has a saved answer, which is all that it will get.
    """

    arrived_ns: int
    method: str
    path: str
    account: str
    idempotency_key: str | None
    form: str
    request_id: str = ""
    operation: str = "other"
    ids: tuple[str, ...] = ()
    is_replay: bool = False


@dataclass(frozen=True, slots=True)
class Delivery:
    """One attempt to bring an event to an endpoint."""

    seq: int
    endpoint: str
    event: str
    attempts: int


@dataclass(frozen=True, slots=True)
class Spoiled:
    """An answer whose bytes aren't those of Stripe: another body, or one that breaks off in the middle."""

    answer: Answer
    body: bytes | None = None  # None: the answer's own
    is_cut: bool = False


class Detour(Enum):
    """What becomes of a delivery before its first attempt."""

    NONE = "sent"
    DROP = "never sent"
    TWICE = "sent twice"
    DELAY = "sent later"
    HOLD = "sent after a later one was taken, or later"


@dataclass(frozen=True, slots=True)
class Way:
    """A detour with its delay in seconds; `landed` is told once it had its effect, `missed` if it never will."""

    detour: Detour = Detour.NONE
    delay_s: float = 0.0
    landed: Callable[[], None] = lambda: None
    missed: Callable[[], None] = lambda: None


STRAIGHT = Way()

Handle = Callable[[Call], Any]


class CutConnection(Exception):  # noqa: N818
    """Close the connection without an answer, as a network does."""


class Faults(Protocol):
    async def before_apply(self, arrival: Arrival) -> Answer | None:
        """Answer instead of doing anything. Nothing is applied, nothing is saved under the key."""

    def apply(self, arrival: Arrival, call: Call, handle: Handle) -> Any:
        """Do what is asked (`handle(call)`) or something else; writes and answer are kept together."""

    def before_commit(self, arrival: Arrival, answer: Answer) -> Answer:
        """Change the answer that is saved under the key together with what was done (the saved 500)."""

    async def before_answer(self, arrival: Arrival, answer: Answer) -> Answer | Spoiled:
        """Change or delay the answer of what is done and committed, refused or replayed."""

    def finished(self, arrival: Arrival) -> None:
        """The request is answered, refused or cut: nothing more will be asked about it."""

    def way_of(self, delivery: Delivery, account: str, event: Event) -> Way:
        """Say which way a webhook takes; asked before its first attempt."""

    async def before_delivery(self, delivery: Delivery) -> bool:
        """Delay a webhook, or return False: this attempt counts as not taken, though nothing was sent."""


class NoFaults:
    """A processor without faults."""

    async def before_apply(self, arrival: Arrival) -> Answer | None:  # noqa: ARG002
        return None

    def apply(self, arrival: Arrival, call: Call, handle: Handle) -> Any:  # noqa: ARG002
        return handle(call)

    def before_commit(self, arrival: Arrival, answer: Answer) -> Answer:  # noqa: ARG002
        return answer

    async def before_answer(self, arrival: Arrival, answer: Answer) -> Answer | Spoiled:  # noqa: ARG002
        return answer

    def finished(self, arrival: Arrival) -> None:
        pass

    def way_of(self, delivery: Delivery, account: str, event: Event) -> Way:  # noqa: ARG002
        return STRAIGHT

    async def before_delivery(self, delivery: Delivery) -> bool:  # noqa: ARG002
        return True
