"""One scheduler leads, all may tick, and every run is created once."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from sqlalchemy import Engine, text
from structlog.testing import capture_logs

from scheduler.tick import tick
from shared.clock import ManualClock, VirtualClock
from shared.db.billing_events import BillingEvent, Cause, record_event
from shared.db.tables.system import business_clock
from shared.domain.schedule import RunKey
from shared.domain.states import AttemptState, Lane
from shared.messaging.jobs import ChargePayment, GenerateInvoices, ReconcileCharges, RetryPayments
from shared.policy import Policy
from shared.scheduling.leader_lock import is_scheduler_alive
from shared.scheduling.runs import RunError, confirm_run, find_run
from tests.scheduler.conftest import OCTOBER_ENDS, Enqueued, MachineTime, MakeApp, all_runs, events_of_type
from tests.scheduler.test_sweep import add_attempt
from tests.seed import add_account, add_payment

OCTOBER = [
    ("monthly-invoices", "2026-10", "global", "ready"),
    ("monthly-invoices", "2026-10", "japan", "ready"),
]


def monthly(engine: Engine) -> list[tuple[str, str, str, str]]:
    return [run for run in all_runs(engine) if run[0] == "monthly-invoices"]


def test_two_schedulers_create_one_run_per_coverage_at_month_change(
    engine: Engine, make_app: MakeApp, clock: ManualClock, queued: Enqueued
) -> None:
    apps = [make_app(), make_app()]
    for app in apps:
        app.tick()
    clock.set(OCTOBER_ENDS)
    threads = [threading.Thread(target=app.sweep) for app in apps for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert monthly(engine) == OCTOBER
    assert len([job for job in queued.enqueued if isinstance(job, GenerateInvoices)]) == 2
    assert len(events_of_type(engine, "run_scheduled")) == len(all_runs(engine))


def test_two_leaders_still_create_one_run(engine: Engine, policy: Policy) -> None:
    tick(engine, policy, OCTOBER_ENDS - timedelta(days=1))
    together = threading.Barrier(4)

    def race() -> None:
        together.wait()
        tick(engine, policy, OCTOBER_ENDS)

    with ThreadPoolExecutor(4) as pool:
        for racer in [pool.submit(race) for _ in range(4)]:
            racer.result()  # coming second is no error
    assert monthly(engine) == OCTOBER
    assert len(events_of_type(engine, "run_scheduled")) == len(all_runs(engine))


def test_scheduler_down_over_month_change_creates_the_run_once(
    engine: Engine, make_app: MakeApp, clock: ManualClock
) -> None:
    first = make_app()
    first.tick()
    first.stop()
    assert monthly(engine) == []
    clock.set(datetime(2026, 11, 3, 12, tzinfo=UTC))
    second = make_app()
    second.tick()
    second.sweep()
    assert monthly(engine) == OCTOBER
    assert [run[:3] for run in all_runs(engine) if run[0] == "daily-retries"] == [
        ("daily-retries", "2026-10-31", "japan"),  # of the first one's day
        ("daily-retries", "2026-11-03", "global"),
        ("daily-retries", "2026-11-03", "japan"),
    ]


def test_run_past_the_catch_up_window_awaits_a_named_user_with_a_reason(
    engine: Engine, make_app: MakeApp, clock: ManualClock, queued: Enqueued
) -> None:
    app = make_app()
    app.tick()
    clock.set(OCTOBER_ENDS + timedelta(days=8))
    queued.taken()
    app.sweep()
    assert {run[3] for run in monthly(engine)} == {"awaiting_confirmation"}
    assert not [job for job in queued.taken() if isinstance(job, GenerateInvoices)]

    with engine.begin() as connection:
        run = find_run(connection, RunKey("monthly-invoices", "2026-10", "global"))
        with pytest.raises(RunError, match="reason"):
            confirm_run(connection, run.id, Cause("operator:anna", clock.now()))
        confirm_run(connection, run.id, Cause("operator:anna", clock.now(), "the data centre was dark"))
    app.sweep()
    assert GenerateInvoices(run.id) in queued.taken()
    assert monthly(engine)[0] == OCTOBER[0]
    (confirmed,) = events_of_type(engine, "run_confirmed")
    assert (confirmed.actor, confirmed.reason) == ("operator:anna", "the data centre was dark")
    with engine.begin() as connection, pytest.raises(RunError, match="needs no confirmation"):
        confirm_run(connection, run.id, Cause("operator:anna", clock.now(), "again"))


def test_schedule_begins_with_the_first_tick_and_survives_a_restart(
    engine: Engine, make_app: MakeApp, clock: ManualClock
) -> None:
    first_at = clock.now()
    make_app().tick()
    clock.set(first_at + timedelta(days=3))
    make_app().tick()
    assert {(row.at, row.data["coverage"]) for row in events_of_type(engine, "schedule_began")} == {
        (first_at, "global"),
        (first_at, "japan"),
    }


def test_only_one_scheduler_leads_and_leadership_is_visible(
    engine: Engine, make_app: MakeApp, clock: ManualClock, queued: Enqueued
) -> None:
    leader, follower = make_app(), make_app()
    with engine.connect() as connection:
        assert not is_scheduler_alive(connection)
    leader.tick()
    with engine.connect() as connection:
        assert is_scheduler_alive(connection)
    clock.set(OCTOBER_ENDS)
    follower.sweep()
    assert monthly(engine) == []
    leader.stop()
    with engine.connect() as connection:
        assert not is_scheduler_alive(connection)
    follower.tick()
    assert monthly(engine) == OCTOBER


def test_leader_without_its_connection_stops_acting_and_the_follower_takes_over(
    engine: Engine, make_app: MakeApp, clock: ManualClock
) -> None:
    leader, follower = make_app(), make_app()
    leader.tick()
    end_sessions(engine, "duecourse-scheduler")
    clock.set(OCTOBER_ENDS)
    leader.tick()
    assert monthly(engine) == []
    follower.tick()
    leader.tick()
    assert monthly(engine) == OCTOBER


def test_scheduler_survives_a_database_outage(
    engine: Engine, database_url: str, make_app: MakeApp, clock: ManualClock
) -> None:
    app = make_app()
    app.tick()
    name = database_url.rsplit("/", 1)[1]
    with psycopg.connect(database_url.rsplit("/", 1)[0] + "/postgres", autocommit=True) as admin:
        admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
        clock.set(OCTOBER_ENDS)
        with capture_logs() as logged:
            for _ in range(5):
                app.tick()
                app.sweep()
        admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
    assert "scheduler.defect" not in {line["event"] for line in logged}
    assert len([line for line in logged if line["event"] == "scheduler.waits"]) <= 2, "logged when it changes"
    engine.dispose()
    app.tick()
    assert monthly(engine) == OCTOBER


def test_scheduler_waits_for_an_unset_virtual_clock(engine: Engine, make_app: MakeApp) -> None:
    app = make_app(VirtualClock(engine))
    app.tick()
    app.sweep()
    assert events_of_type(engine, "schedule_began") == []
    with engine.begin() as connection:
        connection.execute(business_clock.insert().values(now_at=OCTOBER_ENDS))
    app.tick()
    assert monthly(engine) == OCTOBER[:1]  # Japan's October ended nine hours before there was a clock


def test_error_in_one_turn_does_not_end_the_scheduler(
    engine: Engine, make_app: MakeApp, clock: ManualClock, queued: Enqueued
) -> None:
    def ring_badly(jobs: object) -> bool:
        raise RuntimeError("a defect")

    app = make_app(enqueue=ring_badly)
    app.tick()
    clock.set(OCTOBER_ENDS)
    app.tick()
    assert monthly(engine) == OCTOBER
    app.sweep()
    app.stop()
    later = make_app()
    later.sweep()
    assert {type(job) for job in queued.taken()} == {GenerateInvoices, ReconcileCharges, RetryPayments}


def end_sessions(engine: Engine, application_name: str) -> None:
    with engine.connect() as connection:
        ended = connection.scalars(
            text(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE application_name = :name AND datname = current_database()"
            ),
            {"name": application_name},
        ).all()
    assert ended


def test_scheduler_ends_outage_backoffs_once_other_requests_succeed(
    engine: Engine, make_app: MakeApp, machine: MachineTime, queued: Enqueued
) -> None:
    app, now = make_app(), machine()
    with engine.begin() as connection:
        account = add_account(connection, "A-1")
        pausing = add_payment(
            connection,
            account,
            100,
            next_attempt_at=OCTOBER_ENDS - timedelta(days=2),
            not_sent_count=9,
            backoff_until=now + timedelta(seconds=1_280 - 90),
        )
        answered = add_payment(connection, account, 100, state="paid", next_attempt_at=None, paid_at=now)
        attempt = add_attempt(
            connection,
            account,
            answered,
            AttemptState.SUCCEEDED,
            confirm_allowed_at=now - timedelta(seconds=80),
            finished_at=now,
        )
        event = BillingEvent("attempt_answered", now, "worker", attempt_id=attempt, after={"state": "succeeded"})
        record_event(connection, event)
    app.sweep()
    assert ChargePayment(pausing, Lane.BATCH) in queued.enqueued
    assert len(events_of_type(engine, "backoff_ended")) == 1
