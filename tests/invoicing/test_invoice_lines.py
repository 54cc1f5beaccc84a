"""An invoice's lines, their amounts, and the first state of its payment. One account, one rule at a time."""

from datetime import UTC, date, datetime

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from shared.domain.calendar import Period
from shared.domain.proration import Pricing, active_days, service_amount_minor
from shared.invoicing.month import Month
from shared.invoicing.preview import preview_month
from tests import seed
from tests.invoicing.month_start import NOVEMBER, MonthStart, issued, lines, one, rows


def after(period: str) -> datetime:
    return datetime.combine(Period.parse(period).next.first_day, datetime.min.time(), tzinfo=UTC)


@pytest.mark.parametrize(
    ("period", "starts_on", "ends_on", "price_minor", "expected_minor", "days"),
    [
        ("2026-10", date(2026, 10, 1), None, 3_100, 3_100, 31),
        ("2026-10", date(2026, 10, 31), None, 3_100, 100, 1),
        ("2026-10", date(2020, 1, 1), date(2026, 10, 10), 3_100, 1_000, 10),
        ("2026-10", date(2026, 10, 10), date(2026, 10, 10), 3_100, 100, 1),
        ("2026-02", date(2026, 2, 15), None, 2_800, 1_400, 14),
        ("2028-02", date(2028, 2, 29), None, 2_900, 100, 1),
        ("2028-02", date(2028, 1, 29), date(2028, 2, 29), 2_900, 2_900, 29),
        ("2026-11", date(2026, 11, 16), None, 999, 500, 15),  # 499.5 is rounded up
        ("2026-11", date(2026, 11, 16), None, 997, 499, 15),  # 498.5 too: up, not to even
        ("2026-10", date(2026, 10, 31), None, 15, 0, 1),  # 0.48 is rounded down
    ],
)
def test_a_monthly_price_is_shared_out_over_the_days_of_its_own_month(
    engine: Engine,
    period: str,
    starts_on: date,
    ends_on: date | None,
    price_minor: int,
    expected_minor: int,
    days: int,
) -> None:
    world = MonthStart(engine)
    world.clock = type(world.clock)(after(period))
    with engine.begin() as connection:
        anna = seed.add_account(connection, "anna")
        seed.add_service(connection, anna, price_minor, starts_on=starts_on, ends_on=ends_on)
    world.run(period)
    (line,) = lines(engine, "anna", period)
    assert (line["amount_minor"], line["active_days"], line["unit_price_minor"]) == (
        expected_minor,
        days,
        price_minor,
    )
    assert line["from_on"] == max(starts_on, Period.parse(period).first_day)
    assert line["until_on"] == min(ends_on or date.max, Period.parse(period).last_day)


@pytest.mark.parametrize(("period", "days"), [("2026-10", 31), ("2026-11", 30), ("2026-02", 28), ("2028-02", 29)])
def test_daily_price_is_multiplied_by_active_days(engine: Engine, period: str, days: int) -> None:
    world = MonthStart(engine)
    world.clock = type(world.clock)(after(period))
    with engine.begin() as connection:
        anna = seed.add_account(connection, "anna")
        seed.add_service(connection, anna, 70, "daily")
        seed.add_service(connection, anna, 70, "daily", starts_on=Period.parse(period).last_day)
    world.run(period)
    assert issued(engine, period)["anna"]["total_minor"] == 70 * days + 70


def test_sql_and_python_proration_agree_on_every_day(engine: Engine) -> None:
    world = MonthStart(engine)
    world.clock = type(world.clock)(after("2028-02"))
    february = Period.parse("2028-02")
    expected = {}
    with engine.begin() as connection:
        anna = seed.add_account(connection, "anna", kind="bank_transfer")  # no maximum
        for pricing in Pricing:
            for first in (
                date(2028, 1, 31),
                date(2028, 2, 1),
                date(2028, 2, 13),
                date(2028, 2, 29),
                date(2028, 3, 1),
            ):
                for last in (None, date(2028, 1, 31), date(2028, 2, 13), date(2028, 2, 29), date(2028, 3, 1)):
                    for price in (0, 1, 7, 999, 123_456_789_012):
                        if last is not None and last < first:
                            continue
                        service_id = seed.add_service(
                            connection, anna, price, pricing, starts_on=first, ends_on=last
                        )
                        days = active_days(first, last, february)
                        if days is not None:
                            expected[service_id] = service_amount_minor(pricing, price, days.count, february)
    world.run("2028-02")
    assert {line["service_id"]: line["amount_minor"] for line in lines(engine, "anna", "2028-02")} == expected


