"""Month start: late fees, small totals, a scheduler that was down, and two schedulers."""

import threading
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import text

from scheduler.app import SchedulerApp
from scheduler.tick import tick
from shared.messaging.jobs import Job
from tests.diaries.diary import Diary


def test_fee_imported_after_its_month_was_invoiced_is_on_the_next_invoice(diary: Diary) -> None:
    anna = diary.account("A-1")
    diary.register_card(anna)
    diary.fee(anna, 29_85, "2026-10")
    diary.day(1)

    diary.day(5)
    diary.fee(anna, 4_15, "2026-10")
    diary.fee(anna, 30_00, "2026-11")

    diary.day(31)
    assert diary.lines(anna, "2026-10") == [29_85]
    assert sorted(diary.lines(anna, "2026-11")) == [4_15, 30_00]
    assert diary.money(diary.payment(anna, "2026-10")) == [("2026-11-01 00:00", 29_85)]
    assert diary.money(diary.payment(anna, "2026-11")) == [("2026-12-01 00:00", 34_15)]


def test_total_below_the_minimum_is_paid_with_the_next_month(diary: Diary) -> None:
    anna = diary.account("A-1")
    diary.register_card(anna)
    diary.fee(anna, 49, "2026-10")

    diary.day(2)
    with diary.world.engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM invoices")) == 0, "0.49 could not be charged"
    assert diary.requests("payment_intents") == 0
    assert diary.world.standing(anna) == "good"

    diary.fee(anna, 5_00, "2026-11")
    diary.day(31)
    assert diary.lines(anna, "2026-11") in ([49, 5_00], [5_00, 49])
    assert diary.money(diary.payment(anna, "2026-11")) == [("2026-12-01 00:00", 5_49)]


def test_zero_total_is_paid_without_the_processor(diary: Diary) -> None:
    anna, bert = diary.account("A-1"), diary.account("B-1")
    diary.register_card(anna)
    diary.fee(anna, 0)
    diary.fee(bert, 0)

    diary.day(2)
    for account in (anna, bert):
        payment = diary.payment(account)
        assert diary.state(payment) == "paid"
        assert diary.attempts(payment) == []
    assert diary.requests("payment_intents") == 0
    assert diary.world.simulator.ledger() == []


def test_scheduler_down_until_3_november_invoices_october_once(
    two_coverages: Diary,
) -> None:
    diary = two_coverages
    anna, emi = diary.account("A-1"), diary.account("E-1", "japan")
    for account, amount in ((anna, 29_85), (emi, 3_000)):
        diary.register_card(account)
        diary.fee(account, amount)

    diary.sleep_until("2026-11-03 08:00")
    diary.work()
    assert [(run.coverage, run.period, run.state) for run in diary.runs("monthly-invoices")] == [
        ("global", "2026-10", "finished"),
        ("japan", "2026-10", "finished"),
    ]
    assert [(run.coverage, run.period) for run in diary.runs("daily-retries")] == [("japan", "2026-11-03")], (
        "one for today where it is past nine, none for the days that were missed"
    )
    assert str(diary.invoice(anna, "2026-10").issued_on) == "2026-11-03", "nothing is dated back"

    diary.day(5)
    assert len(diary.runs("monthly-invoices")) == 2
    assert diary.money(diary.payment(anna)) == [("2026-11-03 08:00", 29_85)]
    assert diary.money(diary.payment(emi)) == [("2026-11-03 08:00", 3_000)]
    assert len(diary.world.simulator.ledger()) == 2


def test_two_schedulers_at_month_change_create_one_run_per_coverage(two_coverages: Diary) -> None:
    diary = two_coverages
    anna, emi = diary.account("A-1"), diary.account("E-1", "japan")
    for account, amount in ((anna, 29_85), (emi, 3_000)):
        diary.register_card(account)
        diary.fee(account, amount)
    diary.sleep_until("2026-11-01 00:00")

    at_once = threading.Barrier(2, timeout=10)

    def tick_believing_to_lead(_: int) -> list[Job]:
        at_once.wait()
        return tick(diary.world.engine, diary.world.policy, diary.now)

    with ThreadPoolExecutor(2) as schedulers:
        enqueued = [job for jobs in schedulers.map(tick_believing_to_lead, range(2)) for job in jobs]
    due = Counter(
        (run.job, run.coverage)
        for job in ("monthly-invoices", "daily-retries", "reconciliation")
        for run in diary.runs(job)
    )
    assert due == {
        ("monthly-invoices", "global"): 1,
        ("monthly-invoices", "japan"): 1,
        ("daily-retries", "japan"): 1,  # it is nine in the morning there
        ("reconciliation", "japan"): 1,
    }
    assert len(enqueued) == len(set(enqueued)) == 4, "and each was rung for by one of them"
    assert len(diary.billing_events("run_scheduled")) == 4

    diary.day(2)
    assert diary.money(diary.payment(anna)) == [("2026-11-01 00:00", 29_85)]
    assert diary.money(diary.payment(emi)) == [("2026-11-01 00:00", 3_000)]


def test_two_full_schedulers_handle_a_month_change_like_one(two_coverages: Diary) -> None:
    diary = two_coverages
    world = diary.world
    anna = diary.account("A-1")
    diary.register_card(anna)
    diary.fee(anna, 29_85)
    enqueued: list[Job] = []

    def enqueue(jobs: Iterable[Job]) -> bool:
        enqueued.extend(jobs)
        return True

    apps = [
        SchedulerApp(
            database_url=diary.database_url,
            engine=world.engine,
            policy=world.policy,
            clock=world.clock,
            machine_now=world.machine,
            enqueue=enqueue,
            waiting_in=lambda _queue: 0,
        )
        for _ in range(2)
    ]
    try:
        for moment in ("2026-10-31 23:59", "2026-11-01 00:00", "2026-11-01 09:00"):
            diary.sleep_until(moment)
            for _ in range(3):
                with ThreadPoolExecutor(2) as both:
                    list(both.map(lambda app: app.sweep(), apps))
                diary.do_all([enqueued.pop(0) for _ in range(len(enqueued))])
                world.machine.advance(seconds=5)
    finally:
        for app in apps:
            app.stop()

    assert Counter((run.job, run.period, run.coverage) for run in diary.runs("monthly-invoices")) == {
        ("monthly-invoices", "2026-10", "global"): 1,
        ("monthly-invoices", "2026-10", "japan"): 1,
    }
    assert diary.money(diary.payment(anna)) == [("2026-11-01 00:00", 29_85)]
