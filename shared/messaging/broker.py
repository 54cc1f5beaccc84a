"""The doorbell: a Dramatiq broker on Redis, and `ring`, which never matters for correctness.

Whatever is lost here costs seconds, because the sweep finds the rows again; so a Redis that is away is logged,
never raised into code that has already committed.
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
from shared.messaging.middleware import KeepTraceback, StandStill

log = structlog.get_logger()

NAMESPACE = "duecourse"
#: Messages in one round trip: keeps Redis's single thread busy for some 30 ms, not for seconds.
ENQUEUE_BATCH = 1_000
#: Procfile runners send SIGTERM twice within moments; a person who means "now" is slower than this (s).
SIGTERM_DEBOUNCE_S = 5.0
#: Dead letters kept in each queue for a person to look at, 9 MB at most with their tracebacks. A row whose actor
#: raises comes back every few seconds, and Dramatiq's own bound, seven days of them, would fill Redis.
KEEP_DEAD_LETTERS = 1_000
#: Ours have some 300 bytes. Whatever is larger isn't ours, and isn't kept.
LARGEST_BODY = 10_000

Enqueue = Callable[[Iterable[Job]], bool]


class DebounceSigterm(Middleware):
    """Take several orders to stop within moments as one: Dramatiq kills its worker in mid-charge at the second.

    They double easily: its master passes each on to a worker that a signal to the whole group has reached already.
    At the first no thread begins anything new, where Dramatiq would only notice within a second.
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

        for number in (signal.SIGTERM, signal.SIGHUP):  # a terminal that closes sends the latter
            signal.signal(number, stop_once)


class DoorbellBroker(RedisBroker):
    """Dramatiq's Redis broker, which one message that can't be read doesn't bring out of step.

    It has no delayed messages: what is due later is a row with a date. So none is stranded by a blip of Redis, and
    each worker polls half as many queues. Of a paused lane it takes nothing.
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
        """Enqueue now. ValueError for a delay: write a date into the row instead, and let the sweep ring."""
        if delay is not None:
            raise ValueError("Duecourse has no delayed messages: give the row a date, and the sweep rings then")
        return super().enqueue(message)

    def do_fetch(self, queue_name: str, count: int) -> list[bytes | None]:
        """Take up to `count` messages; those that can't be read become dead letters. Raises redis.RedisError.

        Dramatiq 2.2.1 would drop what it fetched with an undecodable one, wait three seconds, and meet it again
        after its next start; one that names another queue would end a thread of the worker for good.
        """
        if self.is_paused(queue_name):
            # Takes nothing, and says that this worker lives.
            self._dispatch("fetch")(queue_name, 0)  # type: ignore[no-untyped-call]
            return []
        bodies: list[bytes | None] = self._dispatch("fetch")(queue_name, count)  # type: ignore[no-untyped-call]
        readable = []
        for body in bodies:
            if body is None or is_readable(body, queue_name):
                readable.append(body)
            else:
                self._set_aside(queue_name, body)
        return readable

    def do_ack(self, queue_name: str, redis_id: str | bytes) -> None:
        """Take a message off the books, or let it come back: Dramatiq would try until Redis is there again.

        So long its thread would do nothing else, and a worker told to stop would use up its whole grace.
        """
        with _let_come_back(queue_name):
            self._dispatch("ack")(queue_name, redis_id)  # type: ignore[no-untyped-call]

    def do_requeue(self, queue_name: str, *redis_ids: str | bytes) -> None:
        """Put back what a stopping worker fetched and didn't begin; without Redis, leave it to the sweep."""
        with _let_come_back(queue_name):
            self._dispatch("requeue")(queue_name, *redis_ids)  # type: ignore[no-untyped-call]

    def do_nack(self, queue_name: str, redis_id: str | bytes) -> None:
        """Move a message to the dead letters, of which the newest are kept; without Redis, let it come back."""
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

    def _set_aside(self, queue_name: str, body: bytes) -> None:
        """Find the id of an unreadable message among the few that we hold, and make it a dead letter."""
        log.error(
            "doorbell.unreadable",
            queue=queue_name,
            bytes=len(body),
            consequence="it is set aside; if a row is due, the sweep rings again",
        )
        client: Any = self.client
        for redis_id in client.smembers(f"{NAMESPACE}:__acks__.{self.broker_id}.{queue_name}"):
            if client.hget(f"{NAMESPACE}:{queue_name}.msgs", redis_id) == body:
                if len(body) > LARGEST_BODY:  # a thousand dead letters of it could fill Redis
                    self.do_ack(queue_name, redis_id)
                else:
                    self.do_nack(queue_name, redis_id)


