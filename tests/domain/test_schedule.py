"""Which runs are due when: catching up, confirmation, daylight saving, leap days, a fresh install."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest

from shared.domain.calendar import local_date
from shared.domain.schedule import (
    Cadence,
    DueRun,
    RunKey,
    ScheduleEntry,
    due_runs,
    moment_of,
    next_moment,
    next_moments,
)
from shared.domain.states import RunState

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
EVER: Mapping[str, datetime] = {"here": LONG_AGO}


def monthly(zone: str = "UTC", catch_up_days: int = 7) -> ScheduleEntry:
    return ScheduleEntry(
        "monthly-invoices", Cadence.MONTHLY, "here", ZoneInfo(zone), time(0), timedelta(days=catch_up_days)
    )


def daily(zone: str = "UTC", at: time = time(9)) -> ScheduleEntry:
    return ScheduleEntry("daily-retries", Cadence.DAILY, "here", ZoneInfo(zone), at)


def keys(runs: list[DueRun]) -> list[tuple[str, RunState]]:
    return [(run.period, run.state) for run in runs]


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def months_until(last: str) -> frozenset[RunKey]:
    """Run keys of all months from 2019 up to and including `last`."""
    names = (f"{year}-{month:02d}" for year in range(2019, 2030) for month in range(1, 13))
    return frozenset(RunKey("monthly-invoices", name, "here") for name in names if name <= last)


def test_month_is_due_from_its_end_in_the_coverage_zone() -> None:
    tokyo = [monthly("Asia/Tokyo")]
    known = months_until("2026-09")
    assert due_runs(tokyo, at("2026-10-31T14:59:59"), known, EVER) == []
    run = DueRun("monthly-invoices", "2026-10", "here", at("2026-10-31T15:00:00"), RunState.READY)
    assert due_runs(tokyo, at("2026-10-31T15:00:00"), known, EVER) == [run]
    assert run.key == RunKey(job="monthly-invoices", period="2026-10", coverage="here")


def test_existing_run_is_not_due_again() -> None:
    assert due_runs([monthly()], at("2026-11-01T00:00"), months_until("2026-10"), EVER) == []


def test_missed_month_is_caught_up_within_days_and_later_awaits_confirmation() -> None:
    known = months_until("2026-09")
    assert keys(due_runs([monthly()], at("2026-11-08T00:00"), known, EVER)) == [("2026-10", RunState.READY)]
    late = due_runs([monthly()], at("2026-11-08T00:00:01"), known, EVER)
    assert keys(late) == [("2026-10", RunState.AWAITING_CONFIRMATION)]


def test_only_the_last_month_of_a_long_outage_needs_no_confirmation() -> None:
    missed = due_runs([monthly()], at("2027-02-02T00:00"), months_until("2026-10"), EVER)
    waits = RunState.AWAITING_CONFIRMATION
    assert keys(missed) == [("2026-11", waits), ("2026-12", waits), ("2027-01", RunState.READY)]


def test_missed_month_before_an_existing_run_is_found() -> None:
    known = months_until("2027-01") - months_until("2026-12") | months_until("2026-11")
    missed = due_runs([monthly()], at("2027-02-02T00:00"), known, EVER)
    assert keys(missed) == [("2026-12", RunState.AWAITING_CONFIRMATION)]


def test_inactive_coverage_does_not_delay_others() -> None:
    elsewhere = replace(monthly(), coverage="elsewhere")
    runs = due_runs([elsewhere, monthly()], at("2026-11-01T00:00"), months_until("2026-09"), EVER)
    assert [(run.coverage, run.period) for run in runs] == [("here", "2026-10")]


def test_schedule_looks_back_at_most_a_year() -> None:
    assert len(due_runs([monthly()], at("2026-11-02T00:00"), frozenset(), EVER)) == 12


def test_fresh_install_creates_no_past_runs() -> None:
    began = {"here": at("2026-11-03T08:00")}
    schedule = [monthly(), daily()]
    assert due_runs(schedule, at("2026-11-03T08:00"), frozenset(), began) == []
    assert keys(due_runs(schedule, at("2026-11-03T09:00"), frozenset(), began)) == [("2026-11-03", RunState.READY)]
    assert due_runs(schedule, at("2026-11-03T09:00"), frozenset(), {}) == []


def test_run_due_at_the_start_of_the_schedule_is_created() -> None:
    first = at("2026-11-01T00:00")
    assert keys(due_runs([monthly()], first, frozenset(), {"here": first})) == [("2026-10", RunState.READY)]


def test_only_todays_daily_run_is_due_after_missed_days() -> None:
    runs = due_runs([daily()], at("2026-11-04T23:00"), frozenset(), EVER)
    assert keys(runs) == [("2026-11-04", RunState.READY)]
    assert due_runs([daily()], at("2026-11-05T08:59:59"), frozenset(), EVER) == []


def test_runs_are_sorted_oldest_first() -> None:
    runs = due_runs([daily(), monthly()], at("2026-11-01T10:00"), months_until("2026-09"), EVER)
    assert [run.job for run in runs] == ["monthly-invoices", "daily-retries"]


def test_the_leap_day_and_the_year_end_belong_to_their_months() -> None:
    known = months_until("2028-01")
    assert due_runs([monthly()], at("2028-02-29T23:59:59"), known, EVER) == []
    assert keys(due_runs([monthly()], at("2028-03-01T00:00"), known, EVER)) == [("2028-02", RunState.READY)]
    leap = due_runs([daily()], at("2028-02-29T09:00"), frozenset(), EVER)
    assert keys(leap) == [("2028-02-29", RunState.READY)]
    new_year = due_runs([monthly("America/New_York")], at("2027-01-01T05:00"), months_until("2026-11"), EVER)
    assert keys(new_year) == [("2026-12", RunState.READY)]


ZONES = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Nuuk", "UTC"]
TIMES = [time(0), time(0, 30), time(1, 45), time(2, 0), time(2, 30), time(9), time(23, 30)]


def lived(entry: ScheduleEntry, moments: list[datetime]) -> list[str]:
    """The periods of the runs created by ticks at these moments."""
    made: list[str] = []
    for now in moments:
        known = {RunKey(entry.job, period, "here") for period in made[-3:]}
        made += [run.period for run in due_runs([entry], now, known, EVER)]
    return made


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("hour", TIMES)
def test_each_local_day_of_the_year_has_exactly_one_daily_run(zone: str, hour: time) -> None:
    entry = daily(zone, hour)
    stops = [at("2025-12-30T00:00")]
    while stops[-1] < at("2027-01-02T00:00"):
        stops.append(next_moment([entry], stops[-1]))
    days = [str(date(2026, 1, 1) + timedelta(days=count)) for count in range(365)]
    assert [period for period in lived(entry, stops) if period[:4] == "2026"] == days


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("hour", TIMES)
def test_frequent_ticks_create_one_daily_run_a_day_across_clock_changes(zone: str, hour: time) -> None:
    entry = daily(zone, hour)
    noons = [datetime(2026, 1, 1, 12, tzinfo=entry.zone) + timedelta(days=count) for count in range(365)]
    changes = [day for day in noons if day.utcoffset() != (day - timedelta(days=1)).utcoffset()]
    assert len(changes) == (0 if zone == "UTC" else 2)
    for change in changes:
        first = (change - timedelta(days=2)).astimezone(UTC)
        moments = [first + timedelta(minutes=10 * count) for count in range(6 * 24 * 4)]
        days = [str(change.date() + timedelta(days=count)) for count in (-1, 0, 1)]
        assert [period for period in lived(entry, moments) if period in days] == days


def test_daily_run_keeps_its_wall_clock_time_across_daylight_saving() -> None:
    berlin = daily("Europe/Berlin")
    assert moment_of(berlin, "2026-03-28") == at("2026-03-28T08:00")
    assert moment_of(berlin, "2026-03-29") == at("2026-03-29T07:00")
    assert moment_of(berlin, "2026-10-25") == at("2026-10-25T08:00")
    new_york = daily("America/New_York")
    assert moment_of(new_york, "2026-03-08") == at("2026-03-08T13:00")
    assert moment_of(new_york, "2026-11-01") == at("2026-11-01T14:00")
    lord_howe = daily("Australia/Lord_Howe")  # half an hour of daylight saving
    assert moment_of(lord_howe, "2026-04-05") == at("2026-04-04T22:30")
    assert moment_of(lord_howe, "2026-10-04") == at("2026-10-03T22:00")


def test_skipped_hour_runs_after_the_gap_and_doubled_hour_once() -> None:
    gap = daily("Europe/Berlin", time(2, 30))
    assert moment_of(gap, "2026-03-29") == at("2026-03-29T01:30")  # 03:30 local: 02:30 did not exist
    assert local_date(moment_of(gap, "2026-03-29"), gap.zone) == date(2026, 3, 29)
    doubled = moment_of(gap, "2026-10-25")
    assert doubled == at("2026-10-25T00:30")  # the first of the two
    assert next_moment([gap], doubled) == at("2026-10-26T01:30")


def test_run_time_skipped_over_midnight_falls_on_the_next_day() -> None:
    """In Nuuk the 28th of March 2026 ends at 23:00, and 23:30 of it is half past midnight of the 29th."""
    nuuk = daily("America/Nuuk", time(23, 30))
    saturday, sunday = moment_of(nuuk, "2026-03-28"), moment_of(nuuk, "2026-03-29")
    assert saturday == at("2026-03-29T01:30")
    assert next_moment([nuuk], saturday - timedelta(minutes=10)) == saturday
    assert keys(due_runs([nuuk], saturday, frozenset(), EVER)) == [("2026-03-28", RunState.READY)]
    late = due_runs([nuuk], sunday + timedelta(minutes=5), frozenset(), EVER)
    assert keys(late) == [("2026-03-29", RunState.READY)], "after missing both, one run, for today"


def test_month_starts_at_local_midnight_on_a_daylight_saving_day() -> None:
    # America/New_York leaves daylight saving on 1 November 2026: the month still starts at the first midnight.
    assert moment_of(monthly("America/New_York"), "2026-10") == at("2026-11-01T04:00")


def test_next_moment_is_the_earliest_strictly_after_now() -> None:
    schedule = [monthly("Asia/Tokyo"), daily(), monthly()]
    stops = [at("2026-10-31T10:00")]
    for _ in range(4):
        stops.append(next_moment(schedule, stops[-1]))
    assert stops[1:] == [
        at("2026-10-31T15:00"),
        at("2026-11-01T00:00"),
        at("2026-11-01T09:00"),
        at("2026-11-02T09:00"),
    ]


def test_invalid_period_is_rejected() -> None:
    with pytest.raises(ValueError, match="2026-10"):
        moment_of(monthly(), "October")
    with pytest.raises(ValueError, match="does not match"):
        moment_of(daily(), "2026-13-01x")


def test_entries_are_listed_with_their_next_moment_soonest_first() -> None:
    schedule = [monthly("Asia/Tokyo"), daily("UTC", time(9)), daily("Asia/Tokyo", time(9))]
    coming = next_moments(schedule, at("2026-11-30T09:00:00"))
    assert [(entry.cadence, str(entry.zone), moment) for entry, moment in coming] == [
        (Cadence.MONTHLY, "Asia/Tokyo", at("2026-11-30T15:00:00")),
        (Cadence.DAILY, "Asia/Tokyo", at("2026-12-01T00:00:00")),
        (Cadence.DAILY, "UTC", at("2026-12-01T09:00:00")),
    ]
    assert coming[0][1] == next_moment(schedule, at("2026-11-30T09:00:00"))
