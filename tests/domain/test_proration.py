"""Proration: days are counted, and no minor unit is lost or created."""

from datetime import date, timedelta
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.domain.calendar import Period
from shared.domain.proration import ActiveDays, Pricing, active_days, service_amount_minor

FEBRUARY, LEAP_FEBRUARY, OCTOBER = Period(2026, 2), Period(2028, 2), Period(2026, 10)
PERIODS = st.builds(Period, st.integers(2000, 2100), st.integers(1, 12))


@pytest.mark.parametrize(
    ("starts_on", "ends_on", "period", "expected"),
    [
        (date(2020, 1, 1), None, OCTOBER, (date(2026, 10, 1), date(2026, 10, 31), 31)),
        (date(2026, 10, 1), date(2026, 10, 31), OCTOBER, (date(2026, 10, 1), date(2026, 10, 31), 31)),
        (date(2026, 10, 10), None, OCTOBER, (date(2026, 10, 10), date(2026, 10, 31), 22)),
        (date(2026, 10, 31), None, OCTOBER, (date(2026, 10, 31), date(2026, 10, 31), 1)),
        (date(2020, 1, 1), date(2026, 10, 1), OCTOBER, (date(2026, 10, 1), date(2026, 10, 1), 1)),
        (date(2026, 10, 5), date(2026, 10, 5), OCTOBER, (date(2026, 10, 5), date(2026, 10, 5), 1)),
        (date(2026, 9, 28), date(2026, 11, 2), OCTOBER, (date(2026, 10, 1), date(2026, 10, 31), 31)),
        (date(2028, 2, 29), date(2028, 3, 1), LEAP_FEBRUARY, (date(2028, 2, 29), date(2028, 2, 29), 1)),
        (date(2020, 1, 1), None, LEAP_FEBRUARY, (date(2028, 2, 1), date(2028, 2, 29), 29)),
        (date(2020, 1, 1), None, FEBRUARY, (date(2026, 2, 1), date(2026, 2, 28), 28)),
    ],
)
def test_active_days_include_both_ends(
    starts_on: date, ends_on: date | None, period: Period, expected: tuple[date, date, int]
) -> None:
    active = active_days(starts_on, ends_on, period)
    assert active is not None
    assert (active.from_on, active.until_on, active.count) == expected


@pytest.mark.parametrize(
    ("starts_on", "ends_on"),
    [
        (date(2026, 11, 1), None),
        (date(2020, 1, 1), date(2026, 9, 30)),
        (date(2026, 10, 10), date(2026, 10, 9)),
    ],
)
def test_month_without_active_days_costs_nothing(starts_on: date, ends_on: date | None) -> None:
    assert active_days(starts_on, ends_on, OCTOBER) is None


def test_daily_price_is_multiplied_by_days() -> None:
    assert service_amount_minor(Pricing.DAILY, 99, 1, FEBRUARY) == 99
    assert service_amount_minor(Pricing.DAILY, 99, 28, FEBRUARY) == 27_72
    assert service_amount_minor(Pricing.DAILY, 99, 31, OCTOBER) == 30_69


@pytest.mark.parametrize(
    ("price", "days", "period", "amount"),
    [
        (29_85, 31, OCTOBER, 29_85),
        (29_85, 28, FEBRUARY, 29_85),
        (31_00, 1, OCTOBER, 1_00),
        (31_00, 1, FEBRUARY, 1_11),  # 110.71: a day of February costs more than a day of October
        (31_00, 1, LEAP_FEBRUARY, 1_07),  # 106.90
        (10_00, 10, OCTOBER, 3_23),  # 322.58
        (10_00, 15, Period(2026, 11), 5_00),
        (1, 15, Period(2026, 11), 1),  # exactly half a minor unit is rounded up
        (1, 14, Period(2026, 11), 0),
        (3, 15, Period(2026, 11), 2),  # 1.5
        (0, 17, OCTOBER, 0),
    ],
)
def test_monthly_price_is_prorated_by_days_of_the_month(price: int, days: int, period: Period, amount: int) -> None:
    assert service_amount_minor(Pricing.MONTHLY, price, days, period) == amount


@settings(deadline=None)  # a loaded machine is slow
@given(PERIODS, st.integers(0, 10**9), st.data())
def test_partial_month_rounds_to_the_nearest_minor_unit(period: Period, price: int, data: st.DataObject) -> None:
    days = data.draw(st.integers(1, period.days))
    amount = service_amount_minor(Pricing.MONTHLY, price, days, period)
    assert isinstance(amount, int)
    assert -Fraction(1, 2) < amount - Fraction(price * days, period.days) <= Fraction(1, 2)
    assert 0 <= amount <= price
    assert service_amount_minor(Pricing.MONTHLY, price, period.days, period) == price


@settings(deadline=None)  # a loaded machine is slow
@given(PERIODS, st.integers(-40, 40), st.none() | st.integers(0, 80))
def test_each_day_is_billed_in_its_own_month(period: Period, offset: int, length: int | None) -> None:
    starts_on = period.first_day + timedelta(days=offset)
    ends_on = None if length is None else starts_on + timedelta(days=length)
    active = active_days(starts_on, ends_on, period)
    every = [period.first_day + timedelta(days=count) for count in range(period.days)]
    expected = [day for day in every if starts_on <= day and (ends_on is None or day <= ends_on)]
    if not expected:
        assert active is None
    else:
        assert active == ActiveDays(expected[0], expected[-1])
        assert active.count == len(expected)
