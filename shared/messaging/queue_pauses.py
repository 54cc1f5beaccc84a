"""Paused lanes: a row stops the workers from taking messages of a queue; what is in flight finishes.

Nothing is lost by it: what is due stays due in its row, and its messages wait.
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

#: How old a worker's knowledge of the pauses may be (s): one small query of each process.
ASK_EVERY_S = 2.0


@dataclass(frozen=True)
class Pause:
    """Who paused a lane, when (business time) and why."""

    queue: str
    paused_by: str
    reason: str
    paused_at: datetime


def paused_queues(connection: Connection) -> dict[str, Pause]:
    """Return the pauses by queue."""
    rows = connection.execute(select(queue_pauses).order_by(queue_pauses.c.queue))
    return {row.queue: Pause(row.queue, row.paused_by, row.reason, row.paused_at) for row in rows}


def pause_queue(connection: Connection, queue: str, cause: Cause) -> bool:
    """Pause a lane until somebody resumes it; False if it is paused already. LookupError for an unknown lane."""
    _known(queue)
    paused = connection.execute(
        insert(queue_pauses)
        .values(queue=queue, paused_by=cause.actor, reason=cause.reason, paused_at=cause.at)
        .on_conflict_do_nothing()
        .returning(queue_pauses.c.queue)
    ).one_or_none()
    if paused is None:
        return False
    _tell(connection, EventType.QUEUE_PAUSED, queue, cause, before="open", after="paused")
    return True


def resume_queue(connection: Connection, queue: str, cause: Cause) -> Pause | None:
    """Let the workers take a lane's messages again; return the pause that ended, None if there was none."""
    _known(queue)
    row = connection.execute(
        delete(queue_pauses).where(queue_pauses.c.queue == queue).returning(queue_pauses)
    ).one_or_none()
    if row is None:
        return None
    _tell(connection, EventType.QUEUE_RESUMED, queue, cause, before="paused", after="open")
    return Pause(row.queue, row.paused_by, row.reason, row.paused_at)


def ask_pauses(engine: Callable[[], Engine]) -> Callable[[], Collection[str]]:
    """Return what a watch asks with: the paused queues, in one statement and without a transaction."""

    def ask() -> Collection[str]:
        with engine().connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            return frozenset(connection.scalars(select(queue_pauses.c.queue)))

    return ask


class PauseWatch:
    """What a worker knows of the pauses: asked at most every few seconds, by one of its threads at a time.

    If the database can't be asked, what was last known holds. Before the first answer every lane counts as paused:
    a worker that can't ask its database could do nothing with a message, and a pause must survive its restart.
    """

    def __init__(
        self,
        ask: Callable[[], Collection[str]],
        every_s: float = ASK_EVERY_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask, self._every_s, self._monotonic = ask, every_s, monotonic
        self._known: Collection[str] | None = None
        self._ask_at = float("-inf")
        self._turn = threading.Lock()
        self._is_in_trouble = False

    def is_paused(self, queue: str) -> bool:
        """Whether no message of this queue may be begun. Never raises, and waits for no other thread."""
        queue = RELEASED_QUEUES.get(queue, queue)
        if self._monotonic() >= self._ask_at and self._turn.acquire(blocking=False):
            try:
                self._look()
            finally:
                self._turn.release()
        known = self._known
        return known is None or queue in known

    def _look(self) -> None:
        try:
            found = self._ask()
        except Exception as error:  # whatever it is: a worker without its consumer would stand still for good
            self._note_trouble(error)
        else:
            changed = set(found) ^ set(self._known or ())
            self._known = found
            if changed:
                log.info("lanes.changed", paused=sorted(found))
            if self._is_in_trouble:
                self._is_in_trouble = False
                log.info("lanes.asked_again")
        self._ask_at = self._monotonic() + self._every_s

    def _note_trouble(self, error: Exception) -> None:
        """Say it once, not every two seconds of an outage."""
        if self._is_in_trouble:
            return
        self._is_in_trouble = True
        held = "every lane counts as paused" if self._known is None else f"{sorted(self._known)} stay paused"
        log.warning("lanes.not_asked", error=type(error).__name__, consequence=held)
        if not isinstance(error, SQLAlchemyError):
            log.error("lanes.defect", exc_info=error)


def _known(queue: str) -> None:
    if queue not in QUEUES:
        raise LookupError(f"there is no lane {queue!r}; there are {', '.join(QUEUES)}")


def _tell(connection: Connection, what: EventType, queue: str, cause: Cause, *, before: str, after: str) -> None:
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