@contextlib.contextmanager
def _let_come_back(queue_name: str) -> Iterator[None]:
    """What Redis didn't hear comes back when this worker is gone, and costs a query then."""
    try:
        yield
    except redis.RedisError as error:
        log.warning("doorbell.not_told", queue=queue_name, error=str(error), consequence="the message comes again")


def make_broker(
    redis_url: str, extra: Sequence[Middleware] = (), is_paused: Callable[[str], bool] | None = None
) -> RedisBroker:
    """Make the broker of all processes: time limits, no message retries (rows come back by themselves).

    `is_paused` is for those that take messages: a lane that it names stands still.
    """
    client = redis.Redis.from_url(redis_url, socket_connect_timeout=5, socket_timeout=10, health_check_interval=30)
    ours = (KeepTraceback(), DebounceSigterm())
    broker = DoorbellBroker(  # type: ignore[no-untyped-call]  # Dramatiq leaves it untyped
        client=client,
        namespace=NAMESPACE,
        # Retries with max_retries=0 is what moves a message whose actor raised to the dead letters.
        middleware=[TimeLimit(time_limit=90_000), Retries(max_retries=0), *ours, *extra],
    )
    if is_paused is not None:
        broker.is_paused = is_paused
        broker.add_middleware(StandStill(is_paused))
    for queue in (*QUEUES, *RELEASED_QUEUES):
        broker.declare_queue(queue)
    return broker


def make_enqueue(broker: RedisBroker) -> Enqueue:
    """Return a `ring` bound to this broker."""
    return lambda jobs: enqueue(broker, jobs)


def enqueue(broker: RedisBroker, jobs: Iterable[Job]) -> bool:
    """Ring for each job, in pipelines; return False (and log) if Redis didn't take them all.

    Uses the dispatch script of the pinned Dramatiq release, so that ten thousand messages are ten round trips.
    """
    waiting = list(jobs)
    try:
        for start in range(0, len(waiting), ENQUEUE_BATCH):
            _ring_batch(broker, waiting[start : start + ENQUEUE_BATCH])
    except redis.RedisError as error:
        log.warning(
            "doorbell.unreachable", jobs=len(waiting), error=str(error), consequence="the sweep rings again"
        )
        return False
    except Exception:  # whatever else a connection may raise: the caller has committed, and the sweep rings again
        log.exception("doorbell.defect", jobs=len(waiting))
        return False
    return True


def waiting_messages(broker: RedisBroker, queue: str) -> int:
    """Count the messages that no worker has taken yet. Raises redis.RedisError."""
    depth: Any = broker.client.llen(f"{NAMESPACE}:{queue}")
    return int(depth)


def is_readable(body: bytes, queue_name: str) -> bool:
    """Whether Dramatiq can handle a body without harm. Each field may be anything that JSON knows.

    A name that is a list would stop the batch, and an `eta` would wait in memory and hold its place for ever.
    """
    if len(body) > LARGEST_BODY:
        return False
    try:
        message: Message[Any] = Message.decode(body)
    except DecodeError:
        return False
    said: Any = message  # its annotations promise more than the body keeps
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
