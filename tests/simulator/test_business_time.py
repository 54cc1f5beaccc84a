"""The simulator reads the business clock: never a stale value, and no error while the database is down."""

import asyncio
import threading
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine

from shared.clock import ManualClock, SystemClock, VirtualClock
from simulator import business_time
from simulator.business_time import BusinessTime, clock_from_settings


class SlowVirtualClock(VirtualClock):
    """A virtual clock without a database: reading takes a while, and can fail."""

    def __init__(self, now: datetime) -> None:
        self.time = now
        self.readings = 0
        self.breaks = False

    def now(self) -> datetime:
        self.readings += 1
        if self.breaks:
            raise ConnectionError("the database is away")
        found = self.time
        threading.Event().wait(0.02)
        return found


NOON = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)


def seconds(moment: datetime) -> int:
    return int(moment.timestamp())


def test_a_clock_in_this_process_is_read_directly() -> None:
    clock = ManualClock(NOON)
    reader = BusinessTime(clock)
    assert asyncio.run(reader.now()) == seconds(NOON)
    assert isinstance(clock_from_settings("system", None), SystemClock)


def test_concurrent_requests_share_a_reading() -> None:
    clock = SlowVirtualClock(NOON)

    async def many() -> list[int]:
        reader = BusinessTime(clock)
        return list(await asyncio.gather(*(reader.now() for _ in range(50))))

    assert asyncio.run(many()) == [seconds(NOON)] * 50
    assert clock.readings <= 2


def test_a_request_after_an_advance_sees_it() -> None:
    clock = SlowVirtualClock(NOON)

    async def story() -> tuple[int, int]:
        reader = BusinessTime(clock)
        before = asyncio.create_task(reader.now())
        await asyncio.sleep(0.01)  # the first reading is under way and has the old time
        clock.time = NOON + timedelta(days=1)
        return await reader.now(), await before

    after, before = asyncio.run(story())
    assert (before, after) == (seconds(NOON), seconds(NOON + timedelta(days=1)))


def test_the_processor_answers_while_our_database_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(business_time, "READ_TIMEOUT_S", 0.1)
    clock = SlowVirtualClock(NOON)

    async def story() -> tuple[int, int]:
        reader = BusinessTime(clock)
        first = await reader.now()
        clock.breaks = True
        return first, await reader.now()

    assert asyncio.run(story()) == (seconds(NOON), seconds(NOON))


def test_the_shared_clock_row_is_read_for_every_request(database_url: str, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM business_clock")
        connection.exec_driver_sql("INSERT INTO business_clock (now_at) VALUES ('2026-11-01T12:00:00Z')")
    reader = BusinessTime(clock_from_settings("virtual", database_url))

    async def readings() -> tuple[int, int]:
        first = await reader.now()
        with engine.begin() as connection:
            connection.exec_driver_sql("UPDATE business_clock SET now_at = now_at + interval '1 day'")
        return first, await reader.now()

    assert asyncio.run(readings()) == (seconds(NOON), seconds(NOON + timedelta(days=1)))
