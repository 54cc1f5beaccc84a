"""Clock jumps: machine time by an hour or years, ahead and back; business time by days."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import apscheduler.schedulers.base
import pytest
from sqlalchemy import Engine, text

import scheduler.app
from scheduler.app import SchedulerApp
from scheduler.sweep import PATIENCE, Sweep
from scheduler.tick import tick
from shared.clock import FARTHEST_AHEAD, ManualClock, has_come, machine_now
from shared.db.query_terms import Moment
from shared.db.session import in_transaction
from shared.messaging.jobs import ApplyStripeEvent, ChargePayment, Job, SettleAttempt
from shared.operations.stripe_event_processing import EVENT_BACKOFF
from shared.payments.claim import claim_charge
from shared.payments.outcome_handlers import NOT_SENT_BACKOFF
from shared.payments.record_outcome import LOOK_UP_BACKOFF
from shared.settings import Settings
from tests.diaries.gates import Gate
from tests.failures.conftest import PassableGates, assert_paid_once, count_confirms, work_until_quiet
from tests.seed import default_policy
from tests.web.serving import wait_until
from tests.world import World

HOUR = timedelta(hours=1)
#: A machine that started with a clock in 2037 or so, until it was set.
YEARS = timedelta(days=4_000)


def jump(world: World, by: timedelta) -> None:
    world.machine.now += by


@pytest.mark.parametrize("gate", [Gate.ARRIVAL, Gate.ANSWER])
@pytest.mark.parametrize("request_", ["/payment_intents", "/confirm"])
def test_clock_an_hour_ahead_during_a_charge_takes_the_money_once(
    world: World, owed: UUID, gates: PassableGates, gate: Gate, request_: str
) -> None:
    """Settlement looks while the request is in flight, and the payment is charged again, on one PaymentIntent."""
    with ThreadPoolExecutor(1) as worker:
        with gates.closed(gate, request_):
            charge = worker.submit(world.charge, owed)
            gates.wait_for_request_at(gate)
            jump(world, HOUR)
            (attempt,) = world.attempts(owed)
            world.settle(attempt.id)
            world.machine.advance(minutes=1)  # what is not_sent backs off
            with gates.open_for_newcomers():
                world.charge(owed)
        charge.result(60)
    work_until_quiet(world)
    assert world.captured_amounts(owed) == [5_00]
    assert world.payment(owed).state == "paid"
    assert len(world.intents(owed)) == 1


@pytest.mark.parametrize("by", [HOUR, YEARS], ids=["an hour", "years"])
def test_attempt_of_a_killed_worker_does_not_wait_for_a_clock_set_back(
    world: World, owed: UUID, by: timedelta
) -> None:
    in_transaction(world.engine, lambda connection: claim_charge(connection, world.runtime, owed))  # and is killed
    jump(world, -by)
    began = world.machine()
    while world.payment(owed).state != "paid":
        for job in world.due_jobs():
            if isinstance(job, SettleAttempt):
                world.settle(job.attempt_id)
            elif isinstance(job, ChargePayment):
                world.charge(job.payment_id)
        world.machine.advance(seconds=30)
        waited = world.machine() - began
        assert waited < timedelta(hours=1, minutes=10)
    if by == YEARS:
        assert waited < timedelta(minutes=10), "one lease from the look that found it"
    assert_paid_once(world, owed)


def test_clock_set_back_by_years_expires_no_lease_of_a_running_worker(
    world: World, owed: UUID, gates: PassableGates
) -> None:
    with ThreadPoolExecutor(1) as worker:
        with gates.closed(Gate.ARRIVAL, "/confirm"):
            charge = worker.submit(world.charge, owed)
            gates.wait_for_request_at(Gate.ARRIVAL)
            jump(world, -YEARS)
            (attempt,) = world.attempts(owed)
            assert SettleAttempt(attempt.id) in world.due_jobs()
            world.settle(attempt.id)
            (attempt,) = world.attempts(owed)
            assert attempt.state == "started"
            assert attempt.lease_expires_at == world.machine() + world.runtime.lease, "a whole one from now on"
            assert world.due_jobs() == []
        charge.result(60)
    assert_paid_once(world, owed)
    assert count_confirms(world) == 1


#: Everything that waits for an instant of machine time, as rows whose instant is far ahead after the jump.
LEFT_AHEAD: dict[str, tuple[str, type[Any]]] = {
    "a payment that backs off": ("UPDATE payments SET backoff_until = :at", ChargePayment),
    "an unknown attempt": (
        "UPDATE payment_attempts SET state = 'unknown', look_up_at = :at, lease_expires_at = :at",
        SettleAttempt,
    ),
    "a started attempt": ("UPDATE payment_attempts SET lease_expires_at = :at", SettleAttempt),
    "an event to try again": ("UPDATE stripe_events SET try_again_at = :at", ApplyStripeEvent),
    "an event just stored": ("UPDATE stripe_events SET created_at = :at", ApplyStripeEvent),
}
EVENT = """
    INSERT INTO stripe_events (coverage, stripe_event_id, type, stripe_object_id, is_livemode, state,
                               stripe_created_at, created_at)
    VALUES ('global', 'evt_1', 'setup_intent.succeeded', 'seti_1', false, 'received',
            now(), now() - interval '1 hour')
