"""Continue a monthly run, chunk by chunk, until it is finished or its time is up.

Each chunk is one short transaction that locks the run's row, so two messages for the same run take turns, and a
killed worker leaves the cursor consistent with the invoices. The sweep enqueues the charges in bounded batches;
enqueueing them here would put a million messages into Redis.
"""

from collections.abc import Sequence
from functools import partial
from uuid import UUID

import structlog
from sqlalchemy.exc import DBAPIError

from shared.db.session import INSIST_FOR_S, in_transaction, is_locked
from shared.invoicing.monthly_run import refusal_of, work_on_monthly_run
from shared.messaging.jobs import GenerateInvoices, Job
from shared.runtime import Runtime
from workers.use_cases.chunks import work_in_chunks

log = structlog.get_logger()

#: Accounts in one transaction. Card registrations of these accounts wait for it, so it must stay well under a
#: second (0.2 to 0.5 s for three lines each on two busy cores, benchmarks/month_start.py). In much smaller chunks,
#: round trips and commits dominate.
CHUNK_ACCOUNTS = 1_000
#: A refused chunk is divided by this until it holds only the offending account.
SMALLER = 2


def generate_invoices(runtime: Runtime, run_id: UUID, *, accounts_per_chunk: int = CHUNK_ACCOUNTS) -> None:
    """Continue a run of `monthly-invoices`. Safe to deliver twice, to kill anywhere and to restart.

    Raises TooManyRefusedError, and what the database raises when it is unavailable; the sweep enqueues
    the run again.
    """
    size, passes_over_locked = accounts_per_chunk, False

    def chunk() -> Sequence[Job] | None:
        nonlocal size, passes_over_locked
        work = partial(
            work_on_monthly_run,
            runtime=runtime,
            run_id=run_id,
            accounts=size,
            now=runtime.clock.now(),
            passes_over_locked=passes_over_locked,
        )
        insist_for_s = INSIST_FOR_S if passes_over_locked else 0.0
        try:
            has_more = in_transaction(runtime.engine, work, insist_for_s=insist_for_s, step="generate.chunk")
        except DBAPIError as error:
            if is_locked(error) and not passes_over_locked:
                passes_over_locked = True
                log.warning("invoices.chunk_locked", run_id=str(run_id), consequence="locked accounts come last")
                return ()
            refusal = refusal_of(error)
            if refusal is None:
                raise
            size = max(1, size // SMALLER)
            log.warning("invoices.chunk_refused", run_id=str(run_id), sqlstate=refusal.sqlstate, next_size=size)
            return ()
        size, passes_over_locked = min(accounts_per_chunk, size * SMALLER), False
        return () if has_more else None

    work_in_chunks(runtime, chunk, GenerateInvoices(run_id), step="generate")
