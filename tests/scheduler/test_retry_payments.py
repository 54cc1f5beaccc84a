"""The daily run: retries that become due, standings afterwards, and explanations of skipped charges."""

import threading
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, Row, select, update

from shared.clock import ManualClock
from shared.db.tables.accounts import accounts
from shared.db.tables.payments import payments
from shared.db.tables.system import runs
from shared.domain.states import AttemptState, Lane, PaymentKind, PaymentState, RunState, Standing
from shared.messaging.jobs import DAILY_RETRIES, ChargePayment
from shared.policy import Policy
from shared.runtime import Runtime
from shared.scheduling import daily_run
from tests.scheduler.conftest import Enqueued, MachineTime, events_of_type
from tests.scheduler.test_sweep import add_attempt
from tests.seed import Account, add_account, add_payment, add_run
from workers.use_cases.retry_payments import retry_payments

NINE = datetime(2026, 11, 4, 9, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NINE)


@pytest.fixture
def runtime(engine: Engine, policy: Policy, clock: ManualClock, machine: MachineTime, queued: Enqueued) -> Runtime:
    return Runtime(policy, engine, clock, machine, {}, queued.enqueue, timedelta(minutes=5))


@pytest.fixture
def run_id(engine: Engine) -> UUID:
    with engine.begin() as connection:
        return add_run(connection, "2026-11-04", job=DAILY_RETRIES, scheduled_for_at=NINE)


@pytest.fixture
def account(engine: Engine) -> Account:
    with engine.begin() as connection:
        return add_account(connection, "A-1")


def add_retry(engine: Engine, account: Account, at: datetime = NINE, **columns: Any) -> UUID:
    with engine.begin() as connection:
        return add_payment(
            connection,
            account,
            100,
            state=PaymentState.RETRY_SCHEDULED,
            next_attempt_at=at,
            **{"state_reason": "decline code insufficient_funds", "due_on": date(2026, 11, 4), **columns},
        )


def payment(engine: Engine, payment_id: UUID) -> Row[Any]:
    with engine.connect() as connection:
        return connection.execute(select(payments).where(payments.c.id == payment_id)).one()


def run_row(engine: Engine, run_id: UUID) -> Row[Any]:
    with engine.connect() as connection:
        return connection.execute(select(runs).where(runs.c.id == run_id)).one()


def standing(engine: Engine, account: Account) -> str:
    with engine.connect() as connection:
        found: str = connection.execute(select(accounts.c.standing).where(accounts.c.id == account.id)).scalar_one()
    return found


@pytest.mark.parametrize("lane", list(Lane))
def test_retries_of_today_become_due_and_are_enqueued(
    engine: Engine, runtime: Runtime, run_id: UUID, account: Account, queued: Enqueued, lane: Lane
) -> None:
    payment_id = add_retry(engine, account, lane=lane)
    retry_payments(runtime, run_id)
    row = payment(engine, payment_id)
    assert (row.state, row.next_attempt_at, row.run_id) == (PaymentState.DUE, NINE, run_id)
    assert (row.lane, row.trigger, row.requested_by) == ("batch", "daily_retry", "scheduler")
    assert queued.taken() == [ChargePayment(payment_id, Lane.BATCH)]
    (moved,) = events_of_type(engine, "payment_moved")
    assert (moved.payment_id, moved.run_id, moved.before["state"]) == (payment_id, run_id, "retry_scheduled")
    done = run_row(engine, run_id)
    assert (done.state, done.started_at, done.finished_at) == (RunState.FINISHED, NINE, NINE)
    assert done.counts == {"retried": 1, "marked": 0, "not_attempted": {}}
    (finished,) = events_of_type(engine, "run_finished")
    assert finished.data["counts"] == done.counts


def test_daily_run_changes_no_other_payment(
    engine: Engine, runtime: Runtime, run_id: UUID, account: Account, queued: Enqueued
) -> None:
    with engine.begin() as connection:
        japan = add_account(connection, "A-1", "japan")
    elsewhere = add_retry(engine, japan)
    tomorrow = add_retry(engine, account, NINE + DAY)
    order = add_retry(engine, account, kind=PaymentKind.ORDER)
    held = add_retry(engine, account, held_until=NINE + timedelta(seconds=1))
    blocked = add_retry(engine, account)
    with engine.begin() as connection:
        add_attempt(connection, account, blocked, AttemptState.UNKNOWN)
    retry_payments(runtime, run_id)
    for payment_id in (elsewhere, tomorrow, order, held, blocked):
        assert payment(engine, payment_id).state == PaymentState.RETRY_SCHEDULED
    assert queued.taken() == []
    assert run_row(engine, run_id).counts["retried"] == 0


