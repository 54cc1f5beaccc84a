"""A world on the processes' engine, with control over its connections, disk and locks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.pool import NullPool

from shared.db.session import make_engine
from shared.settings import Settings
from tests.diaries.gates import Gates
from tests.world import World, do, running_world


class PassableGates(Gates):
    """Gates that let new requests pass while those already held stay."""

    @contextmanager
    def open_for_newcomers(self) -> Iterator[None]:
        closed = dict(self._closed)
        self._closed.clear()
        yield
        self._closed.update(closed)


@pytest.fixture
def gates() -> PassableGates:
    return PassableGates()


@pytest.fixture
def settings(database_url: str) -> Settings:
    return Settings(DATABASE_URL=database_url, REDIS_URL="redis://127.0.0.1:1/0")


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    """As workers make it: with their limits on locks and statements."""
    engine = make_engine(settings, statement_limit_s=60)
    yield engine
    engine.dispose()


@pytest.fixture
def world(engine: Engine, gates: Gates) -> Iterator[World]:
    with running_world(engine, faults=gates) as running:
        yield running


@pytest.fixture
def owed(world: World) -> UUID:
    """A payment of 5.00 that is due, on a card that pays."""
    account = world.account("A-1")
    world.add_primary_card(account)
    return world.add_due_payment(account)


@pytest.fixture
def another_session(database_url: str) -> Iterator[Engine]:
    """Sessions of others: psql, another release, an administrator."""
    engine = create_engine(database_url.replace("postgresql://", "postgresql+psycopg://", 1), poolclass=NullPool)
    yield engine
    engine.dispose()


def work_until_quiet(world: World, rounds: int = 20) -> None:
    """Sweep and do the jobs, a lease apart, without an operator."""
    for _ in range(rounds):
        for job in world.due_jobs():
            do(world.runtime, job)
        world.machine.advance(minutes=5, seconds=1)


def count_confirms(world: World) -> int:
    """The number of confirms at the processor."""
    return sum(snapshot.path.endswith("/confirm") for snapshot in world.simulator.requests(limit=1_000))


def assert_paid_once(world: World, payment_id: UUID) -> None:
    """The processor's ledger has one charge, our records one receipt, and no attempt is open."""
    assert world.captured_amounts(payment_id) == [5_00]
    assert world.payment(payment_id).state == "paid"
    assert {attempt.state for attempt in world.attempts(payment_id)} <= {"succeeded", "not_sent", "declined"}
    with world.engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM receipts")) == 1


@contextmanager
def locked(sessions: Engine, sql: str, **parameters: object) -> Iterator[Connection]:
    """Another session holds locks until the block ends or it commits."""
    with sessions.connect() as connection:
        connection.execute(text(sql), parameters)
        yield connection
        connection.rollback()


@dataclass(eq=False)
class Commits:
    """Steps in at the commits of an engine, in their order: `at[2]` is called with the third one's connection."""

    at: dict[int, Callable[[Connection], None]] = field(default_factory=dict)
    snapshot: int = 0

    def __call__(self, connection: Connection) -> None:
        number, self.snapshot = self.snapshot, self.snapshot + 1
        self.at.get(number, lambda _: None)(connection)


@pytest.fixture
def commits(engine: Engine) -> Iterator[Commits]:
    commits = Commits()
    event.listen(engine, "commit", commits)
    yield commits
    event.remove(engine, "commit", commits)


def backend_of(connection: Connection) -> int:
    driver: Any = connection.connection.dbapi_connection
    return int(driver.info.backend_pid)


def end_session(sessions: Engine, backend_pid: int) -> None:
    """End one session, as a restart, a failover or an administrator does; returns when it is gone."""
    with sessions.connect() as connection:
        assert connection.scalar(text("SELECT pg_terminate_backend(:pid, 10000)"), {"pid": backend_pid})
