"""Queue pauses with real workers on threads, real Valkey, and the simulator's ledger."""

import json
import threading
from collections.abc import Collection
from typing import Any
from uuid import UUID, uuid4

import pytest
from dramatiq.brokers.redis import RedisBroker
from sqlalchemy import select, text
from structlog.testing import capture_logs

import scheduler.sweep
from scheduler.sweep import PATIENCE, Sweep
from shared.db.billing_events import Cause
from shared.db.query_terms import Moment
from shared.db.tables.system import billing_events
from shared.domain.states import Lane, PaymentState
from shared.messaging.broker import NAMESPACE, enqueue, make_broker, make_enqueue, waiting_messages
from shared.messaging.dead_letters import list_dead_letters
from shared.messaging.jobs import BATCH, SETTLEMENT, ChargePayment, SettleAttempt
from shared.messaging.middleware import LONGEST_TRACEBACK, bounded
from shared.messaging.queue_pauses import PauseWatch, pause_queue, paused_queues, pauses_query, resume_queue
from tests.broker.conftest import add_actor, dead_letters, eventually, is_at_rest, running_worker
from tests.world import World
from workers.use_cases.charge_payment import charge_payment

#: How old a worker's cached pauses may be here (s), where processes allow two.
SOON_S = 0.02


class Shop:
    """Due payments, and a worker that reads the pauses before it takes a job."""

    def __init__(self, world: World, redis_url: str) -> None:
        self.world = world
        self.watch = PauseWatch(pauses_query(lambda: world.engine), every_s=SOON_S)
        self.broker: RedisBroker = make_broker(redis_url, is_paused=self.watch.is_paused)
        self.begun: list[str] = []
        self.looked: list[str] = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        add_actor(self.broker, "charge_payment", BATCH, self._charge)
        add_actor(self.broker, "settle_attempt", SETTLEMENT, self.looked.append)

    def _charge(self, payment_id: str) -> None:
        self.begun.append(payment_id)
        assert self.may_go_on.wait(60)
        charge_payment(self.world.runtime, UUID(payment_id))

    def owed(self, count: int) -> list[UUID]:
        accounts = [self.world.account(f"A-{uuid4().hex[:8]}") for _ in range(count)]
        for account in accounts:
            self.world.add_primary_card(account)
        return [self.world.add_due_payment(account) for account in accounts]

    def enqueue_charges(self, payments: list[UUID]) -> None:
        assert enqueue(self.broker, [ChargePayment(payment, Lane.BATCH) for payment in payments])

    def pause(self) -> None:
        with self.world.engine.begin() as connection:
            assert pause_queue(connection, BATCH, Cause("operator:otto", self.world.clock.now(), "issuer is away"))

    def resume(self) -> None:
        with self.world.engine.begin() as connection:
            assert resume_queue(connection, BATCH, Cause("operator:otto", self.world.clock.now(), "it is back"))

    def is_paid(self, payments: list[UUID]) -> bool:
        return all(self.world.payment(payment).state == PaymentState.PAID for payment in payments)

    def charges(self, payments: list[UUID]) -> list[int]:
        """How often each was charged, by the processor's ledger."""
        return [len(self.world.captured_amounts(payment)) for payment in payments]

    def fetched(self) -> int:
        client: Any = self.broker.client
        return sum(client.scard(key) for key in client.keys(f"{NAMESPACE}:__acks__.*.{BATCH}"))


@pytest.fixture
def shop(world: World, redis_url: str) -> Shop:
    return Shop(world, redis_url)


def test_job_on_a_paused_queue_waits_and_is_charged_once_after_resume(shop: Shop) -> None:
    payments = shop.owed(3)
    shop.pause()
    shop.enqueue_charges(payments)
    with running_worker(shop.broker, BATCH, SETTLEMENT):
        enqueue(shop.broker, [SettleAttempt(UUID(int=1))])
        eventually(lambda: shop.looked, "the worker works: another lane's message is taken")
        assert waiting_messages(shop.broker, BATCH) == 3
        assert shop.charges(payments) == [0, 0, 0]
        shop.resume()
        eventually(lambda: shop.is_paid(payments), "all paid")
    assert shop.charges(payments) == [1, 1, 1]


