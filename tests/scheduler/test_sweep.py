"""The sweep finds exactly what is due; its memory may be lost without harm."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
import redis
from sqlalchemy import Connection, Engine, insert, update

from scheduler.sweep import ENQUEUE_BELOW, PATIENCE, REMEMBER_AT_MOST, RecentlyEnqueued, Sweep
from shared.db.query_terms import DAILY_RUN_STAMPS_WITHIN, Moment
from shared.db.tables.accounts import payment_settings
from shared.db.tables.payments import payment_attempts, payment_intents, payments
from shared.db.tables.system import runs, stripe_events
from shared.domain.states import AttemptState, Lane, PaymentState, RunState, StripeEventState
from shared.messaging.broker import make_broker, make_enqueue, waiting_messages
from shared.messaging.jobs import (
    BATCH,
    DAILY_RETRIES,
    INTERACTIVE,
    QUEUES,
    ApplyStripeEvent,
    ChargePayment,
    GenerateInvoices,
    Job,
    RetryPayments,
    SettleAttempt,
)
from shared.scheduling.due_work import DUE_WORK
from tests import world
from tests.scheduler.conftest import Enqueued, MachineTime
from tests.seed import Account, add_account, add_card, add_payment, add_run

NOW = datetime(2026, 11, 4, 9, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def sweep(engine: Engine, queued: Enqueued) -> Sweep:
    return Sweep(engine, queued.enqueue, queued.waiting_in)


@pytest.fixture
def account(engine: Engine) -> Account:
    with engine.begin() as connection:
        return add_account(connection, "A-1")


def due_jobs(engine: Engine, machine_now: datetime) -> set[Job]:
    return set(world.due_jobs(engine, Moment(NOW, machine_now)))


def add_attempt(
    connection: Connection, account: Account, payment_id: UUID, state: AttemptState, **columns: Any
) -> UUID:
    intent_id = connection.execute(
        insert(payment_intents)
        .values(
            payment_id=payment_id,
            ordinal=1,
            coverage=account.coverage,
            amount_minor=1,
            currency=account.currency,
            stripe_customer_id="cus_1",
            api_version="1",
        )
        .returning(payment_intents.c.id)
    ).scalar_one()
    values: dict[str, Any] = {
        "payment_id": payment_id,
        "number": 1,
        "kind": "charge",
        "state": state,
        "payment_intent_id": intent_id,
        "coverage": account.coverage,
        "trigger": "month_start",
        "lane": "batch",
        "card_revision": 0,
        "started_at": NOW,
        "lease_expires_at": datetime.now(UTC) + HOUR,
    }
    attempt_id: UUID = connection.execute(
        insert(payment_attempts).values(values | columns).returning(payment_attempts.c.id)
    ).scalar_one()
    return attempt_id


@pytest.mark.parametrize("lane", list(Lane))
@pytest.mark.parametrize("state", [PaymentState.DUE, PaymentState.RETRY_SCHEDULED])
def test_due_payment_is_enqueued_on_its_queue(
    engine: Engine, account: Account, machine: MachineTime, lane: Lane, state: PaymentState
) -> None:
    with engine.begin() as connection:
        payment_id = add_payment(connection, account, 100, state=state, lane=lane, next_attempt_at=NOW)
    assert due_jobs(engine, machine()) == {ChargePayment(payment_id, lane)}


@pytest.mark.parametrize(
    ("columns", "is_due"),
    [
        ({"next_attempt_at": NOW + timedelta(microseconds=1)}, False),
        ({"held_until": NOW + HOUR}, False),
        ({"held_until": datetime(9999, 12, 31, tzinfo=UTC)}, False),
        ({"held_until": NOW}, True),
        ({"state": PaymentState.VOID, "pending_close_as": "void"}, False),
        ({"state": PaymentState.VOID}, False),
        ({"state": PaymentState.PAID, "paid_at": NOW}, False),
        ({"state": PaymentState.NEEDS_SUPPORT}, False),
        ({"state": PaymentState.NEEDS_PAYMENT_METHOD, "waiting_for_revision_after": 0}, False),
    ],
)
def test_only_due_payments_are_enqueued(
    engine: Engine, account: Account, machine: MachineTime, columns: dict[str, Any], is_due: bool
) -> None:
    with engine.begin() as connection:
        add_payment(connection, account, 100, **columns)
    assert bool(due_jobs(engine, machine())) is is_due


@pytest.mark.parametrize(("kind", "is_due"), [("bank_transfer", False), ("trial", False), ("card", True)])
def test_payment_that_waits_for_a_transfer_is_due_only_if_the_customer_pays_by_card(
    engine: Engine, machine: MachineTime, kind: str, is_due: bool
) -> None:
    with engine.begin() as connection:
        account = add_account(connection, "T-1", kind=kind)
        add_payment(connection, account, 100, state=PaymentState.AWAITING_TRANSFER)
    assert bool(due_jobs(engine, machine())) is is_due


def test_outage_backoff_runs_in_machine_time(engine: Engine, account: Account, machine: MachineTime) -> None:
    with engine.begin() as connection:
        add_payment(connection, account, 100, backoff_until=machine() + timedelta(seconds=10))
    assert due_jobs(engine, machine()) == set()
    assert due_jobs(engine, machine.advance(10)) != set()


def test_open_attempt_blocks_its_payment_until_its_lease_expires_and_is_then_settled(
    engine: Engine, account: Account, machine: MachineTime
) -> None:
    with engine.begin() as connection:
        payment_id = add_payment(connection, account, 100)
        attempt_id = add_attempt(
            connection,
            account,
            payment_id,
            AttemptState.STARTED,
            lease_expires_at=machine() + timedelta(seconds=300),
        )
    assert due_jobs(engine, machine()) == set()
    assert due_jobs(engine, machine.advance(300)) == {SettleAttempt(attempt_id)}


def test_unknown_attempt_is_looked_up_at_its_time(engine: Engine, account: Account, machine: MachineTime) -> None:
    with engine.begin() as connection:
        payment_id = add_payment(connection, account, 100)
        attempt_id = add_attempt(
            connection, account, payment_id, AttemptState.UNKNOWN, look_up_at=machine() + timedelta(seconds=5)
        )
    assert due_jobs(engine, machine()) == set()
    assert due_jobs(engine, machine.advance(5)) == {SettleAttempt(attempt_id)}


def test_closed_attempt_blocks_nothing(engine: Engine, account: Account, machine: MachineTime) -> None:
    with engine.begin() as connection:
        payment_id = add_payment(connection, account, 100)
        add_attempt(connection, account, payment_id, AttemptState.DECLINED, lease_expires_at=machine() - HOUR)
    assert due_jobs(engine, machine()) == {ChargePayment(payment_id, Lane.BATCH)}


def test_payment_with_a_replaced_card_is_found_without_a_webhook(
    engine: Engine, account: Account, machine: MachineTime
) -> None:
    with engine.begin() as connection:
        payment_id = add_payment(
            connection, account, 100, state=PaymentState.NEEDS_AUTHENTICATION, waiting_for_revision_after=0
        )
        connection.execute(update(payment_settings).values(card_revision=1))
    assert due_jobs(engine, machine()) == set(), "the revision changed, but because the card was detached"
    with engine.begin() as connection:
        connection.execute(update(payment_settings).values(card_revision=0))
        add_card(connection, account)
    assert due_jobs(engine, machine()) == {ChargePayment(payment_id, Lane.INTERACTIVE)}
    with engine.begin() as connection:
        connection.execute(update(payments).values(waiting_for_revision_after=1))
    assert due_jobs(engine, machine()) == set()


@pytest.mark.parametrize(
    ("state", "age_s", "try_again_in_s", "is_due"),
    [
        (StripeEventState.RECEIVED, 3.0, None, True),
        (StripeEventState.RECEIVED, 1.0, None, False),  # the webhook enqueues first
        (StripeEventState.TROUBLE, 60.0, 0.0, True),
        (StripeEventState.TROUBLE, 60.0, 1.0, False),
        (StripeEventState.APPLIED, 60.0, None, False),
        (StripeEventState.IGNORED, 60.0, None, False),
    ],
)
def test_stripe_events_are_enqueued_until_applied(
    engine: Engine,
    machine: MachineTime,
    state: StripeEventState,
    age_s: float,
    try_again_in_s: float | None,
    is_due: bool,
) -> None:
    with engine.begin() as connection:
        connection.execute(
            insert(stripe_events).values(
                coverage="global",
                stripe_event_id="evt_1",
                type="setup_intent.succeeded",
                is_livemode=False,
                stripe_created_at=NOW,
                state=state,
                created_at=machine() - timedelta(seconds=age_s),
                try_again_at=None if try_again_in_s is None else machine() + timedelta(seconds=try_again_in_s),
            )
        )
    assert due_jobs(engine, machine()) == ({ApplyStripeEvent("global", "evt_1")} if is_due else set())


@pytest.mark.parametrize("state", list(RunState))
def test_only_unfinished_runs_are_enqueued(engine: Engine, machine: MachineTime, state: RunState) -> None:
    with engine.begin() as connection:
        run_id = add_run(connection, state=state)
    is_open = state in (RunState.READY, RunState.RUNNING)
    assert due_jobs(engine, machine()) == ({GenerateInvoices(run_id)} if is_open else set())


def test_run_of_a_newer_release_stops_no_other_source(
    engine: Engine, account: Account, machine: MachineTime, sweep: Sweep, queued: Enqueued
) -> None:
    with engine.begin() as connection:
        add_run(connection, job="yearly-statements")
        add_payment(connection, account, 100)
    assert sweep(Moment(NOW, machine())) == {"due payments, batch": 1}


def test_retries_wait_for_the_daily_run_but_not_for_a_stuck_one(
    engine: Engine, account: Account, machine: MachineTime
) -> None:
    with engine.begin() as connection:
        run_id = add_run(connection, period="2026-11-04", job=DAILY_RETRIES, scheduled_for_at=NOW)
        retry = add_payment(connection, account, 100, state=PaymentState.RETRY_SCHEDULED, next_attempt_at=NOW)
        due = add_payment(connection, add_account(connection, "A-2"), 100, next_attempt_at=NOW)
        elsewhere = add_payment(
            connection,
            add_account(connection, "A-1", "japan"),
            100,
            state=PaymentState.RETRY_SCHEDULED,
            next_attempt_at=NOW,
        )
    first = {RetryPayments(run_id), ChargePayment(due, Lane.BATCH), ChargePayment(elsewhere, Lane.BATCH)}
    assert due_jobs(engine, machine()) == first
    stuck_at = machine.advance(DAILY_RUN_STAMPS_WITHIN.total_seconds() + 1)
    assert due_jobs(engine, stuck_at) == first | {ChargePayment(retry, Lane.BATCH)}
    with engine.begin() as connection:
        connection.execute(update(runs).values(state=RunState.FINISHED))
    assert ChargePayment(retry, Lane.BATCH) in due_jobs(engine, machine())


def test_oldest_jobs_are_enqueued_first(
    engine: Engine, account: Account, machine: MachineTime, sweep: Sweep, queued: Enqueued
) -> None:
    with engine.begin() as connection:
        ids = [
            add_payment(
                connection, add_account(connection, f"B-{days}"), 100, next_attempt_at=NOW - timedelta(days=days)
            )
            for days in (1, 3, 2)
        ]
    sweep(Moment(NOW, machine()))
    assert queued.taken() == [ChargePayment(ids[number], Lane.BATCH) for number in (1, 2, 0)]


def test_only_full_queues_are_skipped(
    engine: Engine, account: Account, machine: MachineTime, sweep: Sweep, queued: Enqueued
) -> None:
    with engine.begin() as connection:
        add_payment(connection, account, 100)
        urgent = add_payment(connection, add_account(connection, "A-2"), 100, lane=Lane.INTERACTIVE)
    queued.waiting = {BATCH: ENQUEUE_BELOW}
    assert sweep(Moment(NOW, machine())) == {"due payments, interactive": 1}
    assert queued.taken() == [ChargePayment(urgent, Lane.INTERACTIVE)]
    queued.waiting = {BATCH: ENQUEUE_BELOW - 1, INTERACTIVE: 1}
    assert sweep(Moment(NOW, machine())) == {"due payments, batch": 1}


def test_recently_enqueued_job_is_not_enqueued_again(
    engine: Engine, account: Account, machine: MachineTime, sweep: Sweep, queued: Enqueued
) -> None:
    with engine.begin() as connection:
        add_payment(connection, account, 100)
    sweep(Moment(NOW, machine()))
    queued.waiting = {BATCH: 1}
    assert sweep(Moment(NOW, machine.advance(29))) == {}
    assert sweep(Moment(NOW, machine.advance(1))) != {}, "after half a minute it may have been lost"
    queued.waiting = {}
    assert sweep(Moment(NOW, machine.advance(1.9))) == {}
    assert sweep(Moment(NOW, machine.advance(0.1))) != {}, "nothing waits, so it was taken or lost"


def test_new_leader_enqueues_again(
    engine: Engine, account: Account, machine: MachineTime, sweep: Sweep, queued: Enqueued
) -> None:
    with engine.begin() as connection:
        add_payment(connection, account, 100)
    sweep(Moment(NOW, machine()))
    Sweep(engine, queued.enqueue, queued.waiting_in)(Moment(NOW, machine()))
    assert len(queued.taken()) == 2


def test_job_refused_by_redis_is_enqueued_again_at_once(
    engine: Engine, account: Account, machine: MachineTime, queued: Enqueued
) -> None:
    answers = iter([False, True])
    sweep = Sweep(engine, lambda jobs: queued.enqueue(jobs) and next(answers), queued.waiting_in)
    with engine.begin() as connection:
        add_payment(connection, account, 100)
    for _ in range(2):
        sweep(Moment(NOW, machine()))
    assert len(queued.taken()) == 2


def test_memory_of_the_sweep_is_bounded(machine: MachineTime) -> None:
    lately = RecentlyEnqueued()
    start = machine()
    for _ in range(12):
        lately.note([ChargePayment(uuid4(), Lane.BATCH) for _ in range(10_000)], machine.advance(1))
        assert len(lately) <= REMEMBER_AT_MOST
    lately.forget(start + timedelta(days=1) - PATIENCE, start + timedelta(days=1))
    assert len(lately) == 0


def test_next_sweep_refills_a_flushed_redis(
    engine: Engine, account: Account, machine: MachineTime, redis_url: str
) -> None:
    broker = make_broker(redis_url)
    sweep = Sweep(engine, make_enqueue(broker), lambda queue: waiting_messages(broker, queue))
    with engine.begin() as connection:
        for number in range(20):
            add_payment(connection, add_account(connection, f"B-{number}"), 100)
    sweep(Moment(NOW, machine()))
    assert waiting_messages(broker, BATCH) == 20
    sweep(Moment(NOW, machine.advance(10)))
    assert waiting_messages(broker, BATCH) == 20
    redis.Redis.from_url(redis_url).flushdb()  # not flushall: the server may have other users
    sweep(Moment(NOW, machine()))
    assert waiting_messages(broker, BATCH) == 20


def test_sweep_waits_for_an_unreachable_redis(
    engine: Engine, account: Account, machine: MachineTime, queued: Enqueued
) -> None:
    def away(queue: str) -> int:
        raise redis.ConnectionError("away")

    waiting_in: list[Callable[[str], int]] = [away]
    sweep = Sweep(engine, queued.enqueue, lambda queue: waiting_in[0](queue))
    with engine.begin() as connection:
        add_payment(connection, account, 100)
    assert sweep(Moment(NOW, machine())) == {}
    waiting_in[0] = queued.waiting_in
    assert sweep(Moment(NOW, machine())) == {"due payments, batch": 1}


def test_every_queue_has_a_source() -> None:
    assert {source.queue for source in DUE_WORK} == set(QUEUES)
