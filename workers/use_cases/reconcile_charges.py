"""A night's reconciliation: go on with one run, chunk by chunk, until it is finished or its time is up.

A chunk asks the processor with no transaction open, and is then written in one, together with how far the run came.
Two workers on one run do no harm: whoever comes second finds the run further on, and writes nothing.
"""

from datetime import datetime, timedelta
from functools import partial
from uuid import UUID

import structlog
from sqlalchemy import Connection, func, select

from shared.clock import has_come
from shared.db.columns import instant
from shared.db.session import in_transaction
from shared.db.tables.system import runs
from shared.failpoints import Failpoint, reach
from shared.messaging.jobs import RECONCILIATION, ReconcileCharges
from shared.reconciliation.chunk import Reconciliation
from shared.reconciliation.client import Processor, ProcessorAwayError
from shared.reconciliation.progress import Progress, RunJournal, begin_run
from shared.reconciliation.runner import walk_on
from shared.reconciliation.window import Window, window_of_night
from shared.runtime import Runtime
from shared.scheduling.runs import RunRow, back_off_run, lock_workable_run

log = structlog.get_logger()

#: How long one message works before it rings for the next, so that a worker told to stop isn't waited for, and a
#: monthly run isn't kept waiting.
WORK_FOR = timedelta(seconds=20)
#: How long (machine time) a run rests once the processor gave no answer. Nothing waits for it.
REST = timedelta(minutes=1)
ACTOR = "reconciliation"


def reconcile_charges(runtime: Runtime, run_id: UUID) -> None:
    """Go on with a run of `reconciliation`. Safe to deliver twice, to kill anywhere and to start again.

    A processor that gives no answer leaves the run unfinished, with the trouble on its row. Raises what the
    database raises when it is away; the sweep brings the run back.
    """
    stop_at = runtime.machine_now() + WORK_FOR
    reach(Failpoint.RECONCILE_BEGUN)
    begun = in_transaction(runtime.engine, partial(_begin, runtime, run_id))
    reach(Failpoint.RECONCILE_STARTED)
    if begun is None:
        return
    run, progress = begun
    gateway = runtime.gateways.get(run.coverage)
    if gateway is None:
        _rest(runtime, run_id, f"STRIPE_API_KEYS has no key for {run.coverage}")
        return
    reconciliation = Reconciliation(
        run_id, run.coverage, progress.window, runtime, Processor(gateway), ACTOR, run_id
    )
    try:
        _walk(reconciliation, progress, stop_at)
    except ProcessorAwayError as error:
        _rest(runtime, run_id, str(error))


def _walk(reconciliation: Reconciliation, progress: Progress, stop_at: datetime) -> None:
    runtime, journal = reconciliation.runtime, RunJournal(reconciliation.id)
    while runtime.machine_now() < stop_at:
        moved_on = walk_on(reconciliation, progress, journal)
        if moved_on is None:
            return  # somebody else is on it
        if moved_on.is_over:
            log.info("reconciliation.finished", coverage=reconciliation.coverage, **moved_on.counted())
            return
        progress = moved_on
    reach(Failpoint.RECONCILE_RINGING)
    runtime.enqueue([ReconcileCharges(reconciliation.id)])


def _begin(runtime: Runtime, run_id: UUID, connection: Connection) -> tuple[RunRow, Progress] | None:
    run = lock_workable_run(connection, run_id, RECONCILIATION)
    if run is None or (run.backoff_until is not None and not has_come(run.backoff_until, runtime.machine_now())):
        return None
    progress = begin_run(connection, run, _window(connection, run), runtime.clock.now())
    reach(Failpoint.RECONCILE_START_BEFORE_COMMIT)
    return run, progress


def _window(connection: Connection, run: RunRow) -> Window:
    """From where the reconciliation before this one ends, finished or not: that one finishes by itself."""
    ends_at = runs.c.cursor["ends_at"].astext.cast(instant("ends_at").type)
    last_ended_at: datetime | None = connection.scalar(
        select(func.max(ends_at)).where(
            runs.c.job == RECONCILIATION,
            runs.c.coverage == run.coverage,
            runs.c.scheduled_for_at < run.scheduled_for_at,
        )
    )
    return window_of_night(run.scheduled_for_at, last_ended_at)


def _rest(runtime: Runtime, run_id: UUID, trouble: str) -> None:
    """Say on the run's row why it stands still, and come back later."""
    log.warning("reconciliation.waits", run_id=str(run_id), why=trouble, again_in_s=REST.total_seconds())

    def work(connection: Connection) -> None:
        run = lock_workable_run(connection, run_id, RECONCILIATION)
        if run is not None:
            back_off_run(connection, run, runtime.machine_now() + REST, trouble, runtime.clock.now())
        reach(Failpoint.RECONCILE_REST_BEFORE_COMMIT)

    reach(Failpoint.RECONCILE_RESTING)
    in_transaction(runtime.engine, work)
    reach(Failpoint.RECONCILE_RESTED)
