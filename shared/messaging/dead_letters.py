"""Dead letters: messages whose actor raised. An operator inspects, requeues or discards them.

A message is dead, queued or gone: exactly one of them, because each move is one script in Redis. Discarding a dead
letter loses no work: its row is due as before, and the sweep enqueues it.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from dramatiq import Message
from dramatiq.brokers.redis import RedisBroker

from shared.logs import redact
from shared.messaging.broker import NAMESPACE, is_readable

#: Bodies read in one round trip, a megabyte at most; ids moved by one script, some milliseconds of Redis.
AT_ONCE = 100
#: Above the number kept per queue (`shared.messaging.broker.KEEP_DEAD_LETTERS`).
MOST_DEAD_LETTERS = 5_000
#: An argument is an id; a longer one isn't ours.
LONGEST_ARGUMENT = 80

#: ARGV: old id, new id and new body of each.
_REQUEUE = """
local moved = {}
for i = 1, #ARGV, 3 do
    if redis.call("zrem", KEYS[1], ARGV[i]) == 1 then
        redis.call("hdel", KEYS[2], ARGV[i])
        redis.call("hset", KEYS[4], ARGV[i + 1], ARGV[i + 2])
        redis.call("rpush", KEYS[3], ARGV[i + 1])
        table.insert(moved, ARGV[i])
    end
end
return moved
"""
_DISCARD = """
local gone = {}
for i = 1, #ARGV do
    if redis.call("zrem", KEYS[1], ARGV[i]) == 1 then
        redis.call("hdel", KEYS[2], ARGV[i])
        table.insert(gone, ARGV[i])
    end
end
return gone
"""


@dataclass(frozen=True)
class DeadLetter:
    """One dead letter. `died_at` is machine time; `fresh` is the message to requeue, None if it can't be read."""

    id: str
    queue: str
    died_at: datetime
    job: str | None
    arguments: tuple[str, ...]
    traceback: str | None
    fresh: Message[Any] | None


@dataclass(frozen=True)
class Place:
    """Where a page ended: the newest come first; within one millisecond, the greater id."""

    died_ms: int
    id: str


def count_dead_letters(broker: RedisBroker) -> dict[str, int]:
    """Return the number of dead letters per queue. Raises redis.RedisError, as all of this module."""
    pipeline = broker.client.pipeline(transaction=False)
    queues = sorted(broker.get_declared_queues())
    for queue in queues:
        pipeline.zcard(_dead(queue))
    return dict(zip(queues, pipeline.execute(), strict=True))


def list_dead_letters(
    broker: RedisBroker, queue: str, *, job: str = "", older_than: Place | None = None, limit: int = 50
) -> tuple[list[DeadLetter], Place | None]:
    """Return up to `limit` dead letters, newest first, and where the next page begins (None: no more)."""
    found: list[DeadLetter] = []
    for dead_letter in _walk(broker, queue, older_than):
        if job and dead_letter.job != job:
            continue
        if len(found) == limit:
            return found, place_of(found[-1])
        found.append(dead_letter)
    return found, None


def dead_letters_up_to(broker: RedisBroker, queue: str, job: str, newest: Place) -> list[DeadLetter]:
    """Return all matching dead letters no newer than `newest`: those that the operator saw before confirming."""
    return [
        dead_letter
        for dead_letter in _walk(broker, queue)
        if _key(dead_letter) <= newest_key(newest) and job in ("", dead_letter.job)
    ]


def find_dead_letters(broker: RedisBroker, queue: str, ids: Sequence[str]) -> list[DeadLetter]:
    """Return those of these dead letters that still exist."""
    wanted = set(ids)
    return [dead_letter for dead_letter in _walk(broker, queue) if dead_letter.id in wanted]


