"""The door for scripted faults: the four places where one can step in. Nothing is scripted yet.

A fault may sleep, answer something else, or raise CutConnection.
"""

from dataclasses import dataclass
from typing import Protocol

from simulator.errors import Answer


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request as it came in, before anything was believed of it."""

    arrived_ns: int
    method: str
    path: str
    account: str
    idempotency_key: str | None
    form: str


@dataclass(frozen=True, slots=True)
class Delivery:
    """One attempt to bring an event to an endpoint."""

    seq: int
    endpoint: str
    event: str
    attempts: int


class CutConnection(Exception):  # noqa: N818
    """Close the connection without an answer, as a network does."""


class Faults(Protocol):
    async def before_apply(self, arrival: Arrival) -> Answer | None:
        """Answer instead of doing anything. Nothing is applied, nothing is saved under the key."""

    def before_commit(self, arrival: Arrival, answer: Answer) -> Answer:
        """Change the answer that is saved under the key together with what was done (the saved 500)."""

    async def before_answer(self, arrival: Arrival, answer: Answer) -> Answer:
        """Change or delay the answer of what is done and committed."""

    async def before_delivery(self, delivery: Delivery) -> bool:
        """Delay a webhook, or return False to count this attempt as failed without sending it."""


class NoFaults:
    """A processor without faults."""

    async def before_apply(self, arrival: Arrival) -> Answer | None:  # noqa: ARG002
        return None

    def before_commit(self, arrival: Arrival, answer: Answer) -> Answer:  # noqa: ARG002
        return answer

    async def before_answer(self, arrival: Arrival, answer: Answer) -> Answer:  # noqa: ARG002
        return answer

    async def before_delivery(self, delivery: Delivery) -> bool:  # noqa: ARG002
        return True
