"""The business clock, read once for every request that changes something.

A virtual clock is a row in PostgreSQL, so reading it takes a query. Concurrent requests share one query, but only
one that started after they arrived: the first request after an advance sees it.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import structlog
from sqlalchemy import create_engine

from shared.clock import BusinessClock, SystemClock, VirtualClock, machine_now

log = structlog.get_logger(__name__)

#: A processor must answer while our database restarts: after this time the last known value is used.
READ_TIMEOUT_S = 2.0


class BusinessTime:
    """Seconds of the business clock, for the event loop."""

    def __init__(self, clock: BusinessClock) -> None:
        self._clock = clock
        self._is_remote = isinstance(clock, VirtualClock)
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="business-clock")
        self._next: asyncio.Task[int] | None = None
        self._turn = asyncio.Lock()
        self._last_known: int | None = None

    async def now(self) -> int:
        """Return the business time in seconds, read after this call began."""
        if not self._is_remote:
            return int(self._clock.now().timestamp())
        if self._next is None:
            self._next = asyncio.create_task(self._read())
        return await asyncio.shield(self._next)

    async def _read(self) -> int:
        async with self._turn:
            self._next = None  # later requests need a reading that starts later
            loop = asyncio.get_running_loop()
            reading = loop.run_in_executor(self._threads, self._clock.now)
            try:
                self._last_known = int((await asyncio.wait_for(reading, READ_TIMEOUT_S)).timestamp())
            except Exception as error:
                if self._last_known is None:
                    self._last_known = int(machine_now().timestamp())
                log.warning("business_clock_unreadable", used=self._last_known, reason=type(error).__name__)
            return self._last_known

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def clock_from_settings(mode: str, database_url: str | None) -> BusinessClock:
    """`virtual` reads the row that all processes share; any other value is the machine's time."""
    if mode != "virtual":
        return SystemClock()
    if not database_url:
        raise ValueError("DUECOURSE_CLOCK=virtual needs DATABASE_URL: the virtual clock lives in that database")
    url = f"postgresql+psycopg://{database_url.partition('://')[2]}"
    # One connection in autocommit: one round trip per reading.
    engine = create_engine(
        url,
        isolation_level="AUTOCOMMIT",
        pool_size=1,
        max_overflow=0,
        pool_reset_on_return=None,
        connect_args={"connect_timeout": 2},
    )
    return VirtualClock(engine)