def requeue_dead_letters(broker: RedisBroker, queue: str, dead_letters: Sequence[DeadLetter]) -> list[str]:
    """Requeue dead letters; return the ids of those that existed until now and can be read.

    Each gets a fresh id in Redis. The old id names this death: a second request finds it gone, even if the message
    died again meanwhile, and a worker that comes back late can't acknowledge the new message.
    """
    moved: list[str] = []
    for chunk in _chunks([dead_letter for dead_letter in dead_letters if dead_letter.fresh is not None]):
        arguments: list[str | bytes] = []
        for dead_letter in chunk:
            redis_id = str(uuid4())
            arguments += [dead_letter.id, redis_id, _fresh_body(dead_letter, redis_id)]
        keys = [_dead(queue), f"{_dead(queue)}.msgs", f"{NAMESPACE}:{queue}", f"{NAMESPACE}:{queue}.msgs"]
        moved += _script(broker, _REQUEUE, keys, arguments)
    return moved


def discard_dead_letters(broker: RedisBroker, queue: str, ids: Sequence[str]) -> list[str]:
    """Discard dead letters; return the ids of those that existed."""
    keys = [_dead(queue), f"{_dead(queue)}.msgs"]
    return [one for chunk in _chunks(ids) for one in _script(broker, _DISCARD, keys, list(chunk))]


def place_of(dead_letter: DeadLetter) -> Place:
    return Place(round(dead_letter.died_at.timestamp() * 1000), dead_letter.id)


def newest_key(place: Place) -> tuple[int, str]:
    return place.died_ms, place.id


def _key(dead_letter: DeadLetter) -> tuple[int, str]:
    return newest_key(place_of(dead_letter))


def _walk(broker: RedisBroker, queue: str, older_than: Place | None = None) -> Iterator[DeadLetter]:
    """Dead letters, newest first. Bodies are read a hundred at a time, and only as far as the caller iterates."""
    client: Any = broker.client
    scores = client.zrevrange(_dead(queue), 0, MOST_DEAD_LETTERS - 1, withscores=True)
    places = sorted((Place(int(score), _text(one)) for one, score in scores), key=newest_key, reverse=True)
    if older_than is not None:
        places = [place for place in places if newest_key(place) < newest_key(older_than)]
    for chunk in _chunks(places):
        bodies = client.hmget(f"{_dead(queue)}.msgs", [place.id for place in chunk])
        for place, body in zip(chunk, bodies, strict=True):
            yield _read(queue, place, body)


def _read(queue: str, place: Place, body: bytes | None) -> DeadLetter:
    died_at = datetime.fromtimestamp(place.died_ms / 1000, UTC)
    raw = _json(body)
    options = raw.get("options")
    said = options.get("traceback") if isinstance(options, dict) else None
    name, arguments = raw.get("actor_name"), raw.get("args")
    dead_letter = DeadLetter(
        id=place.id,
        queue=queue,
        died_at=died_at,
        job=name[:LONGEST_ARGUMENT] if isinstance(name, str) else None,
        arguments=tuple(
            redact(str(one)[:LONGEST_ARGUMENT]) for one in (arguments if isinstance(arguments, list) else ())
        ),
        traceback=said if isinstance(said, str) else None,
        fresh=None,
    )
    fresh = json.dumps({**raw, "options": {"redis_message_id": place.id}}).encode()
    if raw and is_readable(fresh, queue):
        return DeadLetter(**{**vars(dead_letter), "fresh": Message.decode(fresh)})
    return dead_letter


def _fresh_body(dead_letter: DeadLetter, redis_id: str) -> bytes:
    assert dead_letter.fresh is not None, "unreadable dead letters are not requeued"  # noqa: S101  # see the caller
    return dead_letter.fresh.copy(options={"redis_message_id": redis_id}).encode()


def _json(body: bytes | None) -> dict[str, Any]:
    try:
        raw = json.loads(body or b"null")
    except (ValueError, RecursionError):
        return {}
    return raw if isinstance(raw, dict) else {}


def _script(broker: RedisBroker, script: str, keys: list[str], arguments: list[Any]) -> list[str]:
    client: Any = broker.client
    return [_text(one) for one in client.eval(script, len(keys), *keys, *arguments)] if arguments else []


def _chunks(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), AT_ONCE):
        yield items[start : start + AT_ONCE]


def _dead(queue: str) -> str:
    return f"{NAMESPACE}:{queue}.XQ"


def _text(value: bytes) -> str:
    return value.decode(errors="replace")
