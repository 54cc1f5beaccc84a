"""A broker as the processes make it, real workers on threads, and a Redis proxy that can break."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import dramatiq
import dramatiq.worker
import pytest
import redis
from dramatiq.brokers.redis import RedisBroker
from dramatiq.worker import Worker

from shared.messaging.broker import NAMESPACE, make_broker
from tests.broker.line import Line

#: As in the Procfile; shorter only where a test would wait for it.
THREADS = PREFETCH = 8
POLL_MS = 20


@pytest.fixture
def broker(redis_url: str) -> Iterator[RedisBroker]:
    made = make_broker(redis_url)
    yield made
    made.client.close()


@pytest.fixture
def line(redis_url: str) -> Iterator[Line]:
    line = Line(redis_url)
    yield line
    line.cut()


@pytest.fixture
def client(redis_url: str) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def full(client: Any) -> Iterator["redis.Redis"]:
    """Fill Redis: it has no memory left."""
    if os.environ.get("REDIS_URL"):
        pytest.skip("the server at REDIS_URL may have other users, whose writes would be refused too")
    client.config_set("maxmemory", 1)
    try:
        yield client
    finally:
        client.config_set("maxmemory", 0)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten Dramatiq's wait after a lost connection."""
    monkeypatch.setattr(dramatiq.worker, "CONSUMER_RESTART_DELAY_SECS", 0.1)
    monkeypatch.setattr(dramatiq.worker, "POST_PROCESS_MESSAGE_RETRY_DELAY_SECS", 0.1)


@contextmanager
def running_worker(broker: RedisBroker, *queues: str, threads: int = THREADS) -> Iterator[Worker]:
    """What `dramatiq workers.actors` runs in its worker process."""
    worker = Worker(broker, queues=set(queues) or None, worker_threads=threads, worker_timeout=POLL_MS)
    worker.queue_prefetch = PREFETCH
    worker.start()
    try:
        yield worker
    finally:
        worker.stop(timeout=10_000)


def add_actor(broker: RedisBroker, name: str, queue: str, does: Callable[..., Any]) -> None:
    """Declare an actor as `workers/actors.py` does."""
    dramatiq.actor(does, broker=broker, actor_name=name, queue_name=queue)


def eventually(is_so: Callable[[], object], what: str, within_s: float = 20.0) -> None:
    deadline = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        time.sleep(0.01)


def put_in_front(client: "redis.Redis", queue: str, bodies: Sequence[bytes]) -> list[str]:
    """Put bodies at the head of the queue; returns their IDs."""
    ids = [str(uuid4()) for _ in bodies]
    for redis_id, body in reversed(list(zip(ids, bodies, strict=True))):
        client.hset(f"{NAMESPACE}:{queue}.msgs", redis_id, body)  # type: ignore[arg-type]
        client.lpush(f"{NAMESPACE}:{queue}", redis_id)
    return ids


def dead_letters(client: Any, queue: str) -> dict[str, bytes]:
    with client.pipeline(transaction=True) as both:  # a worker may be setting one aside
        both.zrange(f"{NAMESPACE}:{queue}.XQ", 0, -1)
        both.hgetall(f"{NAMESPACE}:{queue}.XQ.msgs")
        found, messages = both.execute()
    ids = [one.decode() for one in found]
    bodies = {key.decode(): body for key, body in messages.items()}
    assert sorted(ids) == sorted(bodies), "each dead letter has a body, and each body a dead letter"
    return bodies


def is_at_rest(client: Any, queue: str) -> bool:
    """Nothing waits, and no message is unacknowledged."""
    return not client.exists(f"{NAMESPACE}:{queue}", f"{NAMESPACE}:{queue}.msgs")
