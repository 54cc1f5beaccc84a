"""Go on with one bulk action, chunk by chunk."""

from datetime import timedelta
from uuid import UUID

from shared.bulk.progress import work_on_chunk
from shared.db.session import in_transaction
from shared.failpoints import Failpoint, reach
from shared.messaging.jobs import ApplyBulkAction
from shared.runtime import Runtime

#: How long one message works before it rings for the next, so that a worker told to stop isn't waited for.
WORK_FOR = timedelta(seconds=20)


def apply_bulk_action(runtime: Runtime, bulk_id: UUID) -> None:
    """Go on with a bulk action. Safe to deliver twice, to kill anywhere and to start again.

    Raises what the database raises when it is away; the sweep brings it back.
    """
    stop_at = runtime.machine_now() + WORK_FOR
    while runtime.machine_now() < stop_at:
        reach(Failpoint.BULK_CHUNK_BEGUN)
        jobs = in_transaction(runtime.engine, lambda connection: work_on_chunk(connection, runtime, bulk_id))
        reach(Failpoint.BULK_CHUNK_COMMITTED)
        if jobs is None:
            return
        runtime.enqueue(jobs)
        reach(Failpoint.BULK_CHUNK_RUNG)
    reach(Failpoint.BULK_RINGING)
    runtime.enqueue([ApplyBulkAction(bulk_id)])
