"""The virtual clock moves only forward, stop by stop, and waits at each stop until all pending work is done."""

import queue
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, select, update

from scheduler.app import SchedulerApp
from shared.clock import VirtualClock, machine_now
from shared.db.tables.payments import payments
from shared.db.tables.system import runs
from shared.domain.states import PaymentState, RunState
from shared.messaging.jobs import ChargePayment, GenerateInvoices, Job, ReconcileCharges, RetryPayments
from shared.policy import Policy
from shared.runtime import Runtime
from shared.scheduling.pending_work import pending_work
from shared.scheduling.virtual_clock import ClockError, Step, advance_clock, next_stop, read_clock, set_clock
from tests.scheduler.conftest import all_runs, events_of_type
from tests.seed import add_account, add_card, add_fee, add_payment
from workers.use_cases.generate_invoices import generate_invoices
from workers.use_cases.retry_payments import retry_payments

START = datetime(2026, 10, 31, tzinfo=UTC)
DAY = timedelta(days=1)


class Hands:
    """A worker without Redis: does enqueued runs, and sets charged payments to paid."""

    def __init__(self, engine: Engine, policy: Policy) -> None:
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._runtime = Runtime(
            policy, engine, VirtualClock(engine), machine_now, {}, self.enqueue, timedelta(minutes=5)
        )
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def enqueue(self, jobs: Iterable[Job]) -> bool:
        for job in jobs:
            self._jobs.put(job)
        return True

    def stop(self) -> None:
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if isinstance(job, RetryPayments):
                retry_payments(self._runtime, job.run_id)
            elif isinstance(job, GenerateInvoices):
                generate_invoices(self._runtime, job.run_id)
            elif isinstance(job, ReconcileCharges):
                self._finish(job)
            elif isinstance(job, ChargePayment):
                self._pay(job)

    def _finish(self, job: ReconcileCharges) -> None:
        with self._runtime.engine.begin() as connection:
            connection.execute(
                update(runs)
                .where(runs.c.id == job.run_id)
                .values(state=RunState.FINISHED, finished_at=self._runtime.clock.now())
            )

    def _pay(self, job: ChargePayment) -> None:
        with self._runtime.engine.begin() as connection:
            connection.execute(
                update(payments)
                .where(payments.c.id == job.payment_id)
                .values(state=PaymentState.PAID, next_attempt_at=None, paid_at=self._runtime.clock.now())
            )


@pytest.fixture
def living(database_url: str, engine: Engine, policy: Policy) -> Iterator[SchedulerApp]:
    """A running scheduler, and a worker that does what it enqueues."""
    hands = Hands(engine, policy)
    app = SchedulerApp(
        database_url=database_url,
        engine=engine,
        policy=policy,
        clock=VirtualClock(engine),
        machine_now=machine_now,
        enqueue=hands.enqueue,
        waiting_in=lambda _queue: 0,
    )
    # Long intervals: whatever happens within the test's seconds is caused by the clock's move.
    app.start(60, 60, listens=True)
    yield app
    app.stop()
    hands.stop()


def start_clock(engine: Engine, policy: Policy, at: datetime = START) -> None:
    with engine.begin() as connection:
        set_clock(connection, at, policy)


def test_advance_stops_at_everything_due_within_two_months(
    engine: Engine, policy: Policy, living: SchedulerApp
) -> None:
    start_clock(engine, policy)
    steps: list[Step] = []
    taken = advance_clock(engine, policy, START + 61 * DAY, on_step=steps.append)
    assert taken == len(steps) == 61 * 4 + 2, (
        "04:00 and 09:00 in both zones, and Tokyo's month starts; UTC's are Tokyo's 09:00"
    )
    assert {run[3] for run in all_runs(engine)} == {"finished"}
    made: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for job, period, coverage, _ in all_runs(engine):
        made[job, coverage].append(period)
    days = [str((START + count * DAY).date()) for count in range(62)]
    assert made["daily-retries", "japan"] == days
    assert made["daily-retries", "global"] == days[:-1]
    assert made["reconciliation", "japan"] == days[1:]
    assert made["reconciliation", "global"] == days[:-1]
    assert made["monthly-invoices", "global"] == ["2026-10", "2026-11"]
    assert made["monthly-invoices", "japan"] == ["2026-10", "2026-11"]
    with engine.connect() as connection:
        late = connection.scalars(select(runs.c.id).where(runs.c.finished_at != runs.c.scheduled_for_at)).all()
    assert late == [], "each run was finished before the clock moved on"


def test_advance_stops_where_a_payment_is_due_or_a_hold_ends(engine: Engine, policy: Policy) -> None:
    with engine.begin() as connection:
        set_clock(connection, START, policy)
        account = add_account(connection, "A-1")
        for at, held_until in (
            (START + timedelta(hours=3), None),
            (START - DAY, START + timedelta(hours=2)),
            (START - DAY, datetime(9999, 12, 31, tzinfo=UTC)),
        ):
            add_payment(connection, account, 100, next_attempt_at=at, held_until=held_until)
        stops = [START]
        while stops[-1] < START + timedelta(hours=12):
            stops.append(next_stop(connection, policy, stops[-1], START + timedelta(hours=12)))
    # 00:00 UTC is 09:00 in Tokyo; its month starts at 15:00 UTC, after the target. Reconciliation is at 04:00.
    assert [(stop - START) / timedelta(hours=1) for stop in stops] == [0, 2, 3, 4, 9, 12]


