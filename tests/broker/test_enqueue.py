"""`enqueue` writes what Dramatiq itself would write, thousands at a time, and never raises."""

import json
import re
import time
from typing import Any
from uuid import UUID, uuid4

import pytest
import redis
from dramatiq import Message
from dramatiq.brokers.redis import RedisBroker
from structlog.testing import capture_logs

from shared.domain.states import Lane
from shared.messaging.broker import ENQUEUE_BATCH, NAMESPACE, enqueue, make_broker, waiting_messages
from shared.messaging.jobs import (
    BATCH,
    INTERACTIVE,
    QUEUES,
    RUNS,
    ApplyStripeEvent,
    ChargePayment,
    GenerateInvoices,
    Job,
    RetryPayments,
    SettleAttempt,
)
from tests.broker.conftest import is_at_rest
from tests.broker.line import Line, answering

ONE = UUID("01890000-0000-7000-8000-000000000001")
EVERY_JOB: list[Job] = [
    ChargePayment(ONE, Lane.INTERACTIVE),
    ChargePayment(ONE, Lane.BATCH),
    SettleAttempt(ONE),
    ApplyStripeEvent("japan", "evt_1"),
    GenerateInvoices(ONE),
    RetryPayments(ONE),
]


def keys_and_types(client: "redis.Redis") -> dict[bytes, Any]:
    return {key: client.type(key) for key in client.keys("*")}  # type: ignore[union-attr]


def body_of(client: Any, queue: str) -> bytes:
    (body,) = client.hgetall(f"{NAMESPACE}:{queue}.msgs").values()
    return bytes(body)


def masked(body: bytes) -> bytes:
    """Mask what differs from message to message: its IDs and its time."""
    for name in (b"message_id", b"redis_message_id"):
        body = re.sub(rb'"%s":"[0-9a-f-]{36}"' % name, b'"%s":"-"' % name, body)
    return re.sub(rb'"message_timestamp":\d{13}', b'"message_timestamp":0', body)


@pytest.mark.parametrize("job", EVERY_JOB, ids=lambda job: f"{job.name}-{job.queue}")
def test_enqueue_writes_what_dramatiq_writes(broker: RedisBroker, client: "redis.Redis", job: Job) -> None:
    client.flushdb()  # of an external Redis, also the mark that names its owner
    assert enqueue(broker, [job])
    ours, our_keys = body_of(client, job.queue), keys_and_types(client)
    client.flushdb()
    broker.enqueue(Message(queue_name=job.queue, actor_name=job.name, args=job.arguments, kwargs={}, options={}))
    assert our_keys == keys_and_types(client)
    assert masked(ours) == masked(body_of(client, job.queue))


def test_dramatiq_consumer_takes_and_acknowledges_enqueued_jobs(redis_url: str, client: "redis.Redis") -> None:
    assert enqueue(make_broker(redis_url), EVERY_JOB)
    dramatiqs = RedisBroker(url=redis_url, namespace=NAMESPACE, middleware=[])  # type: ignore[no-untyped-call]
    taken = []
    for queue in QUEUES:
        dramatiqs.declare_queue(queue)  # type: ignore[no-untyped-call]
        consumer = dramatiqs.consume(queue, prefetch=8, timeout=1)
        while (message := next(consumer)) is not None:
            taken.append((message.actor_name, message.queue_name, message.args))
            consumer.ack(message)
        assert is_at_rest(client, queue)
    assert sorted(taken) == sorted((job.name, job.queue, job.arguments) for job in EVERY_JOB)


