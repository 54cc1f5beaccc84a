"""Signs of life: written beside everything else, taken away at a stop, and never in anybody's way."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, create_engine, select, text
from structlog.testing import capture_logs

from shared.clock import machine_now
from shared.db.tables.operators import process_beats
from shared.messaging.broker import make_broker
from shared.messaging.jobs import BATCH, SETTLEMENT
from shared.operations.heartbeats import KEPT_FOR, LOST_AFTER, WEB, WORKER, Beats, WorkerBeats, processes_alive
from tests.broker.conftest import eventually, running_worker

NOW = datetime(2026, 11, 1, tzinfo=UTC)


class Machine:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def machine() -> Machine:
    return Machine()


def alive(engine: Engine, at: datetime) -> list[str]:
    with engine.connect() as connection:
        return [one.kind for one in processes_alive(connection, at)]


def test_a_process_is_alive_until_three_beats_are_missed(engine: Engine, machine: Machine) -> None:
    beats = Beats(lambda: engine, WEB, machine_now=machine)
    beats.beat()
    assert alive(engine, NOW + LOST_AFTER) == [WEB]
    assert alive(engine, NOW + LOST_AFTER + timedelta(seconds=1)) == []
    machine.now += timedelta(seconds=20)
    beats.beat()
    assert alive(engine, NOW + LOST_AFTER + timedelta(seconds=1)) == [WEB]
    with engine.connect() as connection:
        (row,) = connection.execute(select(process_beats)).all()
    assert (row.started_at, row.seen_at) == (NOW, machine.now)


def test_a_clean_stop_takes_its_own_row_away_and_no_other(engine: Engine) -> None:
    other, beats = Beats(lambda: engine, WEB), Beats(lambda: engine, WORKER)
    other.beat()
    beats.start(every_s=60)
    eventually(lambda: alive(engine, machine_now()) == [WEB, WORKER], "both are heard")
    beats.stop(within_s=20)
    assert alive(engine, machine_now()) == [WEB]


def test_what_killed_processes_left_is_tidied_after_a_day(engine: Engine, machine: Machine) -> None:
    Beats(lambda: engine, WORKER, machine_now=machine).beat()
    machine.now += KEPT_FOR
    Beats(lambda: engine, WEB, machine_now=machine).beat()
    with engine.connect() as connection:
        assert len(connection.execute(select(process_beats)).all()) == 2
    machine.now += timedelta(seconds=1)
    Beats(lambda: engine, WEB, machine_now=machine).beat()
    with engine.connect() as connection:
        assert sorted(connection.scalars(select(process_beats.c.kind))) == [WEB, WEB]


def test_a_beat_that_cannot_be_written_is_logged_once_and_harms_nothing(engine: Engine) -> None:
    engines = [create_engine("postgresql+psycopg://nobody@127.0.0.1:1/none")]
    beats = Beats(lambda: engines[-1], WEB)
    with capture_logs() as logs:
        for _ in range(3):
            beats.beat()
        engines.append(engine)
        beats.beat()
    assert [one["event"] for one in logs] == ["beats.missed", "beats.heard_again"]
    assert alive(engine, machine_now()) == [WEB]


def test_a_locked_row_holds_up_the_beat_and_nobody_else(engine: Engine) -> None:
    beats = Beats(lambda: engine, WEB)
    beats.beat()
    with engine.begin() as connection:
        connection.execute(text("SELECT 1 FROM process_beats FOR UPDATE"))
        beats.start(every_s=60)
        beats.stop(within_s=0.05)
        connection.execute(text("SELECT 1"))
    eventually(lambda: alive(engine, machine_now()) == [], "it goes when it can")


def test_a_worker_says_which_queues_it_takes_from_until_its_last_message(engine: Engine, redis_url: str) -> None:
    broker = make_broker(redis_url, [WorkerBeats(lambda: engine)])
    with running_worker(broker, BATCH, SETTLEMENT, threads=2):
        eventually(lambda: alive(engine, machine_now()) == [WORKER], "it is heard")
        with engine.connect() as connection:
            (one,) = processes_alive(connection, machine_now())
        assert (one.queues, one.threads) == ((BATCH, SETTLEMENT), 2)
    assert alive(engine, machine_now()) == []
