"""The doorbell: a Dramatiq broker on Redis, and `ring`, which never matters for correctness.

Whatever is lost here costs seconds, because the sweep finds the rows again; so a Redis that is away is logged,
never raised into code that has already committed.
"""

import signal
import time
from collections.abc import Callable, Iterable, Sequence
from types import FrameType
from typing import Any
from uuid import uuid4

import redis
import structlog
from dramatiq import Message
from dramatiq.broker import Broker
from dramatiq.brokers.redis import RedisBroker
from dramatiq.common import current_millis
from dramatiq.middleware import Middleware, Retries, TimeLimit

from shared.jobs import QUEUES, Job

log = structlog.get_logger()

NAMESPACE = "duecourse"
#: Messages in one round trip: keeps Redis's single thread busy for some 30 ms, not for seconds.
RING_BATCH = 1_000
#: Procfile runners send SIGTERM twice within moments; a person who means "now" is slower than this (s).
SIGTERM_DEBOUNCE_S = 5.0

Ring = Callable[[Iterable[Job]], bool]


class DebounceSigterm(Middleware):
    """Take several SIGTERMs within moments as one: Dramatiq kills its worker in mid-charge at the second."""

    def after_process_boot(self, broker: Broker) -> None:  # noqa: ARG002  # Dramatiq's signature
        stop = signal.getsignal(signal.SIGTERM)
        if not callable(stop):
            return
        first_at: list[float] = []

        def stop_once(signum: int, frame: FrameType | None) -> None:
            now = time.monotonic()
            if first_at and now - first_at[0] < SIGTERM_DEBOUNCE_S:
                return
            first_at.append(now)
            stop(signum, frame)

        signal.signal(signal.SIGTERM, stop_once)


def make_broker(redis_url: str, extra: Sequence[Middleware] = ()) -> RedisBroker:
    """Make the broker of all processes: time limits, no message retries (rows come back by themselves)."""
    client = redis.Redis.from_url(redis_url, socket_connect_timeout=5, socket_timeout=10, health_check_interval=30)
    broker = RedisBroker(  # type: ignore[no-untyped-call]  # Dramatiq leaves it untyped
        client=client,
        namespace=NAMESPACE,
        # Retries with max_retries=0 is what moves a message whose actor raised to the dead letters.
        middleware=[TimeLimit(time_limit=90_000), Retries(max_retries=0), DebounceSigterm(), *extra],
    )
    for queue in QUEUES:
        broker.declare_queue(queue)
    return broker


def make_ring(broker: RedisBroker) -> Ring:
    """Return a `ring` bound to this broker."""
    return lambda jobs: ring(broker, jobs)


def ring(broker: RedisBroker, jobs: Iterable[Job]) -> bool:
    """Ring for each job, in pipelines; return False (and log) if Redis didn't take them all.

    Uses the dispatch script of the pinned Dramatiq release, so that ten thousand messages are ten round trips.
    """
    waiting = list(jobs)
    try:
        for start in range(0, len(waiting), RING_BATCH):
            _ring_batch(broker, waiting[start : start + RING_BATCH])
    except redis.RedisError as error:
        log.warning(
            "doorbell.unreachable", jobs=len(waiting), error=str(error), consequence="the sweep rings again"
        )
        return False
    return True


def waiting_messages(broker: RedisBroker, queue: str) -> int:
    """Count the messages that no worker has taken yet. Raises redis.RedisError."""
    depth: Any = broker.client.llen(f"{NAMESPACE}:{queue}")
    return int(depth)


def _ring_batch(broker: RedisBroker, jobs: Sequence[Job]) -> None:
    dispatch = broker.scripts["dispatch"]
    pipeline = broker.client.pipeline(transaction=False)
    for job in jobs:
        redis_id = str(uuid4())
        message: Message[Any] = Message(
            queue_name=job.queue,
            actor_name=job.name,
            args=job.arguments,
            kwargs={},
            options={"redis_message_id": redis_id},
        )
        dispatch(
            keys=[NAMESPACE],
            args=[
                "enqueue",
                current_millis(),
                job.queue,
                broker.broker_id,
                broker.heartbeat_timeout,
                broker.dead_message_ttl,
                0,  # no maintenance here: the workers' own fetches roll for it
                1,  # max_unpack_size: only maintenance and fetch read it
                redis_id,
                message.encode(),
            ],
            client=pipeline,
        )
    pipeline.execute()
