"""However the owner ends, nothing is left running, and the next start on the folder has the data."""

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import psycopg
import pytest
import redis

from local import embedded
from tests.embedded.killable import Owner, eventually, is_running, start_owner, start_owner_only

pytestmark = pytest.mark.processes


def _write_row(database_url: str) -> int:
    """Commit a row, and return how many there are."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS endings (id serial PRIMARY KEY)")
        connection.execute("INSERT INTO endings DEFAULT VALUES")
        row = connection.execute("SELECT count(*) FROM endings").fetchone()
        assert row is not None
        return int(row[0])


def _by_itself(_: Owner) -> None:
    pass


def _terminate(owner: Owner) -> None:
    owner.process.terminate()


def _interrupt(owner: Owner) -> None:
    owner.process.send_signal(signal.SIGINT)


def _interrupt_the_terminal(owner: Owner) -> None:
    os.killpg(owner.process.pid, signal.SIGINT)  # like Ctrl-C, pressed twice
    os.killpg(owner.process.pid, signal.SIGINT)


def _kill(owner: Owner) -> None:
    owner.process.kill()


def _kill_guard(owner: Owner) -> None:
    owner.guard.kill()


def _terminate_guard(owner: Owner) -> None:
    owner.guard.terminate()


def _kill_guard_and_parent(owner: Owner) -> None:
    guard = owner.guard
    owner.process.kill()
    guard.kill()


def _kill_all(owner: Owner) -> None:
    owner.process.kill()
    for process in owner.family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


ENDINGS: list[tuple[str, Callable[[Owner], None]]] = [
    ("return", _by_itself),
    ("exit", _by_itself),
    ("raise", _by_itself),
    ("wait", _terminate),
    ("wait", _interrupt),
    ("wait", _interrupt_the_terminal),
    ("wait", _kill),
    ("fork", _kill),
    ("wait", _terminate_guard),
    ("wait", _kill_guard),
    ("wait", _kill_guard_and_parent),
    ("wait", _kill_all),
]


@pytest.mark.parametrize(("way", "end"), ENDINGS, ids=[f"{way}{end.__name__}" for way, end in ENDINGS])
def test_nothing_is_left_running_and_the_next_start_has_the_data(
    lasting_folder: Path, way: str, end: Callable[[Owner], None]
) -> None:
    owner = start_owner(lasting_folder, way, process_group=0)
    rows = 0 if end is _by_itself else _write_row(owner.answer["database_url"])
    end(owner)
    owner.assert_nothing_is_left()
    assert embedded.running_urls(lasting_folder) is None
    with contextlib.suppress(ProcessLookupError):
        os.killpg(owner.process.pid, signal.SIGKILL)  # an owner outlives its guard, a forked child its parent
    owner.process.wait()
    with embedded.servers(lasting_folder) as urls:
        assert _write_row(urls.database_url) == rows + 1 or not rows


def test_after_a_kill_during_initdb_the_next_start_succeeds(folder: Path) -> None:
    process = start_owner_only(folder, "wait")
    me = psutil.Process(process.pid)
    eventually(lambda: any(p.name() == "initdb" for p in _family(me)), "initdb runs")
    family = _family(me)
    process.kill()
    eventually(lambda: not any(map(is_running, family)), "end of initdb")
    process.wait()
    assert not (folder / "postgres").exists()
    with embedded.servers(folder, durable=False, want_valkey=False) as urls, psycopg.connect(urls.database_url):
        assert not list(folder.glob("postgres.new-*"))


def _family(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [p for p in process.children(recursive=True) if is_running(p) and p.name()]
    except psutil.NoSuchProcess:
        return []


@pytest.mark.parametrize("name", ["postgres", "valkey-server"])
def test_a_killed_server_is_restarted_on_its_port(lasting_folder: Path, name: str) -> None:
    owner = start_owner(lasting_folder)
    owner.server(name).kill()
    eventually(lambda: _answers(owner), "both answer again")
    owner.process.kill()
    owner.process.wait()
    owner.assert_nothing_is_left()


def _answers(owner: Owner) -> bool:
    try:
        with (
            psycopg.connect(owner.answer["database_url"]),
            redis.Redis.from_url(owner.answer["redis_url"]) as client,
        ):
            return len(owner.guard.children()) == 2 and bool(client.ping())
    except (psycopg.OperationalError, redis.RedisError):
        return False
