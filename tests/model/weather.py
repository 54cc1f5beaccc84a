"""Faults between us and the processor: answers lost, wrong or refused, and late requests.

Troubles are the simulator's own scripted faults. `late` is ours, and the nastiest: the connection is cut before
the request is applied, its sender gives it up, and it reaches the processor when the test says so.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from simulator.api.errors import Answer
from simulator.client import ScriptedFault, SimulatorClient
from simulator.faults.catalogue import FAULTS, REQUEST_FAULTS
from simulator.faults.hooks import Arrival, CutConnection, NoFaults
from simulator.faults.rules import FaultRule

LATE = "late"
#: Every kind of trouble with every operation that it fits. Those that only wait are left out: an answer that comes
#: too late is one that is cut, and a request that does is `late`.
TROUBLES: tuple[tuple[str, str], ...] = (
    *((LATE, operation) for operation in ("create", "confirm", "cancel")),
    *(
        (kind, operation)
        for kind in sorted(REQUEST_FAULTS)
        if not FAULTS[kind].needs_delay
        for operation in sorted(FAULTS[kind].operations)
    ),
)
#: What loses the answer to a request that matters, or the request itself: drawn as often as all others together.
LOST_ANSWERS: tuple[tuple[str, str], ...] = tuple(
    (kind, operation)
    for kind in ("cut_before", "cut_after", "not_json", "server_error", LATE)
    for operation in ("create", "confirm")
)


class Weather(NoFaults):
    """All troubles of one simulator. Only one thread's request is under way at a time."""

    def __init__(self) -> None:
        self.simulator: SimulatorClient
        self.late: list[Arrival] = []
        self.applied = 0  # requests that may have changed the processor's records
        self.is_fair = True
        self._make_late: dict[str, int] = {}

    def add(self, kind: str, operation: str, times: int) -> None:
        """Let trouble strike the next `times` requests of an operation."""
        self.is_fair = False
        if kind == LATE:
            self._make_late[operation] = times
            return
        self.simulator.add_faults([FaultRule(kind, operation=operation, count=times)])

    def clear(self) -> None:
        """Fair weather; what is late stays under way."""
        if not self.is_fair:
            self.simulator.clear_faults()
        self._make_late.clear()
        self.is_fair = True

    @contextmanager
    def parted(self) -> Iterator[None]:
        """No trouble strikes meanwhile: for requests that aren't our workers'."""
        if self.is_fair:
            yield
            return
        in_force, late = self.simulator.fault_rules(), self._make_late
        self.simulator.clear_faults()
        self._make_late = {}
        yield
        self._make_late = late
        left = [replace(one.rule, count=(one.rule.count or 0) - one.hits) for one in in_force if not _is_over(one)]
        self.simulator.add_faults(left)

    async def before_apply(self, arrival: Arrival) -> Answer | None:
        times = self._make_late.get(arrival.operation, 0)
        if not times:
            return None
        self._make_late[arrival.operation] = times - 1
        self.late.append(arrival)
        raise CutConnection(LATE)

    def before_commit(self, _arrival: Arrival, answer: Answer) -> Answer:
        self.applied += 1
        return answer


def _is_over(fault: ScriptedFault) -> bool:
    return fault.rule.count is not None and fault.hits >= fault.rule.count
