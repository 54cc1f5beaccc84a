"""Locks that are never released: what waits, for how long, and what doesn't wait."""

import threading
import time
from uuid import UUID, uuid4

import pytest
from dramatiq.brokers.redis import RedisBroker
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError

import shared.payments.record_outcome
from scheduler.sweep import Sweep
from shared.clock import machine_now
from shared.db.query_terms import Moment
from shared.db.session import LOCK_TIMEOUT_S, make_engine
from shared.messaging.broker import make_broker, make_enqueue, waiting_messages
from shared.messaging.jobs import BATCH
from shared.settings import Settings
from tests.broker.conftest import add_actor, eventually, running_worker
from tests.failures.conftest import assert_paid_once, count_confirms, locked, work_until_quiet
from tests.world import World
from workers.use_cases.charge_payment import charge_payment

#: Far above one wait for a lock, far below the time limit of the actor (90 s).
SOON_S = 20.0

PAYMENT = "SELECT FROM payments FOR UPDATE"
SETTINGS = "SELECT FROM payment_settings FOR UPDATE"
ACCOUNT = "SELECT FROM accounts FOR UPDATE"
#: What a budget is counted under; see shared/payments/network_budgets.py.
CARD = """
    SELECT pg_advisory_xact_lock(hashtextextended('card:' || coverage || ':' || fingerprint, 0)) FROM cards
"""
TABLE = "LOCK TABLE payments IN ACCESS EXCLUSIVE MODE"


@pytest.mark.parametrize(
    "held", [PAYMENT, SETTINGS, CARD, TABLE], ids=["payment", "settings", "card", "a migration's table"]
)
def test_claim_gives_up_a_lock_within_seconds_and_the_payment_stays_due(
    world: World, owed: UUID, another_session: Engine, held: str
) -> None:
    with locked(another_session, held):
        began = time.monotonic()
        world.charge(owed)  # raises nothing: another worker's lock isn't an error
        assert time.monotonic() - began < SOON_S
        assert world.simulator.requests("payment_intents") == []
    assert world.attempts(owed) == []
    world.charge(owed)
    assert_paid_once(world, owed)


def test_answer_waits_for_a_lock_and_is_then_written(world: World, owed: UUID, another_session: Engine) -> None:
    with locked(another_session, ACCOUNT) as other_session:
        free = threading.Timer(LOCK_TIMEOUT_S + 1.0, other_session.rollback)
        free.start()
        world.charge(owed)
        free.join()
    assert_paid_once(world, owed)
    assert "attempt_became_unknown" not in [kind for kind, _ in world.billing_events(owed)]


def test_lock_held_for_minutes_loses_the_answer_and_causes_no_second_charge(
    world: World, owed: UUID, another_session: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared.payments.record_outcome, "WRITE_INSISTS_FOR_S", 0.5)
    with locked(another_session, ACCOUNT):
        began = time.monotonic()
        with pytest.raises(OperationalError, match="lock timeout"):
            world.charge(owed)
        assert time.monotonic() - began < SOON_S
        world.charge(owed)
        assert count_confirms(world) == 1, "its open attempt blocks all others"
    work_until_quiet(world)
    assert_paid_once(world, owed)


def test_settlement_gives_up_a_lock_and_is_retried(
    world: World, owed: UUID, another_session: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared.payments.record_outcome, "WRITE_INSISTS_FOR_S", 0.5)
    with locked(another_session, ACCOUNT), pytest.raises(OperationalError):
        world.charge(owed)
    world.machine.advance(minutes=6)
    (attempt,) = world.attempts(owed)
    with locked(another_session, PAYMENT):
        began = time.monotonic()
        world.settle(attempt.id)
        assert time.monotonic() - began < SOON_S
    assert [one.state for one in world.attempts(owed)] == ["started"]
    world.settle(attempt.id)
    assert_paid_once(world, owed)


def test_locked_payment_does_not_block_workers(world: World, another_session: Engine, redis_url: str) -> None:
    """The sweep enqueues it every two seconds: with long waits, all workers would soon be blocked."""
    broker: RedisBroker = make_broker(redis_url)
    sweep = Sweep(world.engine, make_enqueue(broker), lambda queue: waiting_messages(broker, queue))
    add_actor(broker, "charge_payment", BATCH, lambda payment_id: charge_payment(world.runtime, UUID(payment_id)))
    account = world.account("A-stuck")
    world.add_primary_card(account)
    stuck = world.add_due_payment(account)
    with locked(another_session, PAYMENT), running_worker(broker, BATCH, threads=2):
        for _ in range(4):  # both threads meet it before anything else is due
            sweep(Moment(world.clock.now(), world.machine()))
            world.machine.advance(seconds=3)
        others = []
        for _ in range(6):
            account = world.account(f"A-{uuid4().hex[:8]}")
            world.add_primary_card(account)
            others.append(world.add_due_payment(account))
        began = time.monotonic()

        def are_paid() -> bool:
            sweep(Moment(world.clock.now(), world.machine()))
            world.machine.advance(seconds=3)
            return all(world.payment(other).state == "paid" for other in others)

        eventually(are_paid, "the others are paid while the lock is held", within_s=60)
        assert time.monotonic() - began < 30
        assert world.payment(stuck).state == "due"
    world.charge(stuck)
    assert [len(world.captured_amounts(payment)) for payment in (stuck, *others)] == [1] * 7


def test_sessions_have_lock_and_idle_timeouts(settings: Settings) -> None:
    engine = make_engine(settings, statement_limit_s=60)
    with engine.connect() as connection:
        limits = {
            name: connection.scalar(text(f"SHOW {name}"))
            for name in (
                "lock_timeout",
                "statement_timeout",
                "idle_in_transaction_session_timeout",
                "tcp_keepalives_idle",
                "deadlock_timeout",
            )
        }
        driver = connection.connection.dbapi_connection
        assert driver is not None
        assert driver.info.get_parameters()["tcp_user_timeout"] == "60000"
    engine.dispose()
    assert limits == {
        "lock_timeout": "2s",  # above deadlock_timeout, so that a deadlock has one loser
        "statement_timeout": "1min",
        "idle_in_transaction_session_timeout": "1min",
        "tcp_keepalives_idle": "30",
        "deadlock_timeout": "1s",
    }


def test_session_timeouts_fit_into_the_time_limit_and_the_lease() -> None:
    seconds = Settings.model_fields
    requests_s = 2 * (seconds["stripe_connect_timeout_s"].default + seconds["stripe_read_timeout_s"].default)
    time_limit_s = 90  # workers/actors.py; tests/broker holds the actor to it
    assert requests_s + shared.payments.record_outcome.WRITE_INSISTS_FOR_S <= time_limit_s
    assert 2 * time_limit_s < seconds["lease_s"].default
    grace_s = 40  # Procfile: --worker-shutdown-timeout
    one_request_s = requests_s / 2
    assert one_request_s + LOCK_TIMEOUT_S < grace_s
    assert grace_s > shared.payments.record_outcome.WRITE_INSISTS_FOR_S


def test_client_frozen_inside_a_transaction_loses_its_locks(world: World, owed: UUID, settings: Settings) -> None:
    frozen = make_engine(settings)
    with frozen.connect() as connection:
        connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = '500ms'"))  # not a minute
        connection.execute(text(PAYMENT))
        deadline = machine_now().timestamp() + 60
        while world.payment(owed).state != "paid":
            assert machine_now().timestamp() < deadline
            world.charge(owed)
        connection.invalidate()  # the server ended it
    frozen.dispose()
    assert_paid_once(world, owed)
