"""Continue one bulk action, chunk by chunk."""

from collections.abc import Sequence
from uuid import UUID

from shared.bulk.progress import work_on_chunk
from shared.db.session import in_transaction
from shared.messaging.jobs import ApplyBulkAction, Job
from shared.runtime import Runtime
from workers.use_cases.chunks import work_in_chunks


def apply_bulk_action(runtime: Runtime, bulk_id: UUID) -> None:
    """Continue a bulk action. Safe to deliver twice, to kill anywhere and to restart.

    Raises what the database raises when it is unavailable; the sweep enqueues it again.
    """

    def chunk() -> Sequence[Job] | None:
        return in_transaction(
            runtime.engine, lambda connection: work_on_chunk(connection, runtime, bulk_id), step="bulk.chunk"
        )

    work_in_chunks(runtime, chunk, ApplyBulkAction(bulk_id), step="bulk")
