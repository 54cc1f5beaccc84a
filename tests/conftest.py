"""Real servers for all tests: one PostgreSQL and one Valkey per session, a fresh database per test."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, create_engine

from tests.servers import Servers, work_in_memory
from tests.servers import test_servers as start_servers
from tests.world import World, running_world


def pytest_configure() -> None:
    """Work in memory. A shell's background ignores Ctrl-C, and hands that down to what tests start."""
    work_in_memory()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


#: Files that take longest (30 to 140 s), the longest first: begun last, one of them would run on alone.
LONGEST_FIRST = (
    "model/test_model.py",
    "browser/test_operator_tasks.py",
    "chaos/test_small_run.py",
    "failpoints/test_failpoints_of_outcomes.py",
    "failpoints/test_workers_killed.py",
    "processes/",
    "failpoints/",
    "races/",
    "browser/",
    "bulk/",
    "accounts/test_card_registered.py",
    "failures/test_database_locks.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files; the rest keeps its order."""
    items.sort(key=_place)


def _place(item: pytest.Item) -> int:
    name = item.path.relative_to(Path(__file__).parent).as_posix()
    return next((n for n, start in enumerate(LONGEST_FIRST) if name.startswith(start)), len(LONGEST_FIRST))


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    with start_servers() as running:
        yield running


@pytest.fixture(scope="session")
def migrated(servers: Servers) -> str:
    return servers.make_template(upgrade)


@pytest.fixture
def database_url(servers: Servers, migrated: str) -> Iterator[str]:
    with servers.fresh_database(migrated) as url:
        yield url


@pytest.fixture
def redis_url(servers: Servers) -> str:
    return servers.fresh_redis()


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = create_engine(sqlalchemy_url(database_url))
    yield engine
    engine.dispose()


@pytest.fixture
def world(engine: Engine) -> Iterator[World]:
    with running_world(engine) as running:
        yield running


def sqlalchemy_url(database_url: str) -> str:
    return database_url.replace("postgresql://", "postgresql+psycopg://", 1)


def upgrade(database_url: str, to: str = "head") -> None:
    engine = create_engine(sqlalchemy_url(database_url))
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parents[1] / "migrations"))
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, to)
        connection.commit()
    engine.dispose()
