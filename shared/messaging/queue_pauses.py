"""Paused queues: a row stops the workers from taking a queue's messages; messages in flight finish.

Nothing is lost: due work stays due in its row, and its messages wait.
"""

import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime

import structlog
from sqlalchemy import Connection, Engine, delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import SQLAlchemyError

from shared.db.billing_events import BillingEvent, Cause, record_event
from shared.db.tables.operators import queue_pauses
from shared.domain.event_types import EventType
from shared.messaging.jobs import QUEUES, RELEASED_QUEUES

log = structlog.get_logger()

#: How old a worker's knowledge of the pauses may be (s): one small query per process.
READ_EVERY_S = 2.0


@dataclass(frozen=True)
class Pause:
    """Who paused a queue, when (business time) and why."""

    queue: str
    paused_by: str
    reason: str
    paused_at: datetime


def paused_queues(connection: Connection) -> dict[str, Pause]:
    """Return the pauses by queue."""
    rows = connection.execute(select(queue_pauses).order_by(queue_pauses.c.queue))
    return {row.queue: Pause(row.queue, row.paused_by, row.reason, row.paused_at) for row in rows}


def pause_queue(connection: Connection, queue: str, cause: Cause) -> bool:
    """Pause a queue until it is resumed; False if it is paused already. LookupError for an unknown queue."""
    _check_is_known(queue)
    paused = connection.execute(
        insert(queue_pauses)
        .values(queue=queue, paused_by=cause.actor, reason=cause.reason, paused_at=cause.at)
        .on_conflict_do_nothing()
        .returning(queue_pauses.c.queue)
    ).one_or_none()
    if paused is None:
        return False
    _record_change(connection, EventType.QUEUE_PAUSED, queue, cause, before="open", after="paused")
    return True


def resume_queue(connection: Connection, queue: str, cause: Cause) -> Pause | None:
    """Let the workers take a queue's messages again; return the pause that ended, None if there was none."""
    _check_is_known(queue)
    row = connection.execute(
        delete(queue_pauses).where(queue_pauses.c.queue == queue).returning(queue_pauses)
    ).one_or_none()
    if row is None:
        return None
    _record_change(connection, EventType.QUEUE_RESUMED, queue, cause, before="paused", after="open")
    return Pause(row.queue, row.paused_by, row.reason, row.paused_at)


def pauses_query(engine: Callable[[], Engine]) -> Callable[[], Collection[str]]:
    """Return a PauseWatch's query: the paused queues, in one statement and without a transaction."""

    def query() -> Collection[str]:
        with engine().connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            return frozenset(connection.scalars(select(queue_pauses.c.queue)))

    return query


class PauseWatch:
    """A worker's cached pauses: read every few seconds at most, by one of its threads at a time.

    If the database doesn't answer, the last known pauses stay. Before the first answer every queue counts as
    paused: a worker without its database can do nothing with a message, and a pause must survive its restart.
    """

    def __init__(
        self,
        query: Callable[[], Collection[str]],
        every_s: float = READ_EVERY_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._query, self._every_s, self._monotonic = query, every_s, monotonic
        self._known: Collection[str] | None = None
        self._read_at = float("-inf")
        self._reading = threading.Lock()
        self._has_error = False

    def is_paused(self, queue: str) -> bool:
        """Whether no message of this queue may be started. Never raises, and waits for no other thread."""
        queue = RELEASED_QUEUES.get(queue, queue)
        if self._monotonic() >= self._read_at and self._reading.acquire(blocking=False):
            try:
                self._read()
            finally:
                self._reading.release()
        known = self._known
        return known is None or queue in known

    def _read(self) -> None:
        try:
            found = self._query()
        except Exception as error:  # whatever it is: an exception here would stop the worker's consumer for good
            self._log_error(error)
        else:
            changed = set(found) ^ set(self._known or ())
            self._known = found
            if changed:
                log.info("queue_pauses.changed", paused=sorted(found))
            if self._has_error:
                self._has_error = False
                log.info("queue_pauses.read_again")
        self._read_at = self._monotonic() + self._every_s

    def _log_error(self, error: Exception) -> None:
        """Log it once, not every two seconds of an outage."""
        if self._has_error:
            return
        self._has_error = True
        held = "every queue counts as paused" if self._known is None else f"{sorted(self._known)} stay paused"
        log.warning("queue_pauses.not_read", error=type(error).__name__, consequence=held)
        if not isinstance(error, SQLAlchemyError):
            log.error("queue_pauses.defect", exc_info=error)


def _check_is_known(queue: str) -> None:
    if queue not in QUEUES:
        raise LookupError(f"there is no queue {queue!r}; there are {', '.join(QUEUES)}")


def _record_change(
    connection: Connection, what: EventType, queue: str, cause: Cause, *, before: str, after: str
) -> None:
    record_event(
        connection,
        BillingEvent(
            type=what,
            at=cause.at,
            actor=cause.actor,
            reason=cause.reason,
            before={"lane": before},
            after={"lane": after},
            data={"queue": queue},
        ),
    )
