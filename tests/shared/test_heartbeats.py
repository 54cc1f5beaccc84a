"""Process heartbeats: an upsert every few seconds, deleted on shutdown, that never blocks other work."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, create_engine, select, text
from structlog.testing import capture_logs

from shared.clock import machine_now
from shared.db.tables.operators import heartbeats
from shared.messaging.broker import make_broker
from shared.messaging.jobs import BATCH, SETTLEMENT
from shared.operations.heartbeats import (
    KEPT_FOR,
    LOST_AFTER,
    WEB,
    WORKER,
    Heartbeats,
    WorkerHeartbeats,
    live_processes,
)
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
        return [one.kind for one in live_processes(connection, at)]


def test_process_is_alive_until_three_heartbeats_are_missed(engine: Engine, machine: Machine) -> None:
    heartbeats_sender = Heartbeats(lambda: engine, WEB, machine_now=machine)
    heartbeats_sender.send()
    assert alive(engine, NOW + LOST_AFTER) == [WEB]
    assert alive(engine, NOW + LOST_AFTER + timedelta(seconds=1)) == []
    machine.now += timedelta(seconds=20)
    heartbeats_sender.send()
    assert alive(engine, NOW + LOST_AFTER + timedelta(seconds=1)) == [WEB]
    with engine.connect() as connection:
        (row,) = connection.execute(select(heartbeats)).all()
    assert (row.started_at, row.seen_at) == (NOW, machine.now)


def test_clean_stop_deletes_only_its_own_row(engine: Engine) -> None:
    other, heartbeats_sender = Heartbeats(lambda: engine, WEB), Heartbeats(lambda: engine, WORKER)
    other.send()
    heartbeats_sender.start(every_s=60)
    eventually(lambda: alive(engine, machine_now()) == [WEB, WORKER], "both are heard")
    heartbeats_sender.stop(within_s=20)
    assert alive(engine, machine_now()) == [WEB]


def test_rows_of_killed_processes_are_deleted_after_a_day(engine: Engine, machine: Machine) -> None:
    Heartbeats(lambda: engine, WORKER, machine_now=machine).send()
    machine.now += KEPT_FOR
    Heartbeats(lambda: engine, WEB, machine_now=machine).send()
    with engine.connect() as connection:
        assert len(connection.execute(select(heartbeats)).all()) == 2
    machine.now += timedelta(seconds=1)
    Heartbeats(lambda: engine, WEB, machine_now=machine).send()
    with engine.connect() as connection:
        assert sorted(connection.scalars(select(heartbeats.c.kind))) == [WEB, WEB]


def test_heartbeat_error_is_logged_once(engine: Engine) -> None:
    engines = [create_engine("postgresql+psycopg://nobody@127.0.0.1:1/none")]
    heartbeats_sender = Heartbeats(lambda: engines[-1], WEB)
    with capture_logs() as logs:
        for _ in range(3):
            heartbeats_sender.send()
        engines.append(engine)
        heartbeats_sender.send()
    assert [one["event"] for one in logs] == ["heartbeat.missed", "heartbeat.sent_again"]
    assert alive(engine, machine_now()) == [WEB]


def test_locked_row_delays_only_the_heartbeat(engine: Engine) -> None:
    heartbeats_sender = Heartbeats(lambda: engine, WEB)
    heartbeats_sender.send()
    with engine.begin() as connection:
        connection.execute(text("SELECT 1 FROM heartbeats FOR UPDATE"))
        heartbeats_sender.start(every_s=60)
        heartbeats_sender.stop(within_s=0.05)
        connection.execute(text("SELECT 1"))
    eventually(lambda: alive(engine, machine_now()) == [], "it goes when it can")


def test_worker_reports_its_queues_until_its_last_message(engine: Engine, redis_url: str) -> None:
    broker = make_broker(redis_url, [WorkerHeartbeats(lambda: engine)])
    with running_worker(broker, BATCH, SETTLEMENT, threads=2):
        eventually(lambda: alive(engine, machine_now()) == [WORKER], "it is heard")
        with engine.connect() as connection:
            (one,) = live_processes(connection, machine_now())
        assert (one.queues, one.threads) == ((BATCH, SETTLEMENT), 2)
    assert alive(engine, machine_now()) == []
