"""A run of `reconciliation`: where its window begins, and how long it waits while the processor is unavailable."""

from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, func, select

from shared.clock import has_come
from shared.db.columns import instant
from shared.db.rows import RunRow
from shared.db.tables.system import runs
from shared.messaging.jobs import RECONCILIATION
from shared.reconciliation.progress import EVENTS_FROM, Progress, begin_run
from shared.reconciliation.window import window_of_night
from shared.runtime import Runtime
from shared.scheduling.runs import back_off_run, lock_workable_run

#: How long (machine time) a run waits after the processor gave no answer. No other work depends on it.
REST = timedelta(minutes=1)


def begin_nightly_run(connection: Connection, runtime: Runtime, run_id: UUID) -> tuple[RunRow, Progress] | None:
    """Lock and start a run; None if another worker holds it, or while it backs off."""
    run = lock_workable_run(connection, run_id, RECONCILIATION)
    if run is None or (run.backoff_until is not None and not has_come(run.backoff_until, runtime.machine_now())):
        return None
    window = window_of_night(run.scheduled_for_at, _last_ended_at(connection, run))
    events_from = _last_ended_at(connection, run, runs.c.cursor.has_key(EVENTS_FROM))
    progress = begin_run(connection, run, window, events_from, runtime.clock.now())
    return run, progress


def _last_ended_at(connection: Connection, run: RunRow, *conditions: ColumnElement[bool]) -> datetime | None:
    """The end of the previous reconciliation's window, finished or not: that run finishes by itself."""
    ends_at = runs.c.cursor["ends_at"].astext.cast(instant("ends_at").type)
    last_ended_at: datetime | None = connection.scalar(
        select(func.max(ends_at)).where(
            runs.c.job == RECONCILIATION,
            runs.c.coverage == run.coverage,
            runs.c.scheduled_for_at < run.scheduled_for_at,
            *conditions,
        )
    )
    return last_ended_at


def postpone_nightly_run(connection: Connection, runtime: Runtime, run_id: UUID, why: str) -> None:
    """Write the reason on the run's row and back off."""
    run = lock_workable_run(connection, run_id, RECONCILIATION)
    if run is not None:
        back_off_run(connection, run, runtime.machine_now() + REST, why, runtime.clock.now())
