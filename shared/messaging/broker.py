"""The doorbell: a Dramatiq broker on Redis, and `enqueue`. Correctness never depends on either.

A lost message costs seconds, because the sweep finds the row again. So an unreachable Redis is logged, and never
raised into code that has already committed.
"""

import contextlib
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import FrameType
from typing import Any
from uuid import uuid4

import redis
import structlog
from dramatiq import Message
from dramatiq.broker import Broker
from dramatiq.brokers.redis import RedisBroker
from dramatiq.common import current_millis, q_name
from dramatiq.errors import DecodeError
from dramatiq.middleware import Middleware, Retries, TimeLimit
from dramatiq.worker import Worker

from shared.messaging.jobs import QUEUES, RELEASED_QUEUES, Job
from shared.messaging.middleware import KeepTraceback, SkipPausedQueues

log = structlog.get_logger()

NAMESPACE = "duecourse"
#: Messages in one round trip: keeps Redis's single thread busy for some 30 ms, not for seconds.
ENQUEUE_BATCH = 1_000
#: Procfile runners send SIGTERM twice within moments; an operator who means "now" is slower than this (s).
SIGTERM_DEBOUNCE_S = 5.0
#: Dead letters kept per queue for an operator, 9 MB at most with their tracebacks. A row whose actor raises comes
#: back every few seconds, and Dramatiq's own bound, seven days of them, would fill Redis.
KEEP_DEAD_LETTERS = 1_000
#: Ours have some 300 bytes. A larger body isn't ours, and isn't kept.
LARGEST_BODY = 10_000

Enqueue = Callable[[Iterable[Job]], bool]


class DebounceSigterm(Middleware):
    """Treat several stop signals within moments as one: Dramatiq kills its worker in mid-charge at the second.

    Duplicates are common: its master forwards each signal to a worker that a signal to the whole group has already
    reached. At the first signal no thread starts a new message, where Dramatiq would only notice within a second.
    """

    def __init__(self) -> None:
        self._threads: Sequence[Any] = ()

    def after_worker_boot(self, broker: Broker, worker: Worker) -> None:  # noqa: ARG002
        self._threads = worker.workers

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
            for thread in self._threads:
                thread.running = False
            stop(signum, frame)

        for number in (signal.SIGTERM, signal.SIGHUP):  # a closing terminal sends the latter
            signal.signal(number, stop_once)


class DoorbellBroker(RedisBroker):
    """Dramatiq's Redis broker, which survives a message that can't be read.

    It has no delayed messages: later work is a row with a date. So a Redis outage strands none, and each worker
    polls half as many queues. It takes no messages of a paused queue.
    """

    #: Whether a queue is paused; must not raise. Set once, by `make_broker`.
    is_paused: Callable[[str], bool] = staticmethod(lambda _queue_name: False)

    def declare_queue(self, queue_name: str) -> None:
        """Declare a queue without its delay queue."""
        if queue_name not in self.queues:
            self.emit_before("declare_queue", queue_name)
            self.queues.add(queue_name)
            self.emit_after("declare_queue", queue_name)

    def enqueue(self, message: Message[Any], *, delay: int | None = None) -> Message[Any]:
        """Enqueue now. ValueError for a delay: write a date into the row, and the sweep enqueues it."""
        if delay is not None:
            raise ValueError("Duecourse has no delayed messages: give the row a date, and the sweep enqueues it")
        return super().enqueue(message)

    def do_fetch(self, queue_name: str, count: int) -> list[bytes | None]:
        """Take up to `count` messages; unreadable ones become dead letters. Raises redis.RedisError.

        Dramatiq 2.2.1 would drop what it fetched with an undecodable message, wait three seconds, and meet it again
        after its next start. A message that names another queue would end a thread of the worker for good.
        """
        if self.is_paused(queue_name):
            # Takes nothing, and refreshes this worker's heartbeat in Redis.
            self._dispatch("fetch")(queue_name, 0)  # type: ignore[no-untyped-call]
            return []
        bodies: list[bytes | None] = self._dispatch("fetch")(queue_name, count)  # type: ignore[no-untyped-call]
        readable = []
        for body in bodies:
            if body is None or is_readable(body, queue_name):
                readable.append(body)
            else:
                self._make_dead_letter(queue_name, body)
        return readable

    def do_ack(self, queue_name: str, redis_id: str | bytes) -> None:
        """Acknowledge a message, or let it come back: Dramatiq would retry until Redis is there again.

        Meanwhile its thread would do nothing else, and a stopping worker would use up its whole grace period.
        """
        with _let_come_back(queue_name):
            self._dispatch("ack")(queue_name, redis_id)  # type: ignore[no-untyped-call]

    def do_requeue(self, queue_name: str, *redis_ids: str | bytes) -> None:
        """Put back what a stopping worker fetched and didn't start; without Redis, leave it to the sweep."""
        with _let_come_back(queue_name):
            self._dispatch("requeue")(queue_name, *redis_ids)  # type: ignore[no-untyped-call]

    def do_nack(self, queue_name: str, redis_id: str | bytes) -> None:
        """Move a message to the dead letters, whose newest are kept; without Redis, let it come back."""
        with _let_come_back(queue_name):
            self._bury(queue_name, redis_id)

    def _bury(self, queue_name: str, redis_id: str | bytes) -> None:
        self._dispatch("nack")(queue_name, redis_id)  # type: ignore[no-untyped-call]
        dead = f"{NAMESPACE}:{q_name(queue_name)}.XQ"
        client: Any = self.client
        excess = client.zcard(dead) - KEEP_DEAD_LETTERS
        oldest = client.zpopmin(dead, excess) if excess > 0 else []
        if oldest:
            client.hdel(f"{dead}.msgs", *(redis_id for redis_id, _ in oldest))

    def _make_dead_letter(self, queue_name: str, body: bytes) -> None:
        """Find the id of an unreadable message among the few that this worker holds, and make it a dead letter."""
        log.error(
            "doorbell.unreadable",
            queue=queue_name,
            bytes=len(body),
            consequence="it becomes a dead letter; if a row is due, the sweep enqueues it again",
        )
        client: Any = self.client
        for redis_id in client.smembers(f"{NAMESPACE}:__acks__.{self.broker_id}.{queue_name}"):
            if client.hget(f"{NAMESPACE}:{queue_name}.msgs", redis_id) == body:
                if len(body) > LARGEST_BODY:  # a thousand dead letters of this size could fill Redis
                    self.do_ack(queue_name, redis_id)
                else:
                    self.do_nack(queue_name, redis_id)