def test_inactive_service_has_no_line(engine: Engine) -> None:
    world = MonthStart(engine)
    with engine.begin() as connection:
        anna = seed.add_account(connection, "anna")
        seed.add_service(connection, anna, 900, starts_on=date(2026, 11, 1))
        seed.add_service(connection, anna, 900, ends_on=date(2026, 9, 30))
    run_id = world.run()
    assert issued(engine) == {}
    assert world.counts(run_id)["skipped"] == {"nothing_to_bill": 1}


def test_late_fee_is_on_the_next_invoice_with_its_month(engine: Engine) -> None:
    world = MonthStart(engine)
    with engine.begin() as connection:
        anna = seed.add_account(connection, "anna")
        seed.add_fee(connection, anna, 1_000)
    world.run()
    with engine.begin() as connection:
        seed.add_fee(connection, anna, 250, "2026-10", description="Late roaming")
        seed.add_fee(connection, anna, 40, "2026-08", description="Very late roaming", occurred_on=date(2026, 8, 9))
        seed.add_fee(connection, anna, 7, "2026-12", description="Too early")
    world.clock.set(datetime(2026, 12, 1, tzinfo=UTC))
    world.run("2026-11")
    found = {line["description"]: line for line in lines(engine, "anna", "2026-11")}
    assert {name: line["amount_minor"] for name, line in found.items()} == {
        "Late roaming": 250,
        "Very late roaming": 40,
    }
    assert (found["Late roaming"]["from_on"], found["Late roaming"]["until_on"]) == (
        date(2026, 10, 1),
        date(2026, 10, 31),
    )
    assert found["Very late roaming"]["from_on"] == date(2026, 8, 9)
    assert one(engine, "SELECT count(*) FROM fees WHERE invoice_id IS NULL")["count"] == 1


def test_fee_dated_within_the_month_is_not_late(engine: Engine) -> None:
    world = MonthStart(engine)
    with engine.begin() as connection:
        anna = seed.add_account(connection, "anna")
        seed.add_fee(connection, anna, 5_00)
        connection.execute(text("UPDATE fees SET period = '2026-10-15'"))
    world.run()
    assert issued(engine)["anna"]["total_minor"] == 5_00


def test_card_invoice_is_due_at_once_and_transfer_is_awaited(engine: Engine) -> None:
    world = MonthStart(engine)
    with engine.begin() as connection:
        for name, kind in (("anna", "card"), ("ben", "bank_transfer")):
            seed.add_fee(connection, seed.add_account(connection, name, kind=kind), 29_85)
    run_id = world.run()
    anna, ben = issued(engine)["anna"], issued(engine)["ben"]
    assert (anna["state"], anna["next_attempt_at"], anna["due_on"]) == ("due", NOVEMBER, date(2026, 11, 1))
    assert (anna["lane"], anna["trigger"], anna["kind"], anna["run_id"]) == (
        "batch",
        "month_start",
        "monthly",
        run_id,
    )
    assert (ben["state"], ben["next_attempt_at"], ben["due_on"]) == ("awaiting_transfer", None, date(2026, 12, 1))
    assert anna["payment_due_on"] == anna["due_on"]
    assert ben["payment_due_on"] == ben["due_on"]


def test_late_run_dates_invoices_with_the_issue_day(engine: Engine) -> None:
    world = MonthStart(engine)
    with engine.begin() as connection:
        seed.add_fee(connection, seed.add_account(connection, "anna"), 29_85, "2026-12")
    world.clock.set(datetime(2027, 1, 3, 8, tzinfo=UTC))
    world.run("2026-12")
    anna = issued(engine, "2026-12")["anna"]
    assert (anna["number"], anna["issued_on"], anna["due_on"]) == (
        "G-2027-000001",
        date(2027, 1, 3),
        date(2027, 1, 3),
    )


def test_zero_invoice_is_paid_at_once_with_a_reason(engine: Engine) -> None:
    world = MonthStart(engine)
    with engine.begin() as connection:
        for name, kind in (("anna", "card"), ("ben", "bank_transfer")):
            seed.add_fee(connection, seed.add_account(connection, name, kind=kind), 0)
    run_id = world.run()
    for found in issued(engine).values():
        assert (found["state"], found["paid_at"], found["next_attempt_at"]) == ("paid", NOVEMBER, None)
        assert "total is zero" in found["state_reason"]
    assert world.counts(run_id)["zero_paid"] == 2


