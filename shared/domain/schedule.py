"""The schedule as data, and the pure functions that say what is due when.

A run belongs to a job, a period and a coverage. That key is unique, so a run is created once, however often and by
however many schedulers it is found due. Nothing here stores what was done: the existing rows are an argument. So
catching up after an outage, the virtual clock and an ordinary second are the same code.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from enum import StrEnum
from typing import NamedTuple
from zoneinfo import ZoneInfo

from shared.domain.calendar import Period, instant, local_date
from shared.domain.states import RunState

#: A scheduler that was down for longer than a year needs an operator, not a dozen more runs. The bound loses
#: nothing: fees that were never invoiced are lines of the next invoice.
MAX_MONTHS_BACK = 12


class Cadence(StrEnum):
    """How often an entry of the schedule is due, in the coverage's calendar."""

    MONTHLY = "monthly"  # on a month's first day, for the month before; the period is that month, `2026-10`
    DAILY = "daily"  # each day, for that day; the period is the local date, `2026-11-04`


@dataclass(frozen=True)
class ScheduleEntry:
    """One line of the schedule: a job of one coverage, at a wall-clock time in the coverage's zone."""

    job: str
    cadence: Cadence
    coverage: str
    zone: ZoneInfo
    at: time
    #: Only monthly: a run later than this awaits confirmation. A daily run is never created for another day.
    catch_up_within: timedelta = timedelta.max


class RunKey(NamedTuple):
    """The unique key of a run."""

    job: str
    period: str
    coverage: str


@dataclass(frozen=True)
class DueRun:
    """A run that is due and has no row yet, and the state to insert it in."""

    job: str
    period: str
    coverage: str
    scheduled_for_at: datetime
    state: RunState

    @property
    def key(self) -> RunKey:
        return RunKey(self.job, self.period, self.coverage)


def due_runs(
    schedule: Sequence[ScheduleEntry],
    now: datetime,
    known_run_keys: Collection[RunKey],
    since: Mapping[str, datetime],
) -> list[DueRun]:
    """Return the runs to insert at business time `now`, oldest first.

    `since` says since when each coverage is scheduled; what was due before that is an operator's decision, so that
    a fresh install creates no runs for earlier years. A coverage that isn't in `since` has nothing due. Monthly
    runs are caught up, at most MAX_MONTHS_BACK, and await confirmation if they are later than `catch_up_within`. Of
    the daily runs only today's latest is created.
    """
    found: list[DueRun] = []
    for entry in schedule:
        began_at = since.get(entry.coverage)
        if began_at is None:
            continue
        for period, moment in _moments_come(entry, now):
            if moment < began_at or RunKey(entry.job, period, entry.coverage) in known_run_keys:
                continue
            is_late = now - moment > entry.catch_up_within
            state = RunState.AWAITING_CONFIRMATION if is_late else RunState.READY
            found.append(DueRun(entry.job, period, entry.coverage, moment, state))
    return sorted(found, key=lambda run: (run.scheduled_for_at, run.key))


def next_moment(schedule: Sequence[ScheduleEntry], after: datetime) -> datetime:
    """Return the first moment strictly after `after` at which an entry is due; ValueError if empty."""
    return min(_next_of(entry, after) for entry in schedule)


def next_moments(schedule: Sequence[ScheduleEntry], after: datetime) -> list[tuple[ScheduleEntry, datetime]]:
    """Return each entry with its first due moment strictly after `after`, the soonest first."""
    coming = ((entry, _next_of(entry, after)) for entry in schedule)
    return sorted(coming, key=lambda each: (each[1], each[0].job, each[0].coverage))


def moment_of(entry: ScheduleEntry, period: str) -> datetime:
    """Return when the run of `period` is due; ValueError if the text is not a period of this entry's cadence."""
    if entry.cadence is Cadence.MONTHLY:
        return instant(Period.parse(period).next.first_day, entry.at, entry.zone)
    return instant(datetime.strptime(period, "%Y-%m-%d").date(), entry.at, entry.zone)  # noqa: DTZ007  # a date


def _moments_come(entry: ScheduleEntry, now: datetime) -> list[tuple[str, datetime]]:
    """The periods of an entry that are due by `now`, as far back as it looks."""
    today = local_date(now, entry.zone)
    if entry.cadence is Cadence.MONTHLY:
        months: list[tuple[str, datetime]] = []
        period = Period.of(today)
        for _ in range(MAX_MONTHS_BACK):
            period = period.previous
            months.append((str(period), instant(period.next.first_day, entry.at, entry.zone)))
        return [(name, moment) for name, moment in months if moment <= now]
    # Where clocks skip midnight, yesterday's time of day may first be reached today.
    days = [(day, instant(day, entry.at, entry.zone)) for day in (today, today - timedelta(days=1))]
    come = [(str(day), moment) for day, moment in days if moment <= now and local_date(moment, entry.zone) == today]
    return come[:1]


def _next_of(entry: ScheduleEntry, after: datetime) -> datetime:
    today = local_date(after, entry.zone)
    if entry.cadence is Cadence.MONTHLY:
        days = [Period.of(today).first_day, Period.of(today).next.first_day]
    else:
        days = [today + timedelta(days=ahead) for ahead in (-1, 0, 1)]
    return min(moment for day in days if (moment := instant(day, entry.at, entry.zone)) > after)
