"""The hooks for faults: the points in a request and a delivery at which a fault may act.

A hook may sleep, return another answer, or raise CutConnection. ScriptedFaults (scripted.py) implements them for
rules. A test may pass hooks of its own, a subclass of NoFaults: they are called before the scripted ones.
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
    """A request as it arrived, before any check. `operation` is that of its route.

    `is_replay`: its key has a saved answer, so nothing is applied.
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
    """One attempt to deliver an event to an endpoint."""

    seq: int
    endpoint: str
    event: str
    attempts: int


@dataclass(frozen=True, slots=True)
class DamagedAnswer:
    """An answer with another body, or one that is cut in the middle."""

    answer: Answer
    body: bytes | None = None  # None: the answer's own
    is_cut: bool = False


class DeliveryFault(Enum):
    """What happens to a delivery before its first attempt."""

    NONE = "sent"
    DROP = "never sent"
    TWICE = "sent twice"
    DELAY = "sent later"
    HOLD = "sent after a later one was taken, or later"


@dataclass(frozen=True, slots=True)
class DeliveryPlan:
    """How to deliver an event. `on_effect` is called once the fault had its effect, `on_no_effect` if it can't."""

    fault: DeliveryFault = DeliveryFault.NONE
    delay_s: float = 0.0
    on_effect: Callable[[], None] = lambda: None
    on_no_effect: Callable[[], None] = lambda: None


NORMAL_DELIVERY = DeliveryPlan()

Handle = Callable[[Call], Any]


class CutConnection(Exception):  # noqa: N818
    """Close the connection without an answer, like a broken network."""


class FaultHooks(Protocol):
    async def before_apply(self, arrival: Arrival) -> Answer | None:
        """Return an answer to skip the request: nothing is applied or saved under the key."""

    def apply(self, arrival: Arrival, call: Call, handle: Handle) -> Any:
        """Process the request (`handle(call)`) or do something else; writes and answer are committed together."""

    def before_commit(self, arrival: Arrival, answer: Answer) -> Answer:
        """Change the answer that is saved under the key in the same commit (the saved 500)."""

    async def before_answer(self, arrival: Arrival, answer: Answer) -> Answer | DamagedAnswer:
        """Change or delay the answer, after the commit, the refusal or the replay."""

    def finished(self, arrival: Arrival) -> None:
        """The request is answered, refused or cut; no hook is called for it any more."""

    def plan_delivery(self, delivery: Delivery, account: str, event: Event) -> DeliveryPlan:
        """Choose how a webhook is delivered; called before its first attempt."""

    async def before_delivery(self, delivery: Delivery) -> bool:
        """Delay a webhook, or return False: nothing is sent, and the attempt counts as not taken."""


class NoFaults:
    """A processor without faults."""

    async def before_apply(self, arrival: Arrival) -> Answer | None:  # noqa: ARG002
        return None

    def apply(self, arrival: Arrival, call: Call, handle: Handle) -> Any:  # noqa: ARG002
        return handle(call)

    def before_commit(self, arrival: Arrival, answer: Answer) -> Answer:  # noqa: ARG002
        return answer

    async def before_answer(self, arrival: Arrival, answer: Answer) -> Answer | DamagedAnswer:  # noqa: ARG002
        return answer

    def finished(self, arrival: Arrival) -> None:
        pass

    def plan_delivery(self, delivery: Delivery, account: str, event: Event) -> DeliveryPlan:  # noqa: ARG002
        return NORMAL_DELIVERY

    async def before_delivery(self, delivery: Delivery) -> bool:  # noqa: ARG002
        return True