@pytest.mark.parametrize(("coverage", "below_minor", "enough_minor"), [("global", 49, 50), ("japan", 49, 50)])
def test_service_below_the_minimum_is_invoiced_and_carried_forward(
    engine: Engine, coverage: str, below_minor: int, enough_minor: int
) -> None:
    world = MonthStart(engine)
    with engine.begin() as connection:
        anna = seed.add_account(connection, "anna", coverage)
        seed.add_service(connection, anna, below_minor, starts_on=date(2026, 10, 1), ends_on=date(2026, 10, 31))
        seed.add_fee(connection, seed.add_account(connection, "ben", coverage), enough_minor)
        transfer = seed.add_account(connection, "cleo", coverage, "bank_transfer")
        seed.add_fee(connection, transfer, below_minor)
    run_id = world.run(coverage=coverage)
    october = issued(engine, coverage=coverage)
    assert {name: found["state"] for name, found in october.items()} == {
        "anna": "carried_forward",
        "ben": "due",
        "cleo": "awaiting_transfer",  # a bank transfer has no minimum
    }
    assert world.counts(run_id)["carried_forward_minor"] == below_minor

    with engine.begin() as connection:
        seed.add_fee(connection, anna, 1_000, "2026-11")
    world.clock.set(datetime(2026, 12, 1, tzinfo=UTC))
    world.run("2026-11", coverage)
    assert issued(engine, "2026-11", coverage)["anna"]["total_minor"] == 1_000 + below_minor
    carried = one(engine, "SELECT * FROM fees WHERE carried_from_payment_id IS NOT NULL")
    assert carried["external_id"] == f"carried:{october['anna']['payment_id']}"
    assert october["anna"]["number"] in carried["description"]


@pytest.mark.parametrize("coverage", ["global", "japan"])
def test_fees_below_the_minimum_wait_uninvoiced_until_their_sum_reaches_it(engine: Engine, coverage: str) -> None:
    world = MonthStart(engine)
    with engine.begin() as connection:
        anna = seed.add_account(connection, "anna", coverage)
        seed.add_fee(connection, anna, 20)
    for period, month in (("2026-10", 11), ("2026-11", 12)):
        world.clock.set(datetime(2026, month, 2, tzinfo=UTC))
        preview = preview_month(engine, Month.of(world.policy, coverage, period))
        run_id = world.run(period, coverage)
        assert issued(engine, period, coverage) == {}
        assert world.counts(run_id)["skipped"] == {"below_minimum": 1} == preview.counts.skipped
    with engine.begin() as connection:
        seed.add_fee(connection, anna, 30, "2026-12")
    world.clock.set(datetime(2027, 1, 2, tzinfo=UTC))
    world.run("2026-12", coverage)
    invoice = issued(engine, "2026-12", coverage)["anna"]
    assert (invoice["total_minor"], invoice["state"], invoice["number"][-6:]) == (50, "due", "000001")
    assert [line["amount_minor"] for line in lines(engine, "anna", "2026-12", coverage)] == [20, 30]


def test_trial_account_keeps_its_fees_until_it_pays(engine: Engine) -> None:
    world = MonthStart(engine)
    with engine.begin() as connection:
        seed.add_fee(connection, seed.add_account(connection, "anna", kind="trial"), 29_85)
    run_id = world.run()
    assert issued(engine) == {}
    assert world.counts(run_id)["skipped"] == {"trial": 1}
    with engine.begin() as connection:
        connection.execute(text("UPDATE payment_settings SET kind = 'card'"))
    world.clock.set(datetime(2026, 12, 1, tzinfo=UTC))
    world.run("2026-11")
    assert issued(engine, "2026-11")["anna"]["total_minor"] == 29_85


def test_invoice_keeps_the_billing_details_of_its_issue_day(engine: Engine) -> None:
    world = MonthStart(engine)
    with engine.begin() as connection:
        anna = seed.add_account(
            connection,
            "anna",
            name="Anna",
            email="anna@example.com",
            language="ja",
            billing_details={"name": "Anna GmbH", "tax_id": "DE123", "address": {"city": "Ulm"}, "email": None},
        )
        seed.add_fee(connection, anna, 29_85)
        odd = seed.add_account(connection, "odd", name="Odd", billing_details=None)
        seed.add_fee(connection, odd, 29_85)
        connection.execute(
            text("UPDATE payment_settings SET billing_details = '[3]' WHERE id = :id"), {"id": odd.settings_id}
        )
    world.run()
    with engine.begin() as connection:
        connection.execute(text("UPDATE payment_settings SET billing_details = '{}'"))
    assert issued(engine)["anna"]["billing_snapshot"] == {
        "name": "Anna GmbH",
        "email": "anna@example.com",
        "tax_id": "DE123",
        "address": {"city": "Ulm"},
        "language": "ja",
        "coverage": "global",
        "account_external_id": "anna",
    }
    assert issued(engine)["odd"]["billing_snapshot"]["name"] == "Odd"


