"""What every fault needs at hand, and the log of those that landed."""

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

#: How long a fault waits until it can strike: its target may be down just now.
PATIENCE_S = 20.0
AGAIN_AFTER_S = 0.25


class NotNow(Exception):  # noqa: N818  # no error: the target isn't there at this moment
    """The fault can't strike now; it may in a moment."""


#: What may go wrong for whoever works in the middle of the fire. Anything else is a defect, and is raised.
TROUBLES = (
    NotNow,
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
    """Faults of a kind that landed, `at_s` seconds after the fire began."""

    at_s: float
    kind: str
    count: int = 1


@dataclass
class ChaosContext:
    """The company, what is armed, whether it is over, and what landed so far. Used from several threads."""

    company: Company
    began: float = field(default_factory=time.monotonic)
    letting_go: threading.Event = field(default_factory=threading.Event)
    hits: list[Hit] = field(default_factory=list)
    lives: dict[str, tuple[int, float]] = field(default_factory=dict)  # process: its id, since when
    armoury: FaultQueue = field(init=False)

    def __post_init__(self) -> None:
        self.armoury = FaultQueue(self.company, self.landed)

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.began

    def landed(self, kind: str, count: int = 1) -> None:
        """Write down that faults of this kind had their effect."""
        self.hits.append(Hit(round(self.elapsed_s, 2), kind, count))

    def counts(self) -> Counter[str]:
        """How many of each kind landed."""
        total: Counter[str] = Counter()
        for hit in list(self.hits):
            total[hit.kind] += hit.count
        return total

    def last(self, seconds: float) -> None:
        """Let a fault last so long, or until everything is let go."""
        self.letting_go.wait(seconds)

    def until_done(self, release: Callable[[], object], within_s: float = 60.0) -> None:
        """Undo a lasting fault, however often it takes. Raises the last trouble after `within_s` seconds."""
        deadline = time.monotonic() + within_s
        while True:
            try:
                release()
            except TROUBLES:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
            else:
                return

    def now(self) -> datetime:
        """Business time. Raises DBAPIError while PostgreSQL is away."""
        with self.company.connect() as connection:
            now = read_clock(connection)
        if now is None:
            raise NotNow("the clock was never set")
        return now


#: Does one fault, and tells the scene as soon as it had its effect; TROUBLES mean that it may try again.
Strike = Callable[[ChaosContext, Planned], None]
Strikes = Mapping[str, Strike]
