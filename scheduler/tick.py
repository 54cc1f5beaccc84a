"""The tick: read what exists, decide what is due, insert it. Repeating it, even concurrently, changes nothing."""

from datetime import datetime
from uuid import UUID

import structlog
from sqlalchemy import Connection, Engine

from shared.db.billing_events import Cause
from shared.db.session import in_transaction
from shared.domain.schedule import DueRun, due_runs
from shared.domain.states import RunState
from shared.messaging.jobs import Job, job_of_run
from shared.policy import Policy
from shared.scheduling.runs import begin_schedule, insert_run, known_run_keys, schedule_of

log = structlog.get_logger()


def tick(engine: Engine, policy: Policy, now: datetime) -> list[Job]:
    """Insert a row for each run that is due at business time `now`; return the jobs to enqueue.

    Each run is its own transaction. Raises database errors; the next tick starts again.
    """
    jobs: list[Job] = []
    due = in_transaction(engine, lambda connection: _decide(connection, policy, now), step="tick.decide")
    for run in due:
        job = _insert(engine, run, now)
        if job is not None:
            jobs.append(job)
    return jobs


def _decide(connection: Connection, policy: Policy, now: datetime) -> list[DueRun]:
    schedule = schedule_of(policy)
    since = begin_schedule(connection, policy, now)
    expected = due_runs(schedule, now, frozenset(), since)
    known = known_run_keys(connection, (run.key for run in expected))
    return due_runs(schedule, now, known, since)


def _insert(engine: Engine, run: DueRun, now: datetime) -> Job | None:
    def work(connection: Connection) -> UUID | None:
        return insert_run(connection, run, Cause("scheduler", now))

    run_id = in_transaction(engine, work, step="tick.run")
    if run_id is None:
        return None  # another scheduler or an operator was faster
    name = " ".join(run.key)
    if run.state is RunState.AWAITING_CONFIRMATION:
        log.warning(
            "run.awaits_confirmation",
            run=name,
            scheduled_for_at=run.scheduled_for_at.isoformat(),
            what_to_do=f"duecourse runs confirm {run_id} --reason ...",
        )
        return None
    log.info("run.scheduled", run=name, run_id=str(run_id))
    return job_of_run(run.job, run_id)
