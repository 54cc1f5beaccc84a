"""What every fault needs: the company, the fault queue, and the record of the faults that hit."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

import httpx
import redis
from sqlalchemy.exc import SQLAlchemyError

from local.chaos.company import Company
from local.chaos.fault_queue import FaultQueue
from local.chaos.plan import Planned
from shared.gateway.port import GatewayUnavailableError
from shared.scheduling.virtual_clock import read_clock
from simulator.client import SimulatorError

#: How long an injection is retried: its target may be down.
TRY_FOR_S = 20.0
RETRY_AFTER_S = 0.25


class NotPossibleNow(Exception):  # noqa: N818  # no error: the target isn't there at this moment
    """The fault can't be injected now; it may be possible in a moment."""


#: Errors that faults cause in chaos itself. Any other error is a defect, and is raised.
EXPECTED_ERRORS = (
    NotPossibleNow,
    SQLAlchemyError,
    redis.RedisError,
    httpx.HTTPError,
    SimulatorError,
    GatewayUnavailableError,
    OSError,
    ValueError,  # an answer of the simulator that was cut off
)


@dataclass(frozen=True)
class Hit:
    """Faults of a kind that had their effect, `at_s` seconds after the first fault."""

    at_s: float
    kind: str
    count: int = 1


@dataclass
class ChaosContext:
    """The state of a run. Used from several threads."""

    company: Company
    began: float = field(default_factory=time.monotonic)
    draining: threading.Event = field(default_factory=threading.Event)
    hits: list[Hit] = field(default_factory=list)
    running_since: dict[str, tuple[int, float]] = field(default_factory=dict)  # process: its id, since when
    #: Charges refunded and disputes opened at the processor, with their business time: each is told by the end.
    refunded: dict[str, datetime] = field(default_factory=dict)
    disputed: dict[str, datetime] = field(default_factory=dict)
    fault_queue: FaultQueue = field(init=False)

    def __post_init__(self) -> None:
        self.fault_queue = FaultQueue(self.company, self.record_hit)

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.began

    def record_hit(self, kind: str, count: int = 1) -> None:
        """Record that faults of this kind had their effect."""
        self.hits.append(Hit(round(self.elapsed_s, 2), kind, count))

    def counts(self) -> Counter[str]:
        """Hits by kind."""
        total: Counter[str] = Counter()
        for hit in list(self.hits):
            total[hit.kind] += hit.count
        return total

    def wait(self, seconds: float) -> None:
        """Wait, but at most until the faults are released."""
        self.draining.wait(seconds)

    def retry_until_done(self, release: Callable[[], object], within_s: float = 60.0) -> None:
        """Undo a lasting fault, with retries. Raises the last error after `within_s` seconds."""
        deadline = time.monotonic() + within_s
        while True:
            try:
                release()
            except EXPECTED_ERRORS:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
            else:
                return

    def now(self) -> datetime:
        """Business time. Raises DBAPIError while PostgreSQL is down."""
        with self.company.connect() as connection:
            now = read_clock(connection)
        if now is None:
            raise NotPossibleNow("the clock is not set")
        return now


#: Injects one fault, and records the hit as soon as it had its effect. After EXPECTED_ERRORS it is retried.
Injector = Callable[[ChaosContext, Planned], None]
Injectors = Mapping[str, Injector]
