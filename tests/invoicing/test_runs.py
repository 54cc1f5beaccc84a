"""A monthly run delivered twice, worked on by two workers, or killed in the middle has the same result."""

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import Engine, text

from shared.clock import machine_now
from shared.db.billing_events import Cause
from shared.domain.states import RunState
from shared.invoicing.month import Month
from shared.invoicing.preview import preview_month
from shared.messaging.jobs import GenerateInvoices
from shared.payments.locked_rows import lock_collectable_monthly
from shared.scheduling.runs import reopen_run
from tests import seed
from tests.invoicing.month_start import (
    NOVEMBER,
    MonthStart,
    add_mixed_accounts,
    assert_gapless,
    issued,
    one,
    rows,
    stopping_at,
    wait_for_waiter,
    wait_until_gone,
)

ACCOUNTS = 70  # of seven kinds; 50 of them get an invoice
INVOICES = 50


@pytest.fixture
def world(engine: Engine) -> MonthStart:
    with engine.begin() as connection:
        add_mixed_accounts(connection, ACCOUNTS)
    return MonthStart(engine, accounts_per_chunk=10)


def promised(world: MonthStart, coverage: str = "global") -> dict[str, object]:
    return preview_month(world.engine, Month.of(world.policy, coverage, "2026-10")).counts.stored()


def add_run(world: MonthStart, coverage: str = "global", state: RunState = RunState.READY) -> UUID:
    with world.engine.begin() as connection:
        return seed.add_run(connection, coverage=coverage, state=state)


def in_background(work: Callable[[], object]) -> "Future[object]":
    pool = ThreadPoolExecutor(1)
    future = pool.submit(work)
    pool.shutdown(wait=False)
    return future


def assert_complete(world: MonthStart, run_id: UUID, expected: dict[str, object]) -> None:
    """Assert what must hold at the end, whatever happened before."""
    run = one(world.engine, "SELECT * FROM runs WHERE id = :id", id=run_id)
    assert (run["state"], run["counts"]) == ("finished", expected)
    assert (run["started_at"], run["finished_at"]) == (NOVEMBER, NOVEMBER)
    assert_gapless(world.engine, run["coverage"], INVOICES)
    records = one(
        world.engine,
        """
        SELECT count(*) AS invoices, sum(i.total_minor) AS total_minor, bool_and(p.id IS NOT NULL) AS have_payments,
               bool_and(i.total_minor = p.amount_minor AND i.total_minor =
                   (SELECT sum(l.amount_minor) FROM invoice_lines l WHERE l.invoice_id = i.id)) AS agree
        FROM invoices i LEFT JOIN payments p ON p.invoice_id = i.id WHERE i.coverage = :coverage
        """,
        coverage=run["coverage"],
    )
    assert records == {
        "invoices": expected["invoices"],
        "total_minor": expected["total_minor"],
        "have_payments": True,
        "agree": True,
    }
    told = rows(
        world.engine, "SELECT type, count(*) FROM billing_events WHERE run_id = :id GROUP BY type", id=run_id
    )
    assert {row["type"]: row["count"] for row in told} == {
        "run_started": 1,
        "run_finished": 1,
        "invoice_issued": INVOICES,
    }


def test_run_invoices_each_account_once_and_counts(world: MonthStart) -> None:
    expected = promised(world)
    run_id = world.run()
    assert_complete(world, run_id, expected)
    assert expected["skipped"] == {"trial": 10, "nothing_to_bill": 10}
    assert (expected["accounts_seen"], expected["due"], expected["carried_forward"]) == (ACCOUNTS, 20, 10)
    assert (expected["zero_paid"], expected["awaiting_transfer"]) == (10, 10)


def test_invoice_numbers_follow_the_accounts_across_chunks(world: MonthStart) -> None:
    world.run()
    found = rows(world.engine, "SELECT number FROM invoices ORDER BY account_id")
    assert [row["number"] for row in found] == [f"G-2026-{n:06d}" for n in range(1, INVOICES + 1)]


