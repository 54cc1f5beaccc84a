"""Special days: clock changes, leap days, short months, and a zone ahead of UTC."""

from dataclasses import replace
from datetime import date

import pytest

from shared.policy import Coverage, Policy
from simulator.issuer.stories import DeclinesThenPays, InsufficientFundsUntil
from tests.diaries.conftest import OpenDiary
from tests.diaries.diary import Diary
from tests.seed import default_policy


def berlin() -> Policy:
    return replace(default_policy(), coverages={"berlin": Coverage("berlin", "EUR", "Europe/Berlin", "B", 50)})


@pytest.mark.parametrize(
    ("day_one", "before", "asked_at", "month_start"),
    [
        pytest.param(
            date(2026, 10, 24),
            "2026-09",
            # Sunday the 25th: clocks go back at 03:00, from UTC+2 to UTC+1
            ["2026-10-23 12:00", "2026-10-24 07:00", "2026-10-25 08:00", "2026-10-26 08:00"],
            "2026-10-31 23:00",
            id="autumn",
        ),
        pytest.param(
            date(2027, 3, 27),
            "2027-02",
            # Sunday the 28th: clocks go forward at 02:00, from UTC+1 to UTC+2
            ["2027-03-26 12:00", "2027-03-27 08:00", "2027-03-28 07:00", "2027-03-29 07:00"],
            "2027-03-31 22:00",
            id="spring",
        ),
    ],
)
def test_berlin_is_charged_at_nine_before_and_after_the_clock_change(
    open_diary: OpenDiary, day_one: date, before: str, asked_at: list[str], month_start: str
) -> None:
    diary = open_diary(day_one, berlin())
    anna = diary.account("A-1", "berlin")
    diary.register_card(anna, story=DeclinesThenPays(times=3, decline_code="insufficient_funds"))
    diary.fee(anna, 29_85, before)
    diary.run_invoices_by_operator(before, "berlin")

    diary.day(4)
    payment = diary.payment(anna, before)
    assert [f"{attempt.started_at:%Y-%m-%d %H:%M}" for attempt in diary.world.attempts(payment)] == asked_at
    assert [when[-5:] for when, _ in diary.attempts(payment)[1:]] == ["09:00"] * 3, "on Berlin's clocks"
    assert diary.money(payment) == [(asked_at[-1], 29_85)]

    diary.fee(anna, 30_00, asked_at[0][:7])
    diary.advance_to(f"{month_start[:-5]}23:30")
    days = [run.period for run in diary.runs("daily-retries")]
    assert days == sorted(set(days)), "one daily run for each local day"
    first, last = date.fromisoformat(days[0]), date.fromisoformat(days[-1])
    assert len(days) == (last - first).days + 1, "and no day without one"
    assert {
        run.scheduled_for_at.astimezone(diary.coverage(anna).zone).hour for run in diary.runs("daily-retries")
    } == {9}
    assert diary.money(diary.payment(anna, asked_at[0][:7])) == [(month_start, 30_00)], "at local midnight"


def test_29th_of_february_is_billed(open_diary: OpenDiary) -> None:
    diary = open_diary(date(2028, 3, 1))
    anna = diary.account("A-1")
    diary.register_card(anna)
    diary.service(anna, 1_00, "daily", external_id="1")
    diary.service(anna, 29_00, starts_on=date(2028, 2, 15), external_id="2")
    diary.service(anna, 29_00, starts_on=date(2028, 2, 29), external_id="3")
    diary.service(anna, 29_00, ends_on=date(2028, 2, 28), external_id="4")
    diary.service(anna, 29_00, starts_on=date(2028, 3, 1), external_id="next month's")

    diary.day(1)
    assert sorted(diary.lines(anna, "2028-02")) == sorted([29 * 1_00, 15 * 1_00, 1_00, 28 * 1_00])
    assert diary.money(diary.payment(anna)) == [("2028-03-01 00:00", 73_00)]


def test_leap_day_has_a_daily_run(open_diary: OpenDiary) -> None:
    diary = open_diary(date(2028, 2, 28))
    diary.day(3)
    assert [run.period for run in diary.runs("daily-retries")] == ["2028-02-28", "2028-02-29", "2028-03-01"]
    assert [run.period for run in diary.runs("monthly-invoices")] == ["2028-02"]


@pytest.mark.parametrize(
    ("day_one", "lines"),
    [
        # whole month, from the 15th, until the 10th, one day; half a cent is rounded up
        pytest.param(date(2027, 2, 1), [31_00, 17_00, 10_00, 32], id="31 days"),
        pytest.param(date(2027, 3, 1), [31_00, 15_50, 11_07, 36], id="28 days"),
    ],
)
def test_a_monthly_price_is_shared_out_over_the_days_of_its_own_month(
    open_diary: OpenDiary, day_one: date, lines: list[int]
) -> None:
    diary = open_diary(day_one)
    month = date(day_one.year, day_one.month - 1, 1)
    anna = diary.account("A-1")
    diary.register_card(anna)
    diary.service(anna, 31_00, external_id="whole")
    diary.service(anna, 31_00, starts_on=month.replace(day=15), external_id="begun")
    diary.service(anna, 31_00, ends_on=month.replace(day=10), external_id="ended")
    diary.service(anna, 10_00, starts_on=month.replace(day=7), ends_on=month.replace(day=7), external_id="one day")

    diary.day(1)
    period = f"{month:%Y-%m}"
    assert sorted(diary.lines(anna, period)) == sorted(lines)
    assert diary.money(diary.payment(anna)) == [(f"{day_one} 00:00", sum(lines))]


def test_yen_and_dollar_coverages_keep_their_own_midnight_numbers_and_amounts(
    two_coverages: Diary,
) -> None:
    diary = two_coverages
    anna, anna_in_japan = diary.account("A-1"), diary.account("A-1", "japan")
    diary.register_card(anna)
    diary.register_card(anna_in_japan, story=InsufficientFundsUntil(date=date(2026, 11, 3)))
    diary.fee(anna, 29_85)
    diary.fee(anna_in_japan, 2_985)
    diary.service(anna_in_japan, 1_000, starts_on=date(2026, 10, 22))

    diary.advance_to("2026-10-31 14:59")
    assert diary.runs("monthly-invoices") == []
    diary.advance_to("2026-10-31 15:00")
    assert [run.coverage for run in diary.runs("monthly-invoices")] == ["japan"]
    in_japan = diary.invoice(anna_in_japan, "2026-10")
    assert (in_japan.number, in_japan.currency, in_japan.total_minor) == ("J-2026-000001", "JPY", 3_308)
    assert str(in_japan.issued_on) == "2026-11-01", "it is November there"

    diary.day(3)
    invoice = diary.invoice(anna, "2026-10")
    assert (invoice.number, invoice.currency, invoice.total_minor) == ("G-2026-000001", "USD", 29_85)
    assert diary.attempts(diary.payment(anna_in_japan)) == [
        ("11-01 00:00", "declined"),
        ("11-02 09:00", "declined"),
        ("11-03 09:00", "succeeded"),
    ], "on Tokyo's clocks"
    assert [(line.account, line.currency, line.amount) for line in diary.world.simulator.ledger()] == [
        ("global", "usd", 29_85),
        ("japan", "jpy", 3_308),
    ]
