"""The sweep recovers what Dramatiq loses, holds or dead-letters: each case is a fact of dramatiq 2.2.1.

Real workers on threads, the real broker, real rows and the simulator; `Sweep` enqueues as the scheduler's does.
"""

import json
import threading
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
from dramatiq import Message
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import Middleware, Retries, TimeLimit
from structlog.testing import capture_logs

import shared.messaging.broker
from scheduler.sweep import PATIENCE, Sweep
from shared.db.query_terms import Moment
from shared.domain.states import Lane, PaymentState
from shared.messaging.broker import NAMESPACE, DebounceSigterm, enqueue, make_broker, make_enqueue, waiting_messages
from shared.messaging.jobs import BATCH, INTERACTIVE, QUEUES, RELEASED_QUEUES, ChargePayment
from shared.messaging.middleware import KeepTraceback
from tests.broker.conftest import (
    PREFETCH,
    add_actor,
    dead_letters,
    eventually,
    is_at_rest,
    put_in_front,
    running_worker,
)
from tests.broker.line import Line
from tests.world import World
from workers.use_cases.charge_payment import charge_payment

ONE = UUID("01890000-0000-7000-8000-000000000001")


class Company:
    """Due payments, a worker's actor for them, and the sweep that enqueues them."""

    def __init__(self, world: World, broker: RedisBroker) -> None:
        self.world = world
        self.broker = broker
        self._sweep = Sweep(world.engine, make_enqueue(broker), lambda queue: waiting_messages(broker, queue))
        self.payments: list[UUID] = []
        self.before_charge: Callable[[], None] = lambda: None
        add_actor(broker, "charge_payment", BATCH, self._charge)

    def _charge(self, payment_id: str) -> None:
        self.before_charge()
        charge_payment(self.world.runtime, UUID(payment_id))

    def owed(self, count: int) -> list[UUID]:
        for _ in range(count):
            account = self.world.account(f"A-{uuid4().hex[:8]}")
            self.world.add_primary_card(account)
            self.payments.append(self.world.add_due_payment(account))
        return self.payments

    def sweep(self, after_s: float = 0.0) -> dict[str, int]:
        """Sweep once, `after_s` seconds of machine time after the last."""
        self.world.machine.advance(seconds=after_s)
        return self._sweep(Moment(self.world.clock.now(), self.world.machine()))

    def is_paid(self) -> bool:
        return all(self.world.payment(payment).state == PaymentState.PAID for payment in self.payments)

    def charges(self) -> list[int]:
        """How often each payment was charged, by the processor's ledger."""
        return [len(self.world.captured_amounts(payment)) for payment in self.payments]


@pytest.fixture
def company(world: World, broker: RedisBroker) -> Company:
    return Company(world, broker)


def sweep_until_paid(company: Company, what: str) -> None:
    def is_paid() -> bool:
        company.sweep(after_s=PATIENCE.total_seconds())
        return company.is_paid()

    eventually(is_paid, what)


def test_flushed_redis_costs_one_sweep(company: Company, client: Any) -> None:
    company.owed(3)
    assert company.sweep() == {"due payments, batch": 3}
    client.flushdb()
    assert company.sweep(after_s=2) == {"due payments, batch": 3}
    with running_worker(company.broker, BATCH):
        eventually(company.is_paid, "all paid")
    assert company.charges() == [1, 1, 1]


def test_redis_flush_and_outage_lose_and_double_no_charge(world: World, line: Line, client: Any) -> None:
    company = Company(world, make_broker(line.url))
    company.owed(6)
    company.sweep()
    with running_worker(company.broker, BATCH):
        eventually(lambda: sum(company.charges()), "the first charge")
        line.cut()
        client.flushdb()
        assert company.sweep(after_s=2) == {}
        line.repair()
        sweep_until_paid(company, "all paid after Redis came back")
    assert company.charges() == [1] * 6


def test_jobs_of_a_killed_worker_are_enqueued_again_without_dramatiq_maintenance(
    company: Company, redis_url: str, client: Any
) -> None:
    company.broker.maintenance_chance = 0  # Dramatiq would look for dead workers once in a thousand commands
    payments = company.owed(4)
    company.sweep()
    killed = make_broker(redis_url).consume(BATCH, prefetch=PREFETCH, timeout=1)
    assert {next(killed).args[0] for _ in payments} == {str(payment) for payment in payments}  # type: ignore[union-attr]
    assert waiting_messages(company.broker, BATCH) == 0, "its messages have no owner now"
    with running_worker(company.broker, BATCH):
        assert company.sweep(after_s=2) == {"due payments, batch": 4}
        eventually(company.is_paid, "all paid")
    assert client.hlen(f"{NAMESPACE}:{BATCH}.msgs") == 4, "Dramatiq hasn't noticed the killed worker yet"
    assert company.charges() == [1] * 4


