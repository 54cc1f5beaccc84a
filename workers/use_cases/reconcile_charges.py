"""Continue a run of `reconciliation`, chunk by chunk, until it is finished or its time is up.

A chunk sends its requests with no transaction open, and is then saved in one transaction with the run's progress.
Two workers on one run do no harm: the second finds the progress advanced and writes nothing.
"""

from collections.abc import Sequence
from uuid import UUID

import structlog

from shared.db.session import in_transaction
from shared.messaging.jobs import Job, ReconcileCharges
from shared.reconciliation.chunk import Reconciliation
from shared.reconciliation.client import Processor, ProcessorUnavailableError
from shared.reconciliation.nightly_run import REST, begin_nightly_run, postpone_nightly_run
from shared.reconciliation.progress import Progress, RunJournal
from shared.reconciliation.runner import run_chunk
from shared.runtime import Runtime
from workers.use_cases.chunks import work_in_chunks

log = structlog.get_logger()

ACTOR = "reconciliation"


def reconcile_charges(runtime: Runtime, run_id: UUID) -> None:
    """Continue a run of `reconciliation`. Safe to deliver twice, to kill anywhere and to restart.

    If the processor gives no answer, the run backs off with the error on its row. Raises what the database raises
    when it is unavailable; the sweep enqueues the run again.
    """
    begun = in_transaction(
        runtime.engine,
        lambda connection: begin_nightly_run(connection, runtime, run_id),
        step="reconcile.start",
    )
    if begun is None:
        return
    run, progress = begun
    gateway = runtime.gateways.get(run.coverage)
    if gateway is None:
        _postpone(runtime, run_id, f"STRIPE_API_KEYS has no key for {run.coverage}")
        return
    reconciliation = Reconciliation(
        run_id, run.coverage, progress.window, runtime, Processor(gateway), ACTOR, run_id
    )
    try:
        _run(reconciliation, progress)
    except ProcessorUnavailableError as error:
        _postpone(runtime, run_id, str(error))


def _run(reconciliation: Reconciliation, progress: Progress) -> None:
    journal = RunJournal(reconciliation.id)

    def chunk() -> Sequence[Job] | None:
        nonlocal progress
        moved_on = run_chunk(reconciliation, progress, journal)
        if moved_on is None:
            return None  # another worker advanced it
        if moved_on.is_over:
            log.info("reconciliation.finished", coverage=reconciliation.coverage, **moved_on.counted())
            return None
        progress = moved_on
        return ()

    work_in_chunks(reconciliation.runtime, chunk, ReconcileCharges(reconciliation.id), step="reconcile")


def _postpone(runtime: Runtime, run_id: UUID, why: str) -> None:
    log.warning("reconciliation.waits", run_id=str(run_id), why=why, again_in_s=REST.total_seconds())
    in_transaction(
        runtime.engine,
        lambda connection: postpone_nightly_run(connection, runtime, run_id, why),
        step="reconcile.rest",
    )