@contextlib.contextmanager
def _let_come_back(queue_name: str) -> Iterator[None]:
    """Leave the message in Redis: it comes back once this worker is gone, and then costs one query."""
    try:
        yield
    except redis.RedisError as error:
        log.warning("doorbell.not_told", queue=queue_name, error=str(error), consequence="the message comes back")


def make_broker(
    redis_url: str, extra: Sequence[Middleware] = (), is_paused: Callable[[str], bool] | None = None
) -> RedisBroker:
    """Make the broker of all processes: time limits, no message retries (rows come back by themselves).

    `is_paused` is for processes that take messages: they leave the messages of a paused queue.
    """
    client = redis.Redis.from_url(redis_url, socket_connect_timeout=5, socket_timeout=10, health_check_interval=30)
    ours = (KeepTraceback(), DebounceSigterm())
    broker = DoorbellBroker(  # type: ignore[no-untyped-call]  # Dramatiq leaves it untyped
        client=client,
        namespace=NAMESPACE,
        # Retries with max_retries=0 moves a message whose actor raised to the dead letters.
        middleware=[TimeLimit(time_limit=90_000), Retries(max_retries=0), *ours, *extra],
    )
    if is_paused is not None:
        broker.is_paused = is_paused
        broker.add_middleware(SkipPausedQueues(is_paused))
    for queue in (*QUEUES, *RELEASED_QUEUES):
        broker.declare_queue(queue)
    return broker


def make_enqueue(broker: RedisBroker) -> Enqueue:
    """Return an `enqueue` bound to this broker."""
    return lambda jobs: enqueue(broker, jobs)


def enqueue(broker: RedisBroker, jobs: Iterable[Job]) -> bool:
    """Enqueue the jobs, in pipelines; return False (and log) if Redis didn't take them all.

    Uses the dispatch script of the pinned Dramatiq release, so that ten thousand messages are ten round trips.
    """
    waiting = list(jobs)
    try:
        for start in range(0, len(waiting), ENQUEUE_BATCH):
            _enqueue_batch(broker, waiting[start : start + ENQUEUE_BATCH])
    except redis.RedisError as error:
        log.warning(
            "doorbell.unreachable", jobs=len(waiting), error=str(error), consequence="the sweep enqueues again"
        )
        return False
    except Exception:  # a connection may raise anything; the caller has committed, and the sweep enqueues again
        log.exception("doorbell.defect", jobs=len(waiting))
        return False
    return True


def waiting_messages(broker: RedisBroker, queue: str) -> int:
    """Count the messages that no worker has taken yet. Raises redis.RedisError."""
    depth: Any = broker.client.llen(f"{NAMESPACE}:{queue}")
    return int(depth)


def is_readable(body: bytes, queue_name: str) -> bool:
    """Whether Dramatiq can handle a body safely. Each field may hold any JSON.

    A name that is a list would stop the batch, and an `eta` would wait in memory and hold its place forever.
    """
    if len(body) > LARGEST_BODY:
        return False
    try:
        message: Message[Any] = Message.decode(body)
    except DecodeError:
        return False
    said: Any = message  # its annotations promise more than the body guarantees
    return (
        isinstance(said.options, dict)
        and "eta" not in said.options
        and isinstance(said.options.get("redis_message_id"), str)
        and said.queue_name == queue_name
        and isinstance(said.actor_name, str)
        and isinstance(said.message_id, str)
        and isinstance(said.args, list | tuple)
        and isinstance(said.kwargs, dict)
    )


def _enqueue_batch(broker: RedisBroker, jobs: Sequence[Job]) -> None:
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
                0,  # no maintenance here: the workers' own fetches trigger it
                1,  # max_unpack_size: only maintenance and fetch use it
                redis_id,
                message.encode(),
            ],
            client=pipeline,
        )
    pipeline.execute()