def test_messages_requeued_late_by_dramatiq_cost_one_query_each(
    company: Company, redis_url: str, client: Any
) -> None:
    payments = company.owed(2)
    company.sweep()
    killed = make_broker(redis_url)
    taken = killed.consume(BATCH, prefetch=PREFETCH, timeout=1)
    assert len([next(taken) for _ in payments]) == 2
    company.sweep(after_s=2)
    with running_worker(company.broker, BATCH):
        eventually(company.is_paid, "all paid")
        client.zadd(f"{NAMESPACE}:__heartbeats__", {killed.broker_id: 0})  # a minute has passed
        company.broker.maintenance_chance = 1_000_000
        eventually(lambda: is_at_rest(client, BATCH), "the old messages are taken, too")
    assert company.charges() == [1, 1]


def test_raising_actor_leaves_a_dead_letter_and_its_row_is_enqueued_again(company: Company, client: Any) -> None:
    (payment,) = company.owed(1)
    company.sweep()

    def break_() -> None:
        raise RuntimeError("a defect of ours")

    company.before_charge = break_
    with running_worker(company.broker, BATCH):
        eventually(lambda: dead_letters(client, BATCH), "the dead letter")
        assert is_at_rest(client, BATCH)
        assert not client.exists(f"{NAMESPACE}:{BATCH}.DQ"), "Dramatiq doesn't retry: the row does"
        company.before_charge = lambda: None
        assert company.sweep(after_s=2) == {"due payments, batch": 1}
        eventually(company.is_paid, "paid")
    (letter,) = dead_letters(client, BATCH).values()
    assert json.loads(letter)["args"] == [str(payment)]
    assert company.charges() == [1]


def test_raising_actor_during_a_redis_outage_loses_at_most_its_message(
    world: World, line: Line, client: Any
) -> None:
    company = Company(world, make_broker(line.url))
    company.owed(1)
    company.sweep()
    line_is_cut = threading.Event()

    def break_both() -> None:
        if not line_is_cut.is_set():
            line.cut()
            line_is_cut.set()
            raise RuntimeError("both at once")

    company.before_charge = break_both
    with running_worker(company.broker, BATCH):
        assert line_is_cut.wait(10)
        client.flushdb()  # Redis restarts without it
        line.repair()
        sweep_until_paid(company, "paid after Redis came back")
    assert company.charges() == [1]


def test_dead_letters_are_bounded_and_the_newest_are_kept(
    broker: RedisBroker, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared.messaging.broker, "KEEP_DEAD_LETTERS", 5)
    consumer = broker.consume(BATCH, prefetch=12, timeout=1)
    attempts = [ChargePayment(uuid4(), Lane.BATCH) for _ in range(12)]
    enqueue(broker, attempts)
    for _ in attempts:
        message = next(consumer)
        assert message is not None
        client.zadd(f"{NAMESPACE}:{BATCH}.XQ", {"older": 1})  # whatever the millisecond, this one is the oldest
        client.hset(f"{NAMESPACE}:{BATCH}.XQ.msgs", "older", "{}")
        consumer.nack(message)
    letters = dead_letters(client, BATCH)
    assert len(letters) == 5
    assert is_at_rest(client, BATCH)


GOOD = {"queue_name": BATCH, "actor_name": "charge_payment", "args": [str(ONE)], "kwargs": {}, "message_id": "1"}
WITH_ID = {"options": {"redis_message_id": "1"}}
UNREADABLE = {
    "not JSON": b"\x80\x04pickle",
    "not UTF-8": b"\xff\xfe",
    "empty": b"",
    "JSON, not a message": b"[1, 2]",
    "a field of another release": json.dumps({**GOOD, "options": {"redis_message_id": "1"}, "x": 1}).encode(),
    "without an id": json.dumps({**GOOD, "options": {}}).encode(),
    "options that are none": json.dumps({**GOOD, "options": None}).encode(),
    "an id that is a list": json.dumps({**GOOD, "options": {"redis_message_id": ["1"]}}).encode(),
    "a name that is a list": json.dumps({**GOOD, **WITH_ID, "actor_name": ["charge_payment"]}).encode(),
    "a message id that is a list": json.dumps({**GOOD, **WITH_ID, "message_id": ["1"]}).encode(),
    "arguments that are a number": json.dumps({**GOOD, **WITH_ID, "args": 5}).encode(),
    "arguments by name that are none": json.dumps({**GOOD, **WITH_ID, "kwargs": None}).encode(),
    "delayed for a hundred years": json.dumps(
        {**GOOD, "options": {"redis_message_id": "1", "eta": 4_900_000_000_000}}
    ).encode(),
    "for another queue": json.dumps({**GOOD, "queue_name": "mail", "options": {"redis_message_id": "1"}}).encode(),
}