def test_payment_due_during_the_advance_is_charged_at_its_time(
    engine: Engine, policy: Policy, living: SchedulerApp
) -> None:
    start_clock(engine, policy)
    due_at = START + timedelta(hours=4)
    with engine.begin() as connection:
        payment_id = add_payment(connection, add_account(connection, "A-1"), 100, next_attempt_at=due_at)
    advance_clock(engine, policy, START + DAY)
    with engine.connect() as connection:
        paid_at = connection.scalar(select(payments.c.paid_at).where(payments.c.id == payment_id))
    assert paid_at == due_at


def test_payments_of_a_month_start_are_charged_at_that_stop(
    engine: Engine, policy: Policy, living: SchedulerApp
) -> None:
    """The run leaves its payments to the sweep, which is a minute away: the wait has to wake it."""
    start_clock(engine, policy)
    with engine.begin() as connection:
        account = add_account(connection, "A-1")
        add_card(connection, account)
        add_fee(connection, account, 29_85)
    advance_clock(engine, policy, START + DAY + timedelta(hours=1), stalled_after_s=10)
    with engine.connect() as connection:
        assert connection.scalars(select(payments.c.paid_at)).all() == [START + DAY]


def test_clock_only_moves_forward(engine: Engine, policy: Policy) -> None:
    start_clock(engine, policy)
    with engine.begin() as connection, pytest.raises(ClockError, match="only moves forward"):
        set_clock(connection, START - timedelta(seconds=1), policy)
    with engine.connect() as connection:
        assert read_clock(connection) == START


def test_unset_clock_cannot_be_advanced(engine: Engine, policy: Policy) -> None:
    with pytest.raises(ClockError, match="clock set"):
        advance_clock(engine, policy, START)


def test_advance_without_a_scheduler_reports_what_to_start(
    engine: Engine, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.scheduling.virtual_clock.WAIT_FOR_LEADER_S", 0.0)
    start_clock(engine, policy)
    with pytest.raises(ClockError, match="duecourse up"):
        advance_clock(engine, policy, START + DAY)
    with engine.connect() as connection:
        assert read_clock(connection) == START
    assert advance_clock(engine, policy, START + DAY, wait=False) > 1
    with engine.connect() as connection:
        assert read_clock(connection) == START + DAY


def test_undone_work_is_named_and_the_clock_stays_at_its_stop(
    database_url: str, engine: Engine, policy: Policy
) -> None:
    app = SchedulerApp(
        database_url=database_url,
        engine=engine,
        policy=policy,
        clock=VirtualClock(engine),
        machine_now=machine_now,
        enqueue=lambda jobs: bool(list(jobs)) or True,
        waiting_in=lambda _queue: 0,
    )
    app.start(60, 60, listens=True)
    try:
        start_clock(engine, policy)
        with pytest.raises(ClockError, match=r"stands at 2026-10-31T00:00:00Z.*1 unfinished runs.*workers"):
            advance_clock(engine, policy, START + DAY, stalled_after_s=1)
    finally:
        app.stop()


def test_runs_from_before_the_clock_was_set_await_confirmation(
    engine: Engine, policy: Policy, living: SchedulerApp
) -> None:
    start_clock(engine, policy, datetime(2026, 10, 15, 12, tzinfo=UTC))
    advance_clock(engine, policy, datetime(2026, 10, 16, 12, tzinfo=UTC))
    assert "monthly-invoices" not in {run[0] for run in all_runs(engine)}
    assert {event.at for event in events_of_type(engine, "schedule_began")} == {
        datetime(2026, 10, 15, 12, tzinfo=UTC)
    }


def test_pending_work_counts_everything_left_to_do(engine: Engine, policy: Policy) -> None:
    def pending(connection: Connection, **clock: Any) -> dict[str, int]:
        return pending_work(connection, policy, clock.get("now", START), machine_now())

    with engine.begin() as connection:
        set_clock(connection, START - DAY, policy)
        account = add_account(connection, "A-1")
        assert pending(connection, now=START - DAY) == {"runs not yet made": 1}  # Tokyo's day
        connection.execute(
            runs.insert().values(
                job="daily-retries",
                period="2026-10-30",
                coverage="japan",
                state=RunState.AWAITING_CONFIRMATION,
                scheduled_for_at=START,
                requested_by="scheduler",
            )
        )
        assert pending(connection, now=START - DAY) == {}, "a run that awaits confirmation is not pending"
        connection.execute(update(runs).values(state=RunState.RUNNING))
        assert pending(connection, now=START - DAY) == {"unfinished runs": 1}
        connection.execute(update(runs).values(state=RunState.FINISHED))
        payment_id = add_payment(connection, account, 100, next_attempt_at=START - DAY)
        assert pending(connection, now=START - DAY) == {"due payments, batch": 1}
        connection.execute(update(payments).values(backoff_until=machine_now() + timedelta(hours=1)))
        assert pending(connection, now=START - DAY) == {}, "an outage's backoff runs in machine time"
        connection.execute(
            update(payments).values(backoff_until=None, next_attempt_at=START).where(payments.c.id == payment_id)
        )
        assert pending(connection, now=START - DAY) == {}
