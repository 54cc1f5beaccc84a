"""Go on with the daily run of one coverage, chunk by chunk."""

from datetime import timedelta
from uuid import UUID

from shared.db.session import in_transaction
from shared.failpoints import Failpoint, reach
from shared.messaging.jobs import RetryPayments
from shared.runtime import Runtime
from shared.scheduling.daily_run import work_on_daily_run

#: How long one message works before it enqueues the next, so that a worker told to stop isn't waited for.
WORK_FOR = timedelta(seconds=20)


def retry_payments(runtime: Runtime, run_id: UUID) -> None:
    """Go on with a run of `daily-retries`. Safe to deliver twice, to kill anywhere and to start again.

    Raises what the database raises when it is away; the sweep brings the run back.
    """
    stop_at = runtime.machine_now() + WORK_FOR
    while runtime.machine_now() < stop_at:
        reach(Failpoint.RETRY_CHUNK_BEGUN)
        jobs = in_transaction(runtime.engine, lambda connection: work_on_daily_run(connection, runtime, run_id))
        reach(Failpoint.RETRY_CHUNK_COMMITTED)
        if jobs is None:
            return
        runtime.enqueue(jobs)
        reach(Failpoint.RETRY_CHUNK_RUNG)
    reach(Failpoint.RETRY_RINGING)
    runtime.enqueue([RetryPayments(run_id)])
