"""Real scheduler processes: two at once, a kill, a signal, an outage."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from shared.policy import Policy
from shared.scheduling.leader_lock import is_scheduler_alive
from shared.scheduling.virtual_clock import set_clock
from tests.scheduler.conftest import OCTOBER_ENDS, all_runs, events_of_type

pytestmark = pytest.mark.processes

ROOT = Path(__file__).resolve().parents[2]
#: Time that a slow machine may need to start Python; only a broken scheduler uses it all.
PATIENCE_S = 30.0

Start = Callable[[], "subprocess.Popen[bytes]"]


@pytest.fixture
def start(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[Start]:
    started: list[subprocess.Popen[bytes]] = []
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("STRIPE", "DUECOURSE"))},
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "DUECOURSE_CLOCK": "virtual",
        "DUECOURSE_TICK_INTERVAL_S": "0.5",
    }

    def start_one() -> "subprocess.Popen[bytes]":
        log = (tmp_path / f"scheduler-{len(started)}.log").open("wb")
        started.append(
            subprocess.Popen([sys.executable, "-m", "scheduler"], cwd=ROOT, env=environment, stdout=log, stderr=log)
        )
        return started[-1]

    yield start_one
    for process in started:
        process.kill()
        process.wait()


def wait_until(is_so: Callable[[], bool], within_s: float = PATIENCE_S) -> float:
    """Wait until the condition holds, and return how long it took (s)."""
    began = time.monotonic()
    while not is_so():
        assert time.monotonic() - began < within_s, "the condition never held"
        time.sleep(0.02)
    return time.monotonic() - began


def leader(engine: Engine) -> int | None:
    """The backend of the leading session."""
    with engine.connect() as connection:
        if not is_scheduler_alive(connection):
            return None
        pid: int | None = connection.scalar(
            text(
                "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted"
                " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            )
        )
        return pid


def move_clock(engine: Engine, policy: Policy, to: datetime) -> None:
    with engine.begin() as connection:
        set_clock(connection, to, policy)


def test_two_schedulers_create_each_run_once_and_the_follower_takes_over_after_a_kill(
    engine: Engine, policy: Policy, start: Start
) -> None:
    move_clock(engine, policy, OCTOBER_ENDS - timedelta(days=1))
    first = start()
    wait_until(lambda: leader(engine) is not None)
    led_by = leader(engine)
    start()
    wait_until(lambda: sessions(engine) == 2)
    move_clock(engine, policy, OCTOBER_ENDS)
    wait_until(lambda: len(runs_of(engine, "monthly-invoices")) == 2, 5)

    first.send_signal(signal.SIGKILL)
    first.wait()
    took_s = wait_until(lambda: leader(engine) not in (None, led_by))
    assert took_s < 5
    move_clock(engine, policy, OCTOBER_ENDS + timedelta(days=30))
    wait_until(lambda: len(runs_of(engine, "monthly-invoices")) == 4, 5)
    assert len(events_of_type(engine, "run_scheduled")) == len(all_runs(engine))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_scheduler_stops_cleanly_within_its_grace_period(
    engine: Engine, policy: Policy, start: Start, number: signal.Signals
) -> None:
    move_clock(engine, policy, OCTOBER_ENDS)
    process = start()
    wait_until(lambda: leader(engine) is not None)
    began = time.monotonic()
    process.send_signal(number)
    process.send_signal(number)  # Procfile runners send it twice
    assert process.wait(PATIENCE_S) == 0
    assert time.monotonic() - began < 15  # of the 45 s that `up` gives; on an idle machine it takes under 2
    wait_until(lambda: leader(engine) is None, 5)


def test_scheduler_survives_the_end_of_all_its_sessions(engine: Engine, policy: Policy, start: Start) -> None:
    move_clock(engine, policy, OCTOBER_ENDS - timedelta(days=1))
    process = start()
    wait_until(lambda: leader(engine) is not None)
    with engine.connect() as connection:
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
    move_clock(engine, policy, OCTOBER_ENDS)
    wait_until(lambda: len(runs_of(engine, "monthly-invoices")) == 2, 10)
    assert process.poll() is None


def test_missing_settings_are_named() -> None:
    environment = {"PATH": os.environ["PATH"]}
    ended = subprocess.run(
        [sys.executable, "-m", "scheduler"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert ended.returncode == 2
    assert b"DATABASE_URL" in ended.stderr
    assert b"Traceback" not in ended.stderr


def runs_of(engine: Engine, job: str) -> list[tuple[str, str, str, str]]:
    return [run for run in all_runs(engine) if run[0] == job]


def sessions(engine: Engine) -> int:
    with engine.connect() as connection:
        found: int = connection.execute(
            text(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE application_name = 'duecourse-scheduler' AND datname = current_database()"
            )
        ).scalar_one()
        return found
