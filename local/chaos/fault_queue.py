"""Faults of requests and webhooks: they wait armed in the simulator, a few at a time, until something meets them.

The simulator keeps rules and counts in memory. Whoever kills it tells the armoury, which arms again afterwards.
"""

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import httpx

from local.chaos.company import Company
from local.chaos.kinds import BY_NAME, Group
from local.chaos.plan import Planned
from simulator.client import SimulatorClient, SimulatorError
from simulator.faults.rules import FaultRule

#: Armed at once: more, and nothing would succeed; fewer, and a month's start would pass in peace.
ARMED_AT_ONCE = {Group.REQUEST: 14, Group.WEBHOOK: 8}
#: A processor is never quicker than this (ms); it is what makes charges overlap.
LATENCY_MS = 25.0
#: A kind that lags behind others for lack of fitting requests must not keep their places.
EACH_AT_ONCE = 3


class FaultQueue:
    """What is armed and what hit. `look` is called a few times a second."""

    def __init__(self, company: Company, on_hit: Callable[[str, int], None]) -> None:
        """`on_hit` gets the kind and the number of faults that had their effect."""
        self._company = company
        self._on_hit = on_hit
        self._lock = threading.RLock()
        self._client: SimulatorClient | None = None
        self._waiting: deque[Planned] = deque()
        self._armed: dict[str, deque[Planned]] = {}
        self._seen: Counter[str] = Counter()
        self._requests: Counter[str] = Counter()  # of simulators that are gone
        self._requests_now: dict[str, int] = {}
        self._is_prepared = False
        self.is_closed = False

    def add(self, faults: Iterable[Planned]) -> None:
        """Arm these as soon as there is room."""
        with self._lock:
            self._waiting.extend(faults)

    def outstanding(self) -> Counter[str]:
        """What waits or is armed and has hit nothing yet, by kind."""
        with self._lock:
            return Counter(
                fault.kind for fault in (*self._waiting, *(f for row in self._armed.values() for f in row))
            )

    def requests(self) -> int:
        """Requests that reached the processor, as far as they were counted before it was killed."""
        with self._lock:
            return self._requests.total() + sum(self._requests_now.values())

    def refused_by_rate_limit(self) -> int:
        """Requests that the processor as it runs now has refused for the rate limit."""
        return int(self._simulator().fault_counts().get("rate_limit", 0))

    def set_rate_limit(self, per_second: float | None) -> None:
        """Raises httpx.HTTPError while the simulator is away, whose limit is then gone."""
        self._simulator().set_rate_limit(per_second)

    def look(self) -> None:
        """Count what hit, and arm what is next. Does nothing while the simulator is away."""
        with self._lock:
            try:
                self._count()
                if not self.is_closed:
                    self._prepare()
                    self._arm()
            except (httpx.HTTPError, SimulatorError, ValueError):
                return

    @contextmanager
    def simulator_dies(self) -> Iterator[None]:
        """Count for the last time; afterwards all that was armed waits again."""
        with self._lock:
            self.look()
            yield
            self._start_over()

    def close(self) -> None:
        """Take every rule away, and arm no more. Raises httpx.HTTPError while the simulator is away."""
        with self._lock:
            self.is_closed = True
            self._count()
            simulator = self._simulator()
            simulator.clear_faults()
            simulator.set_rate_limit(None)
            simulator.set_latency(0)

    def _count(self) -> None:
        counts = self._simulator().fault_counts()
        if any(counts.get(kind, 0) < count for kind, count in self._seen.items()):
            self._start_over()  # it died without our doing
        for kind, row in self._armed.items():
            new = counts.get(kind, 0) - self._seen[kind]
            if new > 0:
                self._seen[kind] += new
                self._on_hit(kind, new)
                for _ in range(min(new, len(row))):
                    row.popleft()
        self._requests_now = self._simulator().request_counts()

    def _prepare(self) -> None:
        if not self._is_prepared:
            self._simulator().set_latency(LATENCY_MS)
            self._is_prepared = True

    def _arm(self) -> None:
        room = dict(ARMED_AT_ONCE)
        for kind, row in self._armed.items():
            room[BY_NAME[kind].group] -= len(row)
        chosen, left = [], []
        now: Counter[str] = Counter({kind: len(row) for kind, row in self._armed.items()})
        for fault in self._waiting:
            group = BY_NAME[fault.kind].group
            if room[group] > 0 and now[fault.kind] < EACH_AT_ONCE:
                room[group] -= 1
                now[fault.kind] += 1
                chosen.append(fault)
            else:
                left.append(fault)
        if chosen:
            self._simulator().add_faults([rule_of(fault) for fault in chosen])
            self._waiting = deque(left)
            for fault in chosen:
                self._armed.setdefault(fault.kind, deque()).append(fault)

    def _start_over(self) -> None:
        for row in self._armed.values():
            self._waiting.extendleft(reversed(row))
        self._armed.clear()
        self._requests.update(self._requests_now)
        self._requests_now = {}
        self._seen.clear()
        self._is_prepared = False

    def _simulator(self) -> SimulatorClient:
        if self._client is None:
            self._client = self._company.simulator(timeout_s=3.0)
        return self._client


def rule_of(fault: Planned) -> FaultRule:
    """Write a planned fault as the simulator's rule: it hits once."""
    return FaultRule(kind=fault.kind, operation=fault.target or None, count=1, **dict(fault.parameters))
