"""Our middleware on top of Dramatiq's: dead letters keep their traceback, and paused queues stop."""

import json
import re
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import redis
import structlog
from dramatiq import Message
from dramatiq.broker import Broker, MessageProxy
from dramatiq.middleware import Middleware, SkipMessage

from shared.logs import redact

log = structlog.get_logger()

#: The end of a traceback counts, as JSON: a thousand dead letters of a queue are 8 MB of Redis at most.
LONGEST_TRACEBACK = 8_000
CUT = "… (beginning cut)\n"
#: What SQLAlchemy and PostgreSQL add to an error: values of rows, which may be personal data.
_VALUES = re.compile(r"^(\s*)(\[parameters: |DETAIL: |CONTEXT: ).*$", re.MULTILINE)

#: Overwrites only an existing body: after a flush, a new one would belong to no message.
_KEEP = """
if redis.call("hexists", KEYS[1], ARGV[1]) == 1 then redis.call("hset", KEYS[1], ARGV[1], ARGV[2]) end
"""


class KeepTraceback(Middleware):
    """Put the traceback into the message before it becomes a dead letter.

    Dramatiq 2.2.1 has it in memory only: its Redis broker moves the original body.
    """

    def before_nack(self, broker: Broker, message: MessageProxy) -> None:
        """Rewrite the stored body; without Redis, the dead letter lacks only its traceback."""
        doorbell: Any = broker
        redis_id = message.options.get("redis_message_id")
        said = message.options.get("traceback") or _of_exception(message)
        if not isinstance(redis_id, str) or not said:
            return
        body = with_traceback(message._message, redis_id, said)
        try:
            doorbell.client.eval(_KEEP, 1, f"{doorbell.namespace}:{message.queue_name}.msgs", redis_id, body)
        except redis.RedisError as error:
            log.warning("doorbell.traceback_lost", queue=message.queue_name, error=str(error))


class SkipPausedQueues(Middleware):
    """Put back messages that were fetched before their queue was paused, instead of starting them.

    This is convenience, not safety: no money depends on a queue pause.
    """

    def __init__(self, is_paused: Callable[[str], bool]) -> None:
        self._is_paused = is_paused

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        """Return a paused queue's message to its queue; the acknowledgement that follows has no effect."""
        if self._is_paused(message.queue_name):
            doorbell: Any = broker
            doorbell.do_requeue(message.queue_name, message.options["redis_message_id"])
            raise SkipMessage(f"the queue {message.queue_name} is paused")


def with_traceback(message: Message[Any], redis_id: str, said: str) -> bytes:
    """Return a message's body with the end of a traceback, without secrets and row values."""
    return replace(message, options={"redis_message_id": redis_id, "traceback": bounded(said)}).encode()


def bounded(said: str) -> str:
    """Remove secrets and values, and cut lines from the beginning until it fits as JSON."""
    lines = redact(_VALUES.sub(r"\1\2(cut out)", said)).splitlines()
    kept: list[str] = []
    room = LONGEST_TRACEBACK - len(json.dumps(CUT))
    while lines and (room := room - len(json.dumps(lines[-1]))) >= 0:
        kept.append(lines.pop())
    if lines and not kept:  # one line is longer than the whole limit
        return CUT + lines[-1][-LONGEST_TRACEBACK // 16 :]  # as JSON, a character is twelve bytes at most; plus CUT
    return (CUT if lines else "") + "\n".join(reversed(kept))


def _of_exception(message: MessageProxy) -> str:
    error = message._exception
    return "" if error is None else "".join(traceback.format_exception(error, limit=30))
