"""A run of `daily-retries`: its row, and the chunk of payments done in the same transaction."""

from uuid import UUID

from sqlalchemy import Connection

from shared.domain.calendar import local_date
from shared.failpoints import Failpoint, reach
from shared.messaging.jobs import DAILY_RETRIES, Job
from shared.payments.daily_retries import DailyRun, retry_next_chunk
from shared.runtime import Runtime
from shared.scheduling.runs import finish_run, lock_workable_run, save_run_progress, start_run


def work_on_daily_run(connection: Connection, runtime: Runtime, run_id: UUID) -> list[Job] | None:
    """Do one chunk; return the jobs to enqueue, or None if the run is finished or another worker holds it."""
    run = lock_workable_run(connection, run_id, DAILY_RETRIES)
    if run is None:
        return None
    now = runtime.clock.now()
    start_run(connection, run, now)
    today = local_date(now, runtime.policy.coverage(run.coverage).zone)
    daily = DailyRun(run.id, run.requested_by, run.coverage, runtime.policy, now, today)
    chunk = retry_next_chunk(connection, daily, run.cursor, run.counts)
    if chunk.cursor is None:
        finish_run(connection, run, chunk.counts, now)
    else:
        save_run_progress(connection, run, chunk.cursor, chunk.counts)
        reach(Failpoint.RETRY_CHUNK_BEFORE_COMMIT)
    return list(chunk.jobs)