def test_millionth_invoice_of_a_year_has_seven_digits(world: MonthStart) -> None:
    with world.engine.begin() as connection:
        connection.execute(text("INSERT INTO invoice_counters VALUES ('global', 2026, 999998)"))
    world.run()
    found = rows(world.engine, "SELECT number FROM invoices ORDER BY number_sequence LIMIT 3")
    assert [row["number"] for row in found] == ["G-2026-999999", "G-2026-1000000", "G-2026-1000001"]


def test_repeated_messages_change_nothing(world: MonthStart) -> None:
    expected = promised(world)
    run_id = world.run()
    for _ in range(3):
        world.deliver(run_id)
    assert_complete(world, run_id, expected)


def test_rerun_of_a_finished_run_issues_nothing_new(world: MonthStart) -> None:
    run_id = world.run()
    with world.engine.begin() as connection:
        assert reopen_run(connection, run_id, Cause("operator:ann", NOVEMBER, "to be sure"))
    world.deliver(run_id)
    assert_gapless(world.engine, "global", INVOICES)
    counts = world.counts(run_id)
    assert (counts["invoices"], counts["skipped"]["already_invoiced"]) == (0, INVOICES)


def test_run_awaiting_confirmation_is_not_worked_on(world: MonthStart) -> None:
    run_id = add_run(world, state=RunState.AWAITING_CONFIRMATION)
    world.deliver(run_id)
    assert one(world.engine, "SELECT state FROM runs")["state"] == "awaiting_confirmation"
    assert issued(world.engine) == {}


def test_locked_run_is_skipped(world: MonthStart) -> None:
    run_id = add_run(world)
    with world.engine.begin() as other_session:
        other_session.execute(text("SELECT 1 FROM runs WHERE id = :id FOR UPDATE"), {"id": run_id})
        world.deliver(run_id)
    assert issued(world.engine) == {}
    assert world.enqueued == []


def test_run_enqueues_itself_when_its_time_is_up(world: MonthStart) -> None:
    began, looks = machine_now(), iter(range(100))
    world.machine_now = lambda: began + timedelta(seconds=8 * next(looks))  # two chunks fit into 20 s
    run_id = add_run(world)
    world.deliver_once(run_id)
    assert world.enqueued == [GenerateInvoices(run_id)]
    assert world.counts(run_id)["accounts_seen"] == 20
    world.enqueued.clear()
    world.deliver(run_id)
    assert one(world.engine, "SELECT state FROM runs")["state"] == "finished"


@pytest.mark.parametrize("sequence", [1, 8, 23, 50])
def test_connection_lost_inside_a_chunk_loses_no_number(world: MonthStart, sequence: int) -> None:
    expected, run_id = promised(world), add_run(world)
    with stopping_at(world.engine, sequence) as wait:
        lost = in_background(lambda: world.deliver(run_id))
        with world.engine.begin() as connection:
            connection.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": wait()})
    lost.result(timeout=30)  # the chunk is repeated from its start on a new connection
    world.deliver(run_id)
    assert_complete(world, run_id, expected)


def test_worker_killed_three_times_issues_the_same_invoices(world: MonthStart) -> None:
    expected, run_id = promised(world), add_run(world)
    url = world.engine.url.render_as_string(hide_password=False)
    for sequence in (5, 21, 44):
        with stopping_at(world.engine, sequence) as wait:
            worker = subprocess.Popen([sys.executable, "-m", "tests.invoicing.worker", url, str(run_id), "10"])
            held_by = wait()
            worker.kill()
            worker.wait()
        wait_until_gone(world.engine, held_by)  # PostgreSQL has to notice; the run is locked until then
        assert len(issued(world.engine)) < sequence
    world.deliver(run_id)
    assert_complete(world, run_id, expected)


def test_two_workers_on_one_run_take_turns(world: MonthStart) -> None:
    expected, run_id = promised(world), add_run(world)
    world.accounts_per_chunk = 2
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(world.deliver, run_id) for _ in range(12)]:
            done.result(timeout=30)
    world.deliver(run_id)
    assert_complete(world, run_id, expected)


