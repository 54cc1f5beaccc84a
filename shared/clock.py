"""The two clocks (I11), and the only place that reads either of them.

Machine time is for machines: leases, timeouts, heartbeats, the age of idempotency keys.
Business time is for calendars: periods, due dates, the next attempt. It may be virtual; then it is one database row
that every process reads, so that advancing it moves all of them at once.
Both are passed as arguments, never looked up by the code that uses them.
"""

from datetime import UTC, datetime, timedelta
from typing import Protocol

from sqlalchemy import Engine, text

from shared.domain.calendar import waits_for_operator


class BusinessClock(Protocol):
    """Business time. Always timezone-aware, in UTC."""

    def now(self) -> datetime: ...


class SystemClock:
    """Business time is the machine's time: for production."""

    def now(self) -> datetime:
        return machine_now()


class ManualClock:
    """A business clock that a test sets."""

    def __init__(self, now: datetime) -> None:
        self._now = _aware(now)

    def now(self) -> datetime:
        return self._now

    def set(self, now: datetime) -> None:
        if _aware(now) < self._now:
            raise ValueError(f"the business clock only moves forward: {now} is before {self._now}")
        self._now = _aware(now)


class VirtualClock:
    """Business time in the row `business_clock`, shared by all processes, moved by `duecourse clock`."""

    def __init__(self, engine: Engine) -> None:
        """Takes its own engine: it is read inside transactions, and must not wait for their pool."""
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")

    def now(self) -> datetime:
        with self._engine.connect() as connection:
            now = connection.scalar(text("SELECT now_at FROM business_clock"))
        if now is None:
            raise LookupError("the virtual clock is not set; run `duecourse clock set 2026-10-31T00:00:00Z`")
        return _aware(now)


#: No instant of machine time that we write is further ahead: leases, look-ups and back-offs end within an hour.
FARTHEST_AHEAD = timedelta(hours=2)


def has_come(moment: datetime, machine_now: datetime) -> bool:
    """Whether an instant of machine time has come. One beyond FARTHEST_AHEAD has, too, up to UNTIL_RELEASED.

    A clock that ran ahead and was set back later wrote it. Waiting for it would take as long as the clock was
    wrong, possibly years. `shared.db.query_terms.has_come` is the same as SQL.
    """
    return moment <= machine_now or (moment > machine_now + FARTHEST_AHEAD and not waits_for_operator(moment))


def machine_now() -> datetime:
    """Return the machine's time, in UTC."""
    return datetime.now(UTC)


def _aware(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError(f"{moment} has no time zone; every instant in Duecourse has one")
    return moment.astimezone(UTC)