def test_ten_thousand_jobs_take_ten_round_trips_in_order(broker: RedisBroker, client: "redis.Redis") -> None:
    jobs = [ChargePayment(uuid4(), Lane.BATCH) for _ in range(10_000)]
    before = writes_of(client)
    assert enqueue(broker, jobs)
    assert waiting_messages(broker, BATCH) == 10_000
    # One packet may be read in pieces by the server, so its reads are only bounded: far below one per message.
    assert writes_of(client) - before < 10 * (10_000 // ENQUEUE_BATCH) * 10
    consumer = broker.consume(BATCH, prefetch=10_000, timeout=1)
    enqueued = [message.args for message in (next(consumer) for _ in range(2_000)) if message is not None]
    assert enqueued == [job.arguments for job in jobs[: len(enqueued)]]
    assert len(enqueued) >= 1_000


def writes_of(client: Any) -> int:
    """How many answers the server wrote."""
    return int(client.info("stats")["total_writes_processed"])


def test_message_carries_only_ids(broker: RedisBroker, client: "redis.Redis") -> None:
    for job in EVERY_JOB:
        client.flushdb()
        enqueue(broker, [job])
        message = json.loads(body_of(client, job.queue))
        assert set(message) == {
            "queue_name", "actor_name", "args", "kwargs", "options", "message_id", "message_timestamp",
        }  # fmt: skip
        assert message["kwargs"] == {}
        assert set(message["options"]) == {"redis_message_id"}
        assert all(re.fullmatch(r"[0-9a-f-]{36}|global|japan|evt_\w+", argument) for argument in message["args"])


def test_waiting_messages_are_counted_until_a_worker_takes_them(broker: RedisBroker) -> None:
    enqueue(broker, [ChargePayment(uuid4(), Lane.BATCH) for _ in range(3)] + [GenerateInvoices(ONE)])
    assert [waiting_messages(broker, queue) for queue in (INTERACTIVE, BATCH, RUNS)] == [0, 3, 1]
    consumer = broker.consume(BATCH, prefetch=2, timeout=1)
    next(consumer)
    assert waiting_messages(broker, BATCH) == 1


def test_count_reports_a_redis_outage(line: Line) -> None:
    broker = make_broker(line.url)
    line.cut()
    with pytest.raises(redis.RedisError):
        waiting_messages(broker, BATCH)


def test_enqueue_reports_a_redis_outage_and_works_again_after_it(line: Line) -> None:
    broker = make_broker(line.url)
    assert enqueue(broker, [ChargePayment(ONE, Lane.BATCH)])
    line.cut()
    with capture_logs() as logs:
        assert not enqueue(broker, [ChargePayment(ONE, Lane.BATCH)])
    assert [(one["event"], one["jobs"]) for one in logs] == [("doorbell.unreachable", 1)]
    line.repair()
    assert enqueue(broker, [ChargePayment(ONE, Lane.BATCH)])
    assert waiting_messages(broker, BATCH) == 2


def test_hanging_redis_is_given_up_after_the_socket_timeout(line: Line) -> None:
    broker = make_broker(line.url)
    settings = broker.client.get_connection_kwargs()
    assert 0 < settings["socket_timeout"] <= 10
    assert 0 < settings["socket_connect_timeout"] <= 5
    settings["socket_timeout"] = 0.2  # not waited for, but the path is the same
    line.hang()
    began = time.monotonic()
    assert not enqueue(broker, [ChargePayment(ONE, Lane.BATCH)])
    assert time.monotonic() - began < 2, "it waits once, and doesn't retry"
    line.cut()
    line.repair()
    assert enqueue(broker, [ChargePayment(ONE, Lane.BATCH)])


@pytest.mark.parametrize(
    "answer",
    [
        b"-OOM command not allowed when used memory > 'maxmemory'.\r\n",
        b"-LOADING Redis is loading the dataset in memory\r\n",
        b"-READONLY You can't write against a read only replica.\r\n",
        b"-MISCONF Redis is configured to save RDB snapshots, but it is unable to persist to disk.\r\n",
        b"-NOAUTH Authentication required.\r\n",
        b"-NOPERM this user has no permissions\r\n",
        b"-MASTERDOWN Link with MASTER is down\r\n",
        b"-BUSY Redis is busy running a script.\r\n",
        b"-ERR max number of clients reached\r\n",
        b"-NOSCRIPT No matching script.\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b":not a number\r\n",
        b"",
    ],
)
def test_enqueue_never_raises(answer: bytes) -> None:
    with answering(answer) as url:
        broker = make_broker(url)
        broker.client.get_connection_kwargs()["socket_timeout"] = 0.2
        with capture_logs() as logs:
            assert not enqueue(broker, EVERY_JOB)
        assert [one["event"] for one in logs] in (["doorbell.unreachable"], ["doorbell.defect"])


def test_enqueue_to_an_unreachable_address_returns_false(client: "redis.Redis") -> None:
    assert not enqueue(make_broker("redis://nowhere.invalid:6379/0"), EVERY_JOB)


def test_full_redis_takes_no_message_until_it_has_room(broker: RedisBroker, full: "redis.Redis") -> None:
    with capture_logs() as logs:
        assert not enqueue(broker, EVERY_JOB)
    assert "maxmemory" in logs[0]["error"] or "OOM" in logs[0]["error"]
    full.config_set("maxmemory", 0)
    assert enqueue(broker, EVERY_JOB)
