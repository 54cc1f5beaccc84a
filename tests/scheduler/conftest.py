"""A scheduler whose clocks a test moves and whose enqueued jobs it reads; its connections are real."""

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, Row, select

from scheduler.app import SchedulerApp
from shared.clock import BusinessClock, ManualClock
from shared.db.tables.system import billing_events, runs
from shared.messaging.jobs import Job
from shared.policy import Policy
from tests.seed import default_policy

OCTOBER_ENDS = datetime(2026, 11, 1, tzinfo=UTC)


class Enqueued:
    """Collects enqueued jobs, and reports how many messages wait in each queue."""

    def __init__(self) -> None:
        self.enqueued: list[Job] = []
        self.waiting: dict[str, int] = {}

    def enqueue(self, jobs: Iterable[Job]) -> bool:
        self.enqueued.extend(jobs)
        return True

    def waiting_in(self, queue: str) -> int:
        return self.waiting.get(queue, 0)

    def taken(self) -> list[Job]:
        """The jobs enqueued since the last call."""
        taken, self.enqueued = self.enqueued, []
        return taken


class MachineTime:
    """Machine time that a test sets. It starts at the real time, with which the database stamps rows."""

    def __init__(self) -> None:
        self._now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self._now

    def advance(self, seconds: float) -> datetime:
        self._now += timedelta(seconds=seconds)
        return self._now


MakeApp = Callable[..., SchedulerApp]


@pytest.fixture
def policy() -> Policy:
    return default_policy()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(OCTOBER_ENDS - timedelta(days=1))


@pytest.fixture
def machine() -> MachineTime:
    return MachineTime()


@pytest.fixture
def queued() -> Enqueued:
    return Enqueued()


@pytest.fixture
def make_app(
    database_url: str, engine: Engine, policy: Policy, clock: ManualClock, machine: MachineTime, queued: Enqueued
) -> Iterator[MakeApp]:
    made: list[SchedulerApp] = []

    def make(
        clock: BusinessClock = clock, enqueue: Any = queued.enqueue, waiting_in: Any = queued.waiting_in
    ) -> SchedulerApp:
        app = SchedulerApp(
            database_url=database_url,
            engine=engine,
            policy=policy,
            clock=clock,
            machine_now=machine,
            enqueue=enqueue,
            waiting_in=waiting_in,
        )
        made.append(app)
        return app

    yield make
    for app in made:
        app.stop()


def all_runs(engine: Engine) -> list[tuple[str, str, str, str]]:
    with engine.connect() as connection:
        rows = connection.execute(select(runs).order_by(runs.c.job, runs.c.period, runs.c.coverage))
        return [(row.job, row.period, row.coverage, row.state) for row in rows]


def events_of_type(engine: Engine, event_type: str) -> list[Row[Any]]:
    with engine.connect() as connection:
        return list(
            connection.execute(
                select(billing_events).where(billing_events.c.type == event_type).order_by(billing_events.c.id)
            )
        )