def test_lines_are_ordered_services_first(engine: Engine) -> None:
    world = MonthStart(engine)
    with engine.begin() as connection:
        anna = seed.add_account(connection, "anna")
        seed.add_fee(connection, anna, 3, external_id="b", description="third")
        seed.add_fee(connection, anna, 2, external_id="c", description="second", occurred_on=date(2026, 10, 2))
        seed.add_service(connection, anna, 1, description="first")
    world.run()
    found = lines(engine, "anna")
    assert [(line["position"], line["description"]) for line in found] == [
        (1, "first"),
        (2, "second"),
        (3, "third"),
    ]


def test_each_coverage_has_its_own_zone_currency_and_numbers(engine: Engine) -> None:
    world = MonthStart(engine)
    with engine.begin() as connection:
        anna = seed.add_account(connection, "anna", "global")
        anna_in_japan = seed.add_account(connection, "anna", "japan")
        seed.add_fee(connection, anna, 29_85)
        seed.add_fee(connection, anna_in_japan, 3_000)
    # 31 October, 16:00 in UTC: November has begun in Tokyo and not in the global coverage.
    world.clock = type(world.clock)(datetime(2026, 10, 31, 16, tzinfo=UTC))
    run_id = world.run()
    assert issued(engine) == {}
    assert one(engine, "SELECT state FROM runs WHERE id = :id", id=run_id)["state"] == "ready"
    world.run(coverage="japan")
    world.clock.set(NOVEMBER)
    world.deliver(run_id)
    here, there = issued(engine)["anna"], issued(engine, coverage="japan")["anna"]
    assert (here["number"], here["currency"], here["total_minor"]) == ("G-2026-000001", "USD", 29_85)
    assert (there["number"], there["currency"], there["total_minor"]) == ("J-2026-000001", "JPY", 3_000)
    assert there["issued_on"] == date(2026, 11, 1)


def test_billing_events_record_each_invoice_and_the_run(engine: Engine) -> None:
    world = MonthStart(engine)
    with engine.begin() as connection:
        seed.add_fee(connection, seed.add_account(connection, "anna"), 29_85)
        seed.add_service(
            connection,
            seed.add_account(connection, "ben"),
            7,
            starts_on=date(2026, 10, 1),
            ends_on=date(2026, 10, 31),
        )
    run_id = world.run()
    found = issued(engine)
    told = rows(engine, "SELECT * FROM billing_events WHERE run_id = :id ORDER BY id", id=run_id)
    assert sorted(event["type"] for event in told) == [
        "invoice_issued",
        "invoice_issued",
        "run_finished",
        "run_started",
    ]
    by_payment = {event["payment_id"]: event for event in told if event["payment_id"]}
    for name, state, lines_minor in (("anna", "due", 29_85), ("ben", "carried_forward", 7)):
        event = by_payment[found[name]["payment_id"]]
        assert (event["actor"], event["at"], event["after"]) == ("worker", NOVEMBER, {"state": state})
        assert event["data"]["number"] == found[name]["number"]
        assert event["data"]["amount_minor"] == lines_minor
    assert told[-1]["data"]["counts"] == world.counts(run_id)


def test_fee_cannot_be_on_two_invoices(engine: Engine) -> None:
    world = MonthStart(engine)
    with engine.begin() as connection:
        seed.add_fee(connection, seed.add_account(connection, "anna"), 29_85)
        seed.add_fee(connection, seed.add_account(connection, "ben"), 29_85)
    world.run()
    taken = lines(engine, "anna")[0]["fee_id"]
    with engine.connect() as connection, pytest.raises(DBAPIError, match="uq_invoice_lines_fee_id"):
        connection.execute(
            text(
                "INSERT INTO invoice_lines (invoice_id, position, fee_id, description, amount_minor)"
                " VALUES (:invoice_id, 9, :fee_id, 'again', 1)"
            ),
            {"invoice_id": issued(engine)["ben"]["invoice_id"], "fee_id": taken},
        )
