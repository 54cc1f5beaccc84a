"""Gates at the processor hold a request, an answer or a webhook until a test releases it."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum

from simulator.api.errors import Answer
from simulator.faults.hooks import Arrival, Delivery, NoFaults
from tests.web.serving import wait_until


class Gate(Enum):
    """Where one can stand."""

    ARRIVAL = "a request arrived; nothing is done yet"
    ANSWER = "a request is done and its webhooks are out; the answer is not"
    WEBHOOK = "a webhook is on its way"


class Gates(NoFaults):
    """All gates of one processor. They are open until a test closes one."""

    def __init__(self) -> None:
        self._closed: dict[Gate, str] = {}
        self._standing: dict[tuple[Gate, str], tuple[asyncio.AbstractEventLoop, asyncio.Event]] = {}

    @contextmanager
    def closed(self, gate: Gate, to: str = "") -> Iterator[None]:
        """Close a gate to what has a name that ends in `to`: a path for requests, an event's id for webhooks."""
        self._closed[gate] = to
        try:
            yield
        finally:
            del self._closed[gate]
            for name in self.standing_at(gate):
                self.let_go(gate, name)

    def standing_at(self, gate: Gate) -> list[str]:
        """The names of what stands at a gate now, the first to come first."""
        return [name for at, name in list(self._standing) if at is gate]

    def wait_for_request_at(self, gate: Gate) -> None:
        wait_until(lambda: bool(self.standing_at(gate)))

    def let_go(self, gate: Gate, name: str) -> None:
        """Let one go on; returns once it has left the gate."""
        loop, opened = self._standing[gate, name]
        loop.call_soon_threadsafe(opened.set)
        wait_until(lambda: (gate, name) not in self._standing)

    async def before_apply(self, arrival: Arrival) -> Answer | None:
        await self._pass(Gate.ARRIVAL, arrival.path)
        return None

    async def before_answer(self, arrival: Arrival, answer: Answer) -> Answer:
        await self._pass(Gate.ANSWER, arrival.path)
        return answer

    async def before_delivery(self, delivery: Delivery) -> bool:
        await self._pass(Gate.WEBHOOK, delivery.event)
        return True

    async def _pass(self, gate: Gate, name: str) -> None:
        if gate not in self._closed or not name.endswith(self._closed[gate]):
            return
        opened = asyncio.Event()
        self._standing[gate, name] = (asyncio.get_running_loop(), opened)
        try:
            await opened.wait()
        finally:
            del self._standing[gate, name]
