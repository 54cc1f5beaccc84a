"""Billing months and local time: leap years, year ends, daylight saving."""

import time as machine
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.domain.calendar import Period, instant, local_date

PERIODS = st.builds(Period, st.integers(1970, 2200), st.integers(1, 12))
BERLIN = ZoneInfo("Europe/Berlin")


@pytest.fixture
def machine_in_tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        machine.tzset()
        yield
    machine.tzset()


@pytest.mark.parametrize("text", ["2026-10", " 2026-10 ", "2026-10\n"])
def test_period_parses_a_month(text: str) -> None:
    assert Period.parse(text) == Period(2026, 10)


@pytest.mark.parametrize(
    "text", ["", "2026", "2026-00", "2026-13", "2026-1", "26-10", "2026-10-01", "2026/10", "October"]
)
def test_invalid_month_is_rejected_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="is not a period; write a month like 2026-10") as refused:
        Period.parse(text)
    assert repr(text) in str(refused.value)


@pytest.mark.parametrize(
    ("period", "days"),
    [("2026-01", 31), ("2026-04", 30), ("2026-02", 28), ("2028-02", 29), ("2100-02", 28), ("2000-02", 29)],
)
def test_month_counts_its_days_in_leap_years_too(period: str, days: int) -> None:
    month = Period.parse(period)
    assert month.days == days
    assert month.first_day == date(month.year, month.month, 1)
    assert month.last_day == date(month.year, month.month, days)


def test_december_is_followed_by_january() -> None:
    assert Period(2026, 12).next == Period(2027, 1)
    assert Period(2027, 1).previous == Period(2026, 12)


@settings(deadline=None)  # a loaded machine is slow
@given(PERIODS)
def test_months_have_no_gap_or_overlap(month: Period) -> None:
    assert month.next.previous == month
    assert month.next.first_day - month.last_day == timedelta(days=1)
    assert month.previous < month < month.next
    assert Period.parse(str(month)) == month
    assert Period.of(month.first_day) == Period.of(month.last_day) == month


def test_period_is_formatted_with_four_and_two_digits() -> None:
    assert str(Period(2026, 3)) == "2026-03"
    assert str(Period(987, 11)) == "0987-11"


def test_day_begins_at_local_midnight() -> None:
    tokyo, new_york = ZoneInfo("Asia/Tokyo"), ZoneInfo("America/New_York")
    assert local_date(datetime(2026, 10, 31, 14, 59, 59, tzinfo=UTC), tokyo) == date(2026, 10, 31)
    assert local_date(datetime(2026, 10, 31, 15, 0, tzinfo=UTC), tokyo) == date(2026, 11, 1)
    assert local_date(datetime(2027, 1, 1, 4, 59, tzinfo=UTC), new_york) == date(2026, 12, 31)
    assert local_date(datetime(2028, 2, 29, 23, 30, tzinfo=UTC), BERLIN) == date(2028, 3, 1)


@pytest.mark.parametrize(
    ("day", "at", "expected"),
    [
        (date(2026, 1, 15), time(9), "2026-01-15 08:00"),
        (date(2026, 7, 15), time(9), "2026-07-15 07:00"),
        (date(2026, 3, 29), time(1, 59), "2026-03-29 00:59"),
        (date(2026, 3, 29), time(2, 30), "2026-03-29 01:30"),  # clocks never showed it: 03:30, after the gap
        (date(2026, 3, 29), time(3, 0), "2026-03-29 01:00"),
        (date(2026, 10, 25), time(2, 30), "2026-10-25 00:30"),  # shown twice: the first of the two
        (date(2026, 10, 25), time(3, 0), "2026-10-25 02:00"),
        (date(2028, 2, 29), time(0), "2028-02-28 23:00"),
    ],
)
def test_wall_clock_time_maps_to_one_instant(day: date, at: time, expected: str) -> None:
    assert f"{instant(day, at, BERLIN):%Y-%m-%d %H:%M}" == expected


@pytest.mark.usefixtures("machine_in_tokyo")
def test_instants_are_in_utc_in_any_machine_zone() -> None:
    nine = instant(date(2026, 1, 15), time(9), BERLIN)
    assert nine.utcoffset() == timedelta(0)
    assert nine.replace(tzinfo=None) == datetime(2026, 1, 15, 8)  # noqa: DTZ001  # as a log line shows it
    assert local_date(nine, BERLIN) == date(2026, 1, 15)


@settings(deadline=None)  # a loaded machine is slow
@given(st.dates(date(2000, 1, 1), date(2037, 12, 31)), st.times(), st.sampled_from(["UTC", "Asia/Tokyo"]))
def test_zone_without_daylight_saving_round_trips(day: date, at: time, zone: str) -> None:
    place = ZoneInfo(zone)
    assert instant(day, at, place).astimezone(place).replace(tzinfo=None) == datetime.combine(day, at)