def test_backoff_of_an_outage_survives_the_daily_run(
    engine: Engine, runtime: Runtime, run_id: UUID, account: Account, machine: MachineTime
) -> None:
    until = machine() + timedelta(minutes=3)
    payment_id = add_retry(engine, account, backoff_until=until)
    retry_payments(runtime, run_id)
    assert payment(engine, payment_id).backoff_until == until


def test_second_message_of_a_finished_run_changes_nothing(
    engine: Engine, runtime: Runtime, run_id: UUID, account: Account, queued: Enqueued, clock: ManualClock
) -> None:
    retry_payments(runtime, run_id)
    add_retry(engine, account)
    before = run_row(engine, run_id)
    clock.set(NINE + DAY)
    retry_payments(runtime, run_id)
    assert run_row(engine, run_id) == before
    assert queued.taken() == []


def test_run_that_awaits_confirmation_is_not_worked_on(engine: Engine, runtime: Runtime, account: Account) -> None:
    payment_id = add_retry(engine, account)
    with engine.begin() as connection:
        run_id = add_run(connection, "2026-11-03", job=DAILY_RETRIES, state=RunState.AWAITING_CONFIRMATION)
    retry_payments(runtime, run_id)
    assert payment(engine, payment_id).state == PaymentState.RETRY_SCHEDULED


@pytest.mark.parametrize(("moved", "looked_at"), [(1, 1), (3, 3), (7, 2), (2, 1000), (1000, 1000)])
def test_run_killed_after_any_chunk_resumes_to_the_same_result(
    engine: Engine,
    runtime: Runtime,
    run_id: UUID,
    account: Account,
    queued: Enqueued,
    moved: int,
    looked_at: int,
    monkeypatch: Any,
) -> None:
    monkeypatch.setattr(daily_run, "CHUNK_MOVED", moved)
    monkeypatch.setattr(daily_run, "CHUNK_LOOKED_AT", looked_at)
    ids = [add_retry(engine, account, NINE - number % 3 * DAY, decline_count=1) for number in range(7)]
    ids += [add_retry(engine, account, lane=Lane.INTERACTIVE) for _ in range(3)]
    with engine.begin() as connection:
        for number in range(5):
            other = add_account(connection, f"B-{number}")
            add_payment(
                connection,
                other,
                100,
                state=PaymentState.NEEDS_PAYMENT_METHOD,
                state_reason="no card is registered",
                waiting_for_revision_after=0,
                due_on=date(2026, 10, 1),
            )

    class KilledError(BaseException):
        pass

    def ring_and_die(jobs: Any) -> bool:
        queued.enqueue(jobs)
        raise KilledError

    dying = Runtime(runtime.policy, engine, runtime.clock, runtime.machine_now, {}, ring_and_die, runtime.lease)
    for _ in range(100):
        if run_row(engine, run_id).state == RunState.FINISHED:
            break
        with pytest.raises(KilledError):
            retry_payments(dying, run_id)
    done = run_row(engine, run_id)
    assert done.state == RunState.FINISHED
    assert done.counts == {"retried": 10, "marked": 5, "not_attempted": {"needs_payment_method": 5}}
    assert sorted(str(event.payment_id) for event in events_of_type(engine, "payment_moved")) == sorted(
        map(str, ids)
    )
    assert {job.arguments[0] for job in queued.taken()} == {str(payment_id) for payment_id in ids}
    assert len(events_of_type(engine, "charge_not_attempted")) == 5
    assert len(events_of_type(engine, "standing_changed")) == 6
    assert len(events_of_type(engine, "run_finished")) == 1