def test_pause_survives_a_worker_restart(shop: Shop, redis_url: str) -> None:
    payments = shop.owed(1)
    shop.pause()
    with running_worker(shop.broker, BATCH):
        pass
    shop.enqueue_charges(payments)
    again = Shop(shop.world, redis_url)
    with running_worker(again.broker, BATCH, SETTLEMENT):
        enqueue(again.broker, [SettleAttempt(UUID(int=1))])
        eventually(lambda: again.looked, "the new worker works")
        assert again.begun == []
        shop.resume()
        eventually(lambda: shop.is_paid(payments), "paid")
    assert shop.charges(payments) == [1]


def test_pause_returns_fetched_jobs_and_lets_running_ones_finish(shop: Shop, client: Any) -> None:
    payments = shop.owed(4)
    shop.may_go_on.clear()
    shop.enqueue_charges(payments)
    with running_worker(shop.broker, BATCH, threads=1) as worker:
        eventually(lambda: shop.begun and worker.work_queue.qsize() == 3, "one in hand, three fetched behind it")
        shop.pause()
        eventually(lambda: shop.watch.is_paused(BATCH), "the worker knows")
        shop.may_go_on.set()
        eventually(lambda: waiting_messages(shop.broker, BATCH) == 3 and not shop.fetched(), "three are back")
        assert shop.begun == [str(payments[0])]
        assert shop.charges(payments) == [1, 0, 0, 0], "the running job finished, and no other began"
        shop.resume()
        eventually(lambda: shop.is_paid(payments) and is_at_rest(client, BATCH), "all paid, nothing left")
    assert shop.charges(payments) == [1, 1, 1, 1]
    assert dead_letters(client, BATCH) == {}


def test_worker_with_only_paused_queues_keeps_its_redis_heartbeat(shop: Shop, client: Any) -> None:
    shop.pause()

    def beat() -> float:
        return float(client.zscore(f"{NAMESPACE}:__heartbeats__", shop.broker.broker_id) or 0)

    with running_worker(shop.broker, BATCH):
        eventually(lambda: beat() > 0, "a first sign")
        first = beat()
        eventually(lambda: beat() > first, "others would take its messages for a dead worker's")


def test_sweep_fills_a_paused_queue_only_up_to_a_bound(
    shop: Shop, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler.sweep, "ENQUEUE_BELOW", 10)
    shop.owed(6)
    shop.pause()
    sweep = Sweep(shop.world.engine, make_enqueue(shop.broker), lambda queue: waiting_messages(shop.broker, queue))
    depths = []
    for _ in range(6):
        shop.world.machine.advance(seconds=PATIENCE.total_seconds() + 1)
        sweep(Moment(shop.world.clock.now(), shop.world.machine()))
        depths.append(waiting_messages(shop.broker, BATCH))
    assert depths == [6, 12, 12, 12, 12, 12], "below the mark it is filled once more, above it never"


class Database:
    """A database that answers or raises."""

    def __init__(self) -> None:
        self.paused: Collection[str] = ()
        self.error: Exception | None = None
        self.query_count = 0
        self.now = 0.0

    def __call__(self) -> Collection[str]:
        self.query_count += 1
        if self.error is not None:
            raise self.error
        return self.paused

    def watch(self) -> PauseWatch:
        return PauseWatch(self, every_s=2, monotonic=lambda: self.now)


def test_all_pauses_are_read_in_one_query_every_two_seconds() -> None:
    database = Database()
    watch = database.watch()
    assert [watch.is_paused(queue) for queue in (BATCH, SETTLEMENT, BATCH)] == [False] * 3
    assert database.query_count == 1
    database.paused, database.now = {BATCH}, 1.9
    assert not watch.is_paused(BATCH)
    database.now = 2.0
    assert [watch.is_paused(queue) for queue in (BATCH, SETTLEMENT)] == [True, False]
    assert database.query_count == 2


def test_last_known_pauses_hold_during_a_database_outage_and_are_logged_once() -> None:
    database = Database()
    watch = database.watch()
    database.paused = {BATCH}
    assert watch.is_paused(BATCH)
    database.error = ConnectionError("away")
    with capture_logs() as logs:
        for database.now in (2.0, 4.0, 6.0):
            assert watch.is_paused(BATCH)
            assert not watch.is_paused(SETTLEMENT)
        database.error, database.paused, database.now = None, (), 8.0
        assert not watch.is_paused(BATCH)
    assert [
        one["event"] for one in logs if one["event"].startswith("queue_pauses.not") or "again" in one["event"]
    ] == [
        "queue_pauses.not_read",
        "queue_pauses.read_again",
    ]


