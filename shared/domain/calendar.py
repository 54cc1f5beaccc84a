"""Months and days for billing: in the coverage's time zone, never in the machine's."""

import re
from calendar import monthrange
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

_PERIOD = re.compile(r"(\d{4})-(0[1-9]|1[0-2])")

#: The instant of work that waits for an operator: a held payment, a parked Stripe event. Not `infinity`, which
#: Python cannot read.
UNTIL_RELEASED = datetime(9999, 12, 31, tzinfo=UTC)


@dataclass(frozen=True, order=True)
class Period:
    """A billing month, written `2026-10`."""

    year: int
    month: int

    @classmethod
    def parse(cls, text: str) -> "Period":
        """Parse `2026-10`; ValueError describes the format."""
        match = _PERIOD.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"{text!r} is not a period; write a month like 2026-10")
        return cls(int(match[1]), int(match[2]))

    @classmethod
    def of(cls, day: date) -> "Period":
        return cls(day.year, day.month)

    def __str__(self) -> str:
        return f"{self.year:04d}-{self.month:02d}"

    @property
    def first_day(self) -> date:
        return date(self.year, self.month, 1)

    @property
    def last_day(self) -> date:
        return date(self.year, self.month, self.days)

    @property
    def days(self) -> int:
        return monthrange(self.year, self.month)[1]

    @property
    def next(self) -> "Period":
        return Period.of(self.last_day + timedelta(days=1))

    @property
    def previous(self) -> "Period":
        return Period.of(self.first_day - timedelta(days=1))


def local_date(moment: datetime, zone: ZoneInfo) -> date:
    """The calendar day that `moment` falls on in `zone`."""
    return moment.astimezone(zone).date()


def instant(day: date, at: time, zone: ZoneInfo) -> datetime:
    """The instant, in UTC, at which clocks in `zone` show `at` on `day`.

    A local time that daylight saving skips becomes the moment after the gap; one that occurs twice means the first.
    So each local time happens exactly once on each day (PEP 495, fold=0).
    """
    return datetime.combine(day, at, tzinfo=zone).astimezone(UTC)


def waits_for_operator(moment: datetime) -> bool:
    """Whether an instant is never reached: an operator has to act."""
    return moment >= UNTIL_RELEASED