def test_two_workers_on_one_run_take_turns(
    engine: Engine, runtime: Runtime, run_id: UUID, account: Account, monkeypatch: Any
) -> None:
    monkeypatch.setattr(daily_run, "CHUNK_MOVED", 5)
    for _ in range(40):
        add_retry(engine, account)
    threads = [threading.Thread(target=retry_payments, args=(runtime, run_id)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    retry_payments(runtime, run_id)  # the worker that met the lock left; the sweep enqueues the run again
    assert run_row(engine, run_id).counts["retried"] == 40
    assert len(events_of_type(engine, "payment_moved")) == 40
    assert len(events_of_type(engine, "run_finished")) == 1


def test_long_run_enqueues_itself_and_leaves_its_charges_to_the_sweep(
    engine: Engine,
    runtime: Runtime,
    run_id: UUID,
    account: Account,
    queued: Enqueued,
    machine: MachineTime,
    monkeypatch: Any,
) -> None:
    monkeypatch.setattr(daily_run, "CHUNK_MOVED", 2)
    monkeypatch.setattr(daily_run, "ENQUEUE_AT_MOST", 4)
    for _ in range(6):
        add_retry(engine, account)

    def slowly(jobs: Any) -> bool:
        machine.advance(11)
        return queued.enqueue(jobs)

    slow = Runtime(runtime.policy, engine, runtime.clock, machine, {}, slowly, runtime.lease)
    retry_payments(slow, run_id)
    assert run_row(engine, run_id).state == RunState.RUNNING
    assert queued.enqueued[-1].name == "retry_payments"
    for _ in range(10):
        retry_payments(slow, run_id)
    assert run_row(engine, run_id).state == RunState.FINISHED
    assert run_row(engine, run_id).counts["retried"] == 6
    assert len([job for job in queued.taken() if isinstance(job, ChargePayment)]) == 4


def test_days_past_due_count_without_attempts(
    engine: Engine, runtime: Runtime, account: Account, clock: ManualClock
) -> None:
    """Due on 1 November, no card ever: past due on the 2nd, marked for suspension on the 15th."""
    with engine.begin() as connection:
        add_payment(
            connection,
            account,
            100,
            state=PaymentState.NEEDS_PAYMENT_METHOD,
            state_reason="no card is registered",
            waiting_for_revision_after=0,
            due_on=date(2026, 11, 1),
        )
    snapshot: dict[str, str] = {}
    for day in range(1, 17):
        clock_at = datetime(2026, 11, day, 9, tzinfo=UTC)
        if clock_at < NINE:
            runtime_today = Runtime(
                runtime.policy,
                engine,
                ManualClock(clock_at),
                runtime.machine_now,
                {},
                runtime.enqueue,
                runtime.lease,
            )
        else:
            clock.set(clock_at)
            runtime_today = runtime
        with engine.begin() as connection:
            run_id = add_run(connection, f"2026-11-{day:02d}", job=DAILY_RETRIES, scheduled_for_at=clock_at)
        retry_payments(runtime_today, run_id)
        snapshot[f"{day:02d}"] = standing(engine, account)
        marked = 1 if day == 15 else 0
        assert run_row(engine, run_id).counts["marked"] == marked
    assert snapshot == {
        "01": Standing.GOOD,
        **{f"{day:02d}": Standing.PAST_DUE for day in range(2, 15)},
        "15": Standing.MARKED_FOR_SUSPENSION,
        "16": Standing.MARKED_FOR_SUSPENSION,
    }
    assert len(events_of_type(engine, "standing_changed")) == 2
    assert len(events_of_type(engine, "charge_not_attempted")) == 1, "recorded once, not each day"


def test_day_is_taken_in_the_coverage_zone(engine: Engine, runtime: Runtime, clock: ManualClock) -> None:
    """At 00:30 in Tokyo a payment due yesterday is overdue, although it is still yesterday in UTC."""
    with engine.begin() as connection:
        japan = add_account(connection, "A-1", "japan")
        add_payment(connection, japan, 100, due_on=date(2026, 11, 4), next_attempt_at=NINE + 9 * DAY)
        run_id = add_run(connection, "2026-11-05", "japan", DAILY_RETRIES, scheduled_for_at=NINE)
    clock.set(datetime(2026, 11, 4, 15, 30, tzinfo=UTC))
    retry_payments(runtime, run_id)
    assert standing(engine, japan) == Standing.PAST_DUE


def test_each_skipped_charge_is_explained_once_per_reason_with_its_next_date(
    engine: Engine, runtime: Runtime, account: Account, run_id: UUID, clock: ManualClock
) -> None:
    released_at = datetime(2026, 11, 20, 23, tzinfo=UTC)
    held = add_retry(engine, account, held_until=released_at)
    with engine.begin() as connection:
        waiting = add_payment(
            connection,
            account,
            100,
            state=PaymentState.NEEDS_AUTHENTICATION,
            state_reason="the customer must confirm with their bank",
            waiting_for_revision_after=3,
        )
    retry_payments(runtime, run_id)
    said = {event.payment_id: event for event in events_of_type(engine, "charge_not_attempted")}
    assert said[held].reason == "held: decline code insufficient_funds"
    assert said[held].data["next_attempt_on"] == "2026-11-20"
    assert said[waiting].reason == "the customer must confirm with their bank"
    assert said[waiting].data["next_attempt_on"] is None
    assert said[waiting].run_id == run_id
    counts = {"held": 1, "needs_authentication": 1}
    assert run_row(engine, run_id).counts["not_attempted"] == counts

    clock.set(NINE + DAY)
    with engine.begin() as connection:
        connection.execute(
            update(payments)
            .where(payments.c.id == waiting)
            .values(state=PaymentState.NEEDS_PAYMENT_METHOD, state_reason="the card expired")
        )
        second = add_run(connection, "2026-11-05", job=DAILY_RETRIES, scheduled_for_at=NINE)
    retry_payments(runtime, second)
    reasons = [
        event.reason for event in events_of_type(engine, "charge_not_attempted") if event.payment_id == waiting
    ]
    assert reasons == ["the customer must confirm with their bank", "the card expired"]
    assert len([event for event in events_of_type(engine, "charge_not_attempted") if event.payment_id == held]) == 1