"""


@pytest.mark.parametrize(("sql", "job"), LEFT_AHEAD.values(), ids=LEFT_AHEAD.keys())
def test_instants_too_far_ahead_are_treated_as_due(world: World, owed: UUID, sql: str, job: type[Any]) -> None:
    if job is SettleAttempt:
        in_transaction(world.engine, lambda connection: claim_charge(connection, world.runtime, owed))
    with world.engine.begin() as connection:
        if job is ApplyStripeEvent:
            connection.execute(text(EVENT))
        connection.execute(text(sql), {"at": world.machine() + HOUR})
    assert [one for one in world.due_jobs() if isinstance(one, job)] == [], "within what our own waits can be"
    with world.engine.begin() as connection:
        connection.execute(text(sql), {"at": world.machine() + YEARS})
    assert [type(one) for one in world.due_jobs() if isinstance(one, job)] == [job]
    if job is not ApplyStripeEvent:
        world.account("A-2")
        work_until_quiet(world)
        assert_paid_once(world, owed)


def test_event_waiting_for_an_operator_is_not_enqueued(world: World) -> None:
    with world.engine.begin() as connection:
        connection.execute(text(EVENT))
        connection.execute(text("UPDATE stripe_events SET state = 'trouble', try_again_at = '9999-12-31T00:00Z'"))
    assert world.due_jobs() == []


def test_all_waits_are_shorter_than_the_wrong_clock_limit() -> None:
    lease = timedelta(seconds=Settings.model_fields["lease_s"].default)
    longest = max(backoff.longest for backoff in (NOT_SENT_BACKOFF, LOOK_UP_BACKOFF, EVENT_BACKOFF))
    assert max(longest, lease) * 2 <= FARTHEST_AHEAD
    now = machine_now()
    assert not has_come(now + FARTHEST_AHEAD, now)
    assert has_come(now + FARTHEST_AHEAD + HOUR, now)
    assert has_come(now, now)


def test_jobs_enqueued_before_the_clock_was_set_back_are_enqueued_again(world: World, owed: UUID) -> None:
    enqueued: list[Job] = []
    sweep = Sweep(world.engine, lambda jobs: bool(enqueued.extend(jobs)) or True, lambda _: 0)
    sweep(Moment(world.clock.now(), world.machine()))
    jump(world, -HOUR)
    world.machine.advance(seconds=PATIENCE.total_seconds())
    sweep(Moment(world.clock.now(), world.machine()))
    assert len(enqueued) == 2, "the first message was lost meanwhile"


class SetBack(datetime):
    """The machine's clock as APScheduler reads it, in the test's hand."""

    by = timedelta(0)

    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return datetime.now(tz) - cls.by


def test_ticks_and_sweeps_continue_when_the_clock_is_set_back(
    engine: Engine, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """APScheduler sleeps until a time of day: set back by a year, it would tick again in a year."""
    monkeypatch.setattr(apscheduler.schedulers.base, "datetime", SetBack)
    monkeypatch.setattr(scheduler.app, "WATCH_CLOCK_EVERY_S", 0.1)
    monkeypatch.setattr(SetBack, "by", timedelta(0))
    sweeps: list[datetime] = []

    def waiting_in(_queue: str) -> int:
        sweeps.append(datetime.now(UTC))
        return 0

    app = SchedulerApp(
        database_url=database_url,
        engine=engine,
        policy=default_policy(),
        clock=ManualClock(datetime(2026, 10, 15, tzinfo=UTC)),
        machine_now=lambda: SetBack.now(UTC),
        enqueue=lambda _: True,
        waiting_in=waiting_in,
    )
    app.start(0.2, 0.2)
    try:
        wait_until(lambda: len(sweeps) > 3, within_s=60)
        SetBack.by = timedelta(days=365)
        before = len(sweeps)
        wait_until(lambda: len(sweeps) > before + 6, within_s=60)
    finally:
        app.stop()


class Calendar:
    """The business clock of a machine whose own clock it is: nobody can refuse that it is set back."""

    def __init__(self, now: datetime) -> None:
        self.now_at = now

    def now(self) -> datetime:
        return self.now_at


MIDNIGHT = datetime(2026, 11, 1, tzinfo=UTC)


def test_business_clock_set_back_over_month_end_creates_no_second_run(engine: Engine) -> None:
    policy = default_policy()
    tick(engine, policy, MIDNIGHT - timedelta(hours=12))
    runs_at_midnight = tick(engine, policy, MIDNIGHT + timedelta(minutes=5))
    assert runs_at_midnight
    assert tick(engine, policy, MIDNIGHT - timedelta(minutes=55)) == []
    assert tick(engine, policy, MIDNIGHT + timedelta(minutes=6)) == []


def test_business_clock_set_back_by_an_hour_delays_a_charge_and_doubles_none(world: World, owed: UUID) -> None:
    calendar = Calendar(world.clock.now() - HOUR)
    world.runtime = replace(world.runtime, clock=calendar)
    world.charge(owed)
    assert world.captured_amounts(owed) == []
    calendar.now_at += HOUR
    world.charge(owed)
    calendar.now_at -= HOUR
    world.charge(owed)
    assert_paid_once(world, owed)


def test_business_clock_jump_of_days_creates_each_run_once(engine: Engine) -> None:
    """A laptop that slept, a virtual clock that was advanced: months are made up for, missed days are not."""
    policy = default_policy()
    tick(engine, policy, datetime(2026, 10, 30, tzinfo=UTC))
    tick(engine, policy, datetime(2026, 11, 5, 12, tzinfo=UTC))
    with engine.connect() as connection:
        runs = connection.execute(text("SELECT job, period, coverage FROM runs")).all()
    days = {run.period for run in runs if run.job == "daily-retries"}
    assert "2026-11-05" in days
    assert not days & {"2026-11-02", "2026-11-03", "2026-11-04"}, "what they would have charged is charged today"
    assert {run.period for run in runs if run.job == "monthly-invoices"} == {"2026-10"}


def test_virtual_clock_cannot_be_set_back() -> None:
    clock = ManualClock(MIDNIGHT)
    with pytest.raises(ValueError, match="only moves forward"):
        clock.set(MIDNIGHT - timedelta(seconds=1))
