"""The sweep: enqueues all due work, again and again, so it finds whatever was lost on the way.

Its memory only saves work. Without it (after a restart, or in another leader) each unnecessary message costs the
workers one query.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta

import redis
import structlog
from sqlalchemy import Engine

from shared.db.query_terms import Moment
from shared.failpoints import Failpoint, reach
from shared.messaging.broker import Enqueue
from shared.messaging.jobs import Job
from shared.scheduling.due_work import DUE_WORK, DueWork

log = structlog.get_logger()

#: A queue with more waiting messages has work for seconds; below this, the sweep fills it up.
ENQUEUE_BELOW = 500
#: Rows of one kind in one sweep: several seconds of work for many workers, and some 3 MB of Redis.
ENQUEUE_AT_MOST = 10_000
#: While messages wait, a recently enqueued job is probably one of them.
PATIENCE = timedelta(seconds=30)
#: If none waits, a job enqueued a moment ago was just taken. One older than this was lost.
PATIENCE_WHEN_EMPTY = timedelta(seconds=2)
#: Beyond this many jobs the memory is dropped, some 30 MB: it may be lost.
REMEMBER_AT_MOST = 100_000


class RecentlyEnqueued:
    """Recently enqueued jobs, and when (machine time): bounded, in memory, an optimization only."""

    def __init__(self) -> None:
        self._rung_at: dict[Job, datetime] = {}

    def __len__(self) -> int:
        return len(self._rung_at)

    def note(self, jobs: Iterable[Job], at: datetime) -> None:
        self._rung_at.update((job, at) for job in jobs)
        if len(self._rung_at) > REMEMBER_AT_MOST:
            self._rung_at.clear()

    def without(self, jobs: Iterable[Job], since: datetime) -> list[Job]:
        """Return the jobs that were not enqueued after `since`."""
        return [job for job in jobs if (rung_at := self._rung_at.get(job)) is None or rung_at <= since]

    def forget(self, before: datetime, now: datetime) -> None:
        """Keep jobs enqueued between the two instants; those after `now` are from before the clock was set back."""
        self._rung_at = {job: at for job, at in self._rung_at.items() if before < at <= now}


class Sweep:
    """Enqueues each kind of due work whose queue runs low. Used by the leader only, from one thread at a time."""

    def __init__(self, engine: Engine, enqueue: Enqueue, waiting_in: Callable[[str], int]) -> None:
        self._engine = engine
        self._enqueue = enqueue
        self._waiting_in = waiting_in
        self._lately = RecentlyEnqueued()

    def enqueue(self, jobs: list[Job], machine_now: datetime) -> None:
        """Enqueue jobs found elsewhere, and remember them."""
        if jobs and self._enqueue(jobs):
            self._lately.note(jobs, machine_now)

    def __call__(self, moment: Moment) -> dict[str, int]:
        """Enqueue due work; return the number of jobs by kind. Raises database errors.

        An unreachable Redis is logged: the rows stay due, and the next sweep finds them.
        """
        reach(Failpoint.SWEEP_BEGUN)
        self._lately.forget(moment.machine_now - PATIENCE, moment.machine_now)
        enqueued: dict[str, int] = {}
        try:
            depths = {queue: self._waiting_in(queue) for queue in dict.fromkeys(s.queue for s in DUE_WORK)}
        except redis.RedisError as error:
            log.warning("sweep.doorbell_unreachable", error=str(error), consequence="due work waits for Redis")
            return enqueued
        due = self._due([s for s in DUE_WORK if depths[s.queue] < ENQUEUE_BELOW], moment)
        reach(Failpoint.SWEEP_FOUND)
        for source, jobs in due:
            patience = PATIENCE if depths[source.queue] else PATIENCE_WHEN_EMPTY
            lost_or_new = self._lately.without(jobs, moment.machine_now - patience)
            if lost_or_new:
                self.enqueue(lost_or_new, moment.machine_now)
                enqueued[source.name] = len(lost_or_new)
                reach(Failpoint.SWEEP_RUNG)
        return enqueued

    def _due(self, sources: Sequence[DueWork], moment: Moment) -> list[tuple[DueWork, list[Job]]]:
        parameters = moment.parameters()
        with self._engine.connect() as connection:  # returned to the pool before anything is enqueued
            return [
                (
                    source,
                    [
                        source.job(row)
                        for row in connection.execute(source.query.limit(ENQUEUE_AT_MOST), parameters)
                    ],
                )
                for source in sources
            ]
