"""Depths of the queues in Redis. Due rows are in the database: `web/dashboard/queries/queue_metrics.py`."""

from dataclasses import dataclass
from typing import Any

from dramatiq.brokers.redis import RedisBroker

from shared.messaging.broker import NAMESPACE
from shared.messaging.jobs import QUEUES

#: Workers and other recent clients; more than a thousand lookups would keep Redis busy for nothing.
MOST_BROKERS = 200


@dataclass(frozen=True)
class Depth:
    """Messages of one queue: waiting, fetched and not yet acknowledged, and dead."""

    queue: str
    waiting: int
    in_flight: int
    dead: int


def message_depths(broker: RedisBroker) -> dict[str, Depth]:
    """Return the depth of each queue. Raises redis.RedisError."""
    client: Any = broker.client
    brokers = [one.decode() for one in client.zrevrange(f"{NAMESPACE}:__heartbeats__", 0, MOST_BROKERS - 1)]
    pipeline = client.pipeline(transaction=False)
    for queue in QUEUES:
        pipeline.llen(f"{NAMESPACE}:{queue}")
        pipeline.zcard(f"{NAMESPACE}:{queue}.XQ")
        for broker_id in brokers:
            pipeline.scard(f"{NAMESPACE}:__acks__.{broker_id}.{queue}")
    replies = iter(pipeline.execute())
    return {
        queue: Depth(
            queue, waiting=next(replies), dead=next(replies), in_flight=sum(next(replies) for _ in brokers)
        )
        for queue in QUEUES
    }
