"""Faults of requests and webhooks: a few at a time are armed as rules in the simulator, until a request meets them.

The simulator keeps rules and counts in memory. Code that kills it tells the queue, which arms the rules again.
"""

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import httpx

from local.chaos.catalogue import BY_NAME, Group
from local.chaos.company import Company
from local.chaos.plan import Planned
from simulator.client import SimulatorClient, SimulatorError
from simulator.faults.rules import FaultRule

#: Armed at once. With more, no charge would succeed; with fewer, a month's start would meet hardly any fault.
ARMED_AT_ONCE = {Group.REQUEST: 14, Group.WEBHOOK: 8}
#: Latency of every answer (ms), like a real processor's; it makes charges overlap.
LATENCY_MS = 25.0
#: A kind that rarely finds a matching request must not take all the slots.
EACH_AT_ONCE = 3


class FaultQueue:
    """The waiting and armed faults. `poll` is called a few times a second."""

    def __init__(self, company: Company, on_hit: Callable[[str, int], None]) -> None:
        """`on_hit` gets the kind and the number of faults that had their effect."""
        self._company = company
        self._on_hit = on_hit
        self._lock = threading.RLock()
        self._client: SimulatorClient | None = None
        self._waiting: deque[Planned] = deque()
        self._armed: dict[str, deque[Planned]] = {}
        self._counted: Counter[str] = Counter()
        self._requests: Counter[str] = Counter()  # of earlier simulator processes
        self._requests_now: dict[str, int] = {}
        self._is_prepared = False
        self.is_closed = False

    def add(self, faults: Iterable[Planned]) -> None:
        """Arm these as soon as slots are free."""
        with self._lock:
            self._waiting.extend(faults)

    def outstanding(self) -> Counter[str]:
        """Faults that wait or are armed and have hit nothing yet, by kind."""
        with self._lock:
            return Counter(
                fault.kind for fault in (*self._waiting, *(f for row in self._armed.values() for f in row))
            )

    def requests(self) -> int:
        """Requests that reached the processor, as counted until each kill."""
        with self._lock:
            return self._requests.total() + sum(self._requests_now.values())

    def refused_by_rate_limit(self) -> int:
        """Requests that the running processor has refused for the rate limit."""
        return int(self._simulator().fault_counts().get("rate_limit", 0))

    def set_rate_limit(self, per_second: float | None) -> None:
        """Raises httpx.HTTPError while the simulator is down; a restart removes the limit."""
        self._simulator().set_rate_limit(per_second)

    def poll(self) -> None:
        """Count the hits and arm the next faults. Does nothing while the simulator is down."""
        with self._lock:
            try:
                self._count()
                if not self.is_closed:
                    self._prepare()
                    self._arm()
            except (httpx.HTTPError, SimulatorError, ValueError):
                return

    @contextmanager
    def simulator_killed(self) -> Iterator[None]:
        """Count the hits before the kill in the block; afterwards all armed faults wait again."""
        with self._lock:
            self.poll()
            yield
            self._rearm()

    def close(self) -> None:
        """Remove every rule, and arm no more. Raises httpx.HTTPError while the simulator is down."""
        with self._lock:
            self.is_closed = True
            self._count()
            simulator = self._simulator()
            simulator.clear_faults()
            simulator.set_rate_limit(None)
            simulator.set_latency(0)

    def _count(self) -> None:
        counts = self._simulator().fault_counts()
        if any(counts.get(kind, 0) < count for kind, count in self._counted.items()):
            self._rearm()  # it restarted for another reason
        for kind, row in self._armed.items():
            new = counts.get(kind, 0) - self._counted[kind]
            if new > 0:
                self._counted[kind] += new
                self._on_hit(kind, new)
                for _ in range(min(new, len(row))):
                    row.popleft()
        self._requests_now = self._simulator().request_counts()

    def _prepare(self) -> None:
        if not self._is_prepared:
            self._simulator().set_latency(LATENCY_MS)
            self._is_prepared = True

    def _arm(self) -> None:
        slots = dict(ARMED_AT_ONCE)
        for kind, row in self._armed.items():
            slots[BY_NAME[kind].group] -= len(row)
        chosen, left = [], []
        now: Counter[str] = Counter({kind: len(row) for kind, row in self._armed.items()})
        for fault in self._waiting:
            group = BY_NAME[fault.kind].group
            if slots[group] > 0 and now[fault.kind] < EACH_AT_ONCE:
                slots[group] -= 1
                now[fault.kind] += 1
                chosen.append(fault)
            else:
                left.append(fault)
        if chosen:
            self._simulator().add_faults([rule_of(fault) for fault in chosen])
            self._waiting = deque(left)
            for fault in chosen:
                self._armed.setdefault(fault.kind, deque()).append(fault)

    def _rearm(self) -> None:
        for row in self._armed.values():
            self._waiting.extendleft(reversed(row))
        self._armed.clear()
        self._requests.update(self._requests_now)
        self._requests_now = {}
        self._counted.clear()
        self._is_prepared = False

    def _simulator(self) -> SimulatorClient:
        if self._client is None:
            self._client = self._company.simulator(timeout_s=3.0)
        return self._client


def rule_of(fault: Planned) -> FaultRule:
    """Return a planned fault as a rule of the simulator that hits once."""
    return FaultRule(kind=fault.kind, operation=fault.target or None, count=1, **dict(fault.parameters))
