"""Attempts by hour and by day, and their decline codes. Counted by when their outcome was known."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, text

from shared.domain.calendar import instant, local_date
from shared.domain.declines import NO_CODE, DeclineCategory, category_of_code, meaning_of_code
from shared.domain.states import AttemptState
from shared.explain.descriptions import capitalised
from shared.policy import Policy

HOURS, DAYS = 24, 14
#: Codes that are listed; the rest is one number.
TOP_CODES = 12
HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class Attempts:
    """Charge attempts by outcome. What reached no issuer is neither a success nor a decline."""

    succeeded: int = 0
    declined: int = 0
    authentication_needed: int = 0
    not_sent: int = 0

    @property
    def answered(self) -> int:
        """Attempts that an issuer answered."""
        return self.succeeded + self.declined + self.authentication_needed

    @property
    def success_rate(self) -> float | None:
        """Successes among the answered attempts; None if none was answered."""
        return self.succeeded / self.answered if self.answered else None


@dataclass(frozen=True)
class Slot:
    """The attempts of one hour or day that begins at `begins_at`."""

    begins_at: datetime
    attempts: Attempts


@dataclass(frozen=True)
class DeclinesOfCode:
    """How often a code was returned, and its description. `category` is None for an unknown code."""

    code: str
    declines: int
    category: DeclineCategory | None
    description: str


@dataclass(frozen=True)
class AttemptMetrics:
    """Oldest slot first; the last one isn't complete. Days are those of `zone`."""

    zone: ZoneInfo
    hours: tuple[Slot, ...]
    days: tuple[Slot, ...]
    last_24_hours: Attempts
    declines: tuple[DeclinesOfCode, ...]
    other_declines: int


def business_zone(policy: Policy) -> ZoneInfo:
    """The zone of the days: the coverages' own if they share one, else UTC."""
    zones = {coverage.time_zone for coverage in policy.coverages.values()}
    return ZoneInfo(zones.pop() if len(zones) == 1 else "UTC")


def gather_attempt_metrics(connection: Connection, policy: Policy, now: datetime) -> AttemptMetrics:
    """Count the last 24 hours and 14 days before business time `now`, the current ones included."""
    zone = business_zone(policy)
    today = local_date(now, zone)
    days = [today - timedelta(days=back) for back in reversed(range(DAYS))]
    since = instant(days[0], time(0), zone)
    this_hour = since + (now - since) // HOUR * HOUR
    hours = [this_hour - back * HOUR for back in reversed(range(HOURS))]
    by_hour: dict[datetime, Counter[str]] = {hour: Counter() for hour in hours}
    by_day: dict[date, Counter[str]] = {day: Counter() for day in days}
    codes: Counter[str] = Counter()
    for row in connection.execute(_BY_HOUR, {"since": since, "now": now}):
        hour = row.hour.astimezone(UTC)
        if hour in by_hour:
            by_hour[hour][row.state] += row.attempts
        day = local_date(hour, zone)
        if day in by_day:
            by_day[day][row.state] += row.attempts
        if row.state == AttemptState.DECLINED:
            codes[row.code or NO_CODE] += row.attempts
    return AttemptMetrics(
        zone=zone,
        hours=tuple(Slot(hour, _attempts(by_hour[hour])) for hour in hours),
        days=tuple(Slot(instant(day, time(0), zone), _attempts(by_day[day])) for day in days),
        last_24_hours=_attempts(_sum(by_hour.values())),
        declines=tuple(_of_code(code, declines) for code, declines in _by_frequency(codes)[:TOP_CODES]),
        other_declines=sum(declines for _, declines in _by_frequency(codes)[TOP_CODES:]),
    )


def _attempts(counted: Mapping[str, int]) -> Attempts:
    return Attempts(
        succeeded=counted.get(AttemptState.SUCCEEDED, 0),
        declined=counted.get(AttemptState.DECLINED, 0),
        authentication_needed=counted.get(AttemptState.AUTHENTICATION_NEEDED, 0),
        not_sent=counted.get(AttemptState.NOT_SENT, 0),
    )


def _sum(counted: Iterable[Counter[str]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for each in counted:
        total.update(each)
    return total


def _by_frequency(codes: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(codes.items(), key=lambda each: (-each[1], each[0]))


def _of_code(code: str, declines: int) -> DeclinesOfCode:
    return DeclinesOfCode(code, declines, category_of_code().get(code), capitalised(meaning_of_code(code)))


#: Hours of the zone: they are counted from one of its midnights.
_BY_HOUR = text("""
    SELECT date_bin('1 hour', a.finished_at, :since) AS hour, a.state,
           CASE WHEN a.state = 'declined' THEN coalesce(a.decline_code, a.code) END AS code, count(*) AS attempts
    FROM payment_attempts a
    WHERE a.finished_at >= :since AND a.finished_at <= :now AND a.kind = 'charge'
    GROUP BY 1, 2, 3
""")