@pytest.mark.parametrize("body", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_undecodable_message_is_dead_lettered_and_the_next_are_processed(
    company: Company, client: Any, body: bytes
) -> None:
    company.owed(3)
    company.sweep()
    (redis_id,) = put_in_front(client, BATCH, [body])
    with capture_logs() as logs, running_worker(company.broker, BATCH, threads=2) as worker:
        eventually(company.is_paid, "all paid, without another sweep")
        assert all(thread.is_alive() for thread in worker.workers)
    assert dead_letters(client, BATCH) == {redis_id: body}
    assert is_at_rest(client, BATCH), "it would be requeued at the worker's next death"
    assert [one["queue"] for one in logs if one["event"] == "doorbell.unreadable"] == [BATCH]
    assert company.charges() == [1] * 3


def test_oversized_message_is_dropped_and_the_next_are_processed(company: Company, client: Any) -> None:
    company.owed(2)
    company.sweep()
    put_in_front(client, BATCH, [json.dumps({**GOOD, **WITH_ID, "args": ["x" * 20_000_000]}).encode()])
    with capture_logs() as logs, running_worker(company.broker, BATCH, threads=2):
        eventually(company.is_paid, "all paid")
    assert is_at_rest(client, BATCH)
    assert dead_letters(client, BATCH) == {}, "a thousand of these would be 20 GB"
    assert [one["bytes"] > 20_000_000 for one in logs if one["event"] == "doorbell.unreadable"] == [True]
    assert company.charges() == [1, 1]


WRONG_ARGUMENTS: dict[str, list[Any]] = {
    "none": [],
    "one too many": [str(ONE), "batch"],
    "no id of ours": ["'; DROP TABLE payments; --"],
    "a number": [42],
    "an id of nothing": [str(ONE)],
}


@pytest.mark.parametrize("arguments", WRONG_ARGUMENTS.values(), ids=WRONG_ARGUMENTS.keys())
def test_wrong_arguments_affect_only_their_own_message(company: Company, client: Any, arguments: list[Any]) -> None:
    company.owed(1)
    redis_id = str(uuid4())
    body = json.dumps({**GOOD, "args": arguments, "options": {"redis_message_id": redis_id}}).encode()
    client.hset(f"{NAMESPACE}:{BATCH}.msgs", redis_id, body)
    client.lpush(f"{NAMESPACE}:{BATCH}", redis_id)
    company.sweep()
    with running_worker(company.broker, BATCH, threads=1) as worker:
        eventually(lambda: company.is_paid() and is_at_rest(client, BATCH), "all taken, one paid")
        assert all(thread.is_alive() for thread in worker.workers)
    assert len(dead_letters(client, BATCH)) == (arguments != [str(ONE)]), "an unknown ID is no error"
    assert company.charges() == [1]


def test_no_message_is_delayed(company: Company, broker: RedisBroker, client: Any) -> None:
    later: Message[Any] = Message(
        queue_name=BATCH, actor_name="charge_payment", args=(str(ONE),), kwargs={}, options={}
    )
    with pytest.raises(ValueError, match="no delayed messages"):
        broker.enqueue(later, delay=1_000)
    with running_worker(broker) as worker:
        assert sorted(worker.consumers) == sorted([*QUEUES, *RELEASED_QUEUES]), "and no queue of them"
    assert client.keys(f"{NAMESPACE}:*.DQ*") == []


def test_plain_dramatiq_strands_a_delayed_message_when_redis_reconnects(line: Line, client: Any) -> None:
    """Why DoorbellBroker has none: the worker drops the message, and Redis counts it as still held."""
    dramatiqs = RedisBroker(url=line.url, namespace=NAMESPACE, middleware=[])  # type: ignore[no-untyped-call]
    dramatiqs.declare_queue(BATCH)  # type: ignore[no-untyped-call]
    dramatiqs.maintenance_chance = 0
    done: list[str] = []
    add_actor(dramatiqs, "charge_payment", BATCH, done.append)
    message: Message[Any] = Message(
        queue_name=BATCH, actor_name="charge_payment", args=("delayed",), kwargs={}, options={}
    )
    with running_worker(dramatiqs, BATCH) as worker:
        dramatiqs.enqueue(message, delay=1_500)
        waits_in = worker.consumers[f"{BATCH}.DQ"]
        eventually(lambda: waits_in.delay_queue.qsize() == 1, "the worker holds it")
        line.cut()
        eventually(lambda: waits_in.delay_queue.qsize() == 0, "the worker forgot it")
        line.repair()
        dramatiqs.enqueue(message.copy(args=("after",)))
        eventually(lambda: "after" in done, "the worker works again")
        eventually(lambda: time.time() * 1000 > message.message_timestamp + 2_500, "it was due a second ago")
        assert done == ["after"]
    assert client.hlen(f"{NAMESPACE}:{BATCH}.DQ.msgs") == 1, "it stays unacknowledged, and no worker has it"


def test_plain_dramatiq_drops_messages_fetched_with_an_undecodable_one(redis_url: str, client: Any) -> None:
    """Why DoorbellBroker exists. If this ever fails, Dramatiq is fixed, and DoorbellBroker can go."""
    dramatiqs = RedisBroker(url=redis_url, namespace=NAMESPACE, middleware=[Retries(max_retries=0)])  # type: ignore[no-untyped-call]
    dramatiqs.declare_queue(BATCH)  # type: ignore[no-untyped-call]
    dramatiqs.maintenance_chance = 0
    done: list[str] = []
    add_actor(dramatiqs, "charge_payment", BATCH, done.append)
    enqueue(make_broker(redis_url), [ChargePayment(uuid4(), Lane.BATCH) for _ in range(PREFETCH - 1 + 2)])
    put_in_front(client, BATCH, [b"\xff"])
    with running_worker(dramatiqs, BATCH):
        eventually(lambda: len(done) == 2 and not client.exists(f"{NAMESPACE}:{BATCH}"), "those behind the batch")
    assert client.hlen(f"{NAMESPACE}:{BATCH}.msgs") == PREFETCH, "its batch is still there, without an owner"


def test_job_of_a_newer_release_is_dead_lettered(company: Company, client: Any) -> None:
    company.owed(2)
    newer: Message[Any] = Message(
        queue_name=BATCH, actor_name="refund_payment", args=(str(ONE),), kwargs={}, options={}
    )
    company.broker.enqueue(newer)
    company.sweep()
    with running_worker(company.broker, BATCH, threads=1):
        eventually(company.is_paid, "all paid")
        eventually(lambda: dead_letters(client, BATCH), "the dead letter")
    (letter,) = dead_letters(client, BATCH).values()
    assert json.loads(letter)["actor_name"] == "refund_payment"
    assert company.charges() == [1, 1]


class Objects(Middleware):
    """A middleware that tries to prevent an actor from running."""

    def before_process_message(self, *_: Any) -> None:
        raise PermissionError("this must not be charged")


def test_middleware_cannot_stop_an_actor(redis_url: str) -> None:
    broker = make_broker(redis_url, [Objects()])
    done: list[str] = []
    add_actor(broker, "charge_payment", BATCH, done.append)
    enqueue(broker, [ChargePayment(ONE, Lane.BATCH)])
    with running_worker(broker, BATCH):
        eventually(lambda: done == [str(ONE)], "the actor runs all the same")
    assert {*map(type, make_broker(redis_url).middleware)} == {TimeLimit, Retries, KeepTraceback, DebounceSigterm}


def test_message_on_the_interactive_queue_reaches_the_same_actor(company: Company) -> None:
    (payment,) = company.owed(1)
    enqueue(company.broker, [ChargePayment(payment, Lane.INTERACTIVE)])
    with running_worker(company.broker, INTERACTIVE):
        eventually(company.is_paid, "paid")
    assert company.charges() == [1]


def test_payment_enqueued_twenty_times_is_charged_once(company: Company, client: Any) -> None:
    (payment,) = company.owed(1)
    enqueue(company.broker, [ChargePayment(payment, Lane.BATCH)] * 20)
    with running_worker(company.broker, BATCH):
        eventually(lambda: company.is_paid() and is_at_rest(client, BATCH), "paid, and all messages taken")
    assert company.charges() == [1]
    assert dead_letters(client, BATCH) == {}


def test_queue_is_processed_once_a_full_redis_has_room_again(
    company: Company, client: Any, request: pytest.FixtureRequest
) -> None:
    company.owed(2)
    company.sweep()
    full = request.getfixturevalue("full")
    with running_worker(company.broker, BATCH):
        assert company.sweep(after_s=PATIENCE.total_seconds()) is not None
        assert not company.is_paid(), "a full Redis returns nothing either"
        full.config_set("maxmemory", 0)
        eventually(company.is_paid, "all paid")
    assert company.charges() == [1, 1]