def test_worker_that_never_reached_the_database_takes_no_job() -> None:
    database = Database()
    database.error = ConnectionError("away")
    watch = database.watch()
    assert watch.is_paused(BATCH)
    database.error, database.now = None, 2.0
    assert not watch.is_paused(BATCH)


def test_repeated_pause_and_resume_change_nothing(world: World) -> None:
    first, second = (Cause(f"operator:{name}", world.clock.now(), f"{name} says so") for name in ("anna", "otto"))
    with world.engine.begin() as connection:
        assert pause_queue(connection, BATCH, first)
        assert not pause_queue(connection, BATCH, second)
        assert paused_queues(connection)[BATCH].paused_by == "operator:anna"
        ended = resume_queue(connection, BATCH, second)
        assert ended is not None
        assert ended.reason == "anna says so"
        assert resume_queue(connection, BATCH, second) is None
        told = connection.execute(
            select(billing_events.c.type, billing_events.c.actor, billing_events.c.data).order_by(
                billing_events.c.id
            )
        ).all()
        with pytest.raises(LookupError, match="no queue 'mail'"):
            pause_queue(connection, "mail", first)
    assert [tuple(row) for row in told] == [
        ("lane_paused", "operator:anna", {"queue": BATCH}),
        ("lane_resumed", "operator:otto", {"queue": BATCH}),
    ]


# -- tracebacks of dead letters


def test_dead_letter_stores_its_traceback_without_secrets(shop: Shop, client: Any) -> None:
    """Plain Dramatiq 2.2.1 would store the body as it was sent."""

    customer = "Erika Mustermann"

    def break_(_payment_id: str) -> None:
        with shop.world.engine.connect() as connection:
            connection.execute(text("SELECT 1 / 0 WHERE :name <> ''"), {"name": customer})

    shop.broker.actors["charge_payment"].fn = break_
    shop.enqueue_charges([UUID(int=1)])
    with running_worker(shop.broker, BATCH):
        eventually(lambda: list_dead_letters(shop.broker, BATCH)[0], "the dead letter")
    ((letter,), rest) = list_dead_letters(shop.broker, BATCH)
    assert rest is None
    assert letter.job == "charge_payment"
    assert letter.arguments == (str(UUID(int=1)),)
    assert letter.traceback is not None
    assert "division by zero" in letter.traceback
    assert "in break_" in letter.traceback
    assert customer not in letter.traceback
    assert is_at_rest(client, BATCH)


def test_traceback_is_truncated_at_its_start_and_redacted() -> None:
    long = "\n".join(f"frame {number} sk_live_{number:032} ü\U0001f600 a@b.example" for number in range(2_000))
    kept = bounded(f"{long}\nValueError: the end postgresql://u:geheim@h/x whsec_abc")
    assert kept.startswith("… (beginning cut)")
    assert len(json.dumps(kept)) <= LONGEST_TRACEBACK
    assert kept.endswith("ValueError: the end postgresql://[redacted]@h/x [redacted]")
    assert "sk_live" not in kept
    assert "a@b" not in kept
    assert bounded("one line") == "one line"
    assert len(json.dumps(bounded("\U0001f600" * 100_000))) <= LONGEST_TRACEBACK


def test_dead_letter_without_a_body_leaves_no_body(shop: Shop, client: Any) -> None:
    is_flushed = threading.Event()

    def break_(_payment_id: str) -> None:
        client.flushdb()
        is_flushed.set()
        raise RuntimeError("after a flush")

    shop.broker.actors["charge_payment"].fn = break_
    shop.enqueue_charges([UUID(int=1)])
    with running_worker(shop.broker, BATCH, SETTLEMENT):
        assert is_flushed.wait(20)
        enqueue(shop.broker, [SettleAttempt(UUID(int=1))])
        eventually(lambda: shop.looked, "and the worker goes on")
    assert not client.keys(f"{NAMESPACE}:{BATCH}*")
