"""Continue the daily run of one coverage, chunk by chunk."""

from collections.abc import Sequence
from uuid import UUID

from shared.db.session import in_transaction
from shared.failpoints import Failpoint, reach
from shared.messaging.jobs import Job, RetryPayments
from shared.runtime import Runtime
from shared.scheduling.daily_run import work_on_daily_run
from workers.use_cases.chunks import work_in_chunks


def retry_payments(runtime: Runtime, run_id: UUID) -> None:
    """Continue a run of `daily-retries`. Safe to deliver twice, to kill anywhere and to start again.

    Raises what the database raises when it is unavailable; the sweep enqueues the run again.
    """

    def chunk() -> Sequence[Job] | None:
        reach(Failpoint.RETRY_CHUNK_BEGUN)
        jobs = in_transaction(runtime.engine, lambda connection: work_on_daily_run(connection, runtime, run_id))
        reach(Failpoint.RETRY_CHUNK_COMMITTED)
        return jobs

    work_in_chunks(runtime, chunk, RetryPayments(run_id), step="retry")