def test_concurrent_coverages_each_have_gapless_numbers(world: MonthStart) -> None:
    with world.engine.begin() as connection:
        add_mixed_accounts(connection, ACCOUNTS, "japan")
    world.accounts_per_chunk = 5
    runs = {coverage: (add_run(world, coverage), promised(world, coverage)) for coverage in ("global", "japan")}
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(world.deliver, run_id) for run_id, _ in runs.values()]:
            done.result(timeout=30)
    for run_id, expected in runs.values():
        assert_complete(world, run_id, expected)


def test_concurrent_months_of_one_coverage_share_its_numbers(world: MonthStart) -> None:
    world.clock.set(datetime(2026, 12, 1, tzinfo=NOVEMBER.tzinfo))
    with world.engine.begin() as connection:
        november = seed.add_run(connection, "2026-11")
    october = add_run(world)
    world.accounts_per_chunk = 3
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(world.deliver, run_id) for run_id in (october, november)]:
            done.result(timeout=30)
    how_many = one(world.engine, "SELECT count(*) FROM invoices")["count"]
    assert_gapless(world.engine, "global", how_many)
    assert one(world.engine, "SELECT count(*) FROM fees WHERE invoice_id IS NULL AND period = '2026-10-01'") == {
        "count": ACCOUNTS // 7  # of the trials
    }


def test_card_registered_during_month_start_finds_the_new_payment(engine: Engine) -> None:
    world = MonthStart(engine)
    with engine.begin() as connection:
        anna = seed.add_account(connection, "anna")
        seed.add_fee(connection, anna, 29_85)
    run_id = add_run(world)

    def register() -> list[UUID]:
        with engine.begin() as connection:
            seed.add_card(connection, anna)  # waits for the chunk, which has the settings locked
            return [payment.id for payment in lock_collectable_monthly(connection, anna.id, "global")]

    with stopping_at(engine, 1) as wait:
        month_start = in_background(lambda: world.deliver(run_id))
        wait()
        registration = in_background(register)
        wait_for_waiter(engine, "locktype <> 'advisory'")
    month_start.result(timeout=20)
    assert registration.result(timeout=20) == [issued(engine)["anna"]["payment_id"]]


def test_month_start_waits_for_a_change_of_payment_settings(engine: Engine) -> None:
    world = MonthStart(engine)
    with engine.begin() as connection:
        seed.add_fee(connection, seed.add_account(connection, "anna"), 29_85)
    run_id = add_run(world)
    with engine.begin() as other_session:
        other_session.execute(text("UPDATE payment_settings SET kind = 'bank_transfer'"))
        month_start = in_background(lambda: world.deliver(run_id))
        wait_for_waiter(engine)
    month_start.result(timeout=20)
    assert issued(engine)["anna"]["state"] == "awaiting_transfer"


def test_fee_corrected_during_month_start_is_billed_as_corrected(engine: Engine) -> None:
    world = MonthStart(engine)
    with engine.begin() as connection:
        anna = seed.add_account(connection, "anna")
        seed.add_fee(connection, anna, 29_85)
        seed.add_fee(connection, anna, 1_00)
    run_id = add_run(world)
    with engine.begin() as importer:
        importer.execute(text("UPDATE fees SET amount_minor = 3000 WHERE amount_minor = 2985"))
        month_start = in_background(lambda: world.deliver(run_id))
        wait_for_waiter(engine)
    month_start.result(timeout=20)
    assert issued(engine)["anna"]["total_minor"] == 31_00


def test_fee_added_during_month_start_is_on_this_or_the_next_invoice(engine: Engine) -> None:
    world = MonthStart(engine)
    with engine.begin() as connection:
        anna = seed.add_account(connection, "anna")
        seed.add_fee(connection, anna, 29_85)
    run_id = add_run(world)
    with stopping_at(engine, 1) as wait:
        month_start = in_background(lambda: world.deliver(run_id))
        wait()
        with engine.begin() as importer:
            seed.add_fee(importer, anna, 7_00)
    month_start.result(timeout=20)
    assert issued(engine)["anna"]["total_minor"] == 29_85
    world.clock.set(datetime(2026, 12, 1, tzinfo=NOVEMBER.tzinfo))
    world.run("2026-11")
    assert issued(engine, "2026-11")["anna"]["total_minor"] == 7_00
