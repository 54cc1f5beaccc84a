"""Month start: go on with one monthly run, chunk by chunk, until it is finished or its time is up.

Each chunk is one short transaction that holds the run's row, so that two messages for the same run take turns and
a killed worker leaves a cursor that is exactly as far as its invoices. Charging is left to the sweep: it rings the
payments that have become due in bounded batches, where ringing here would put a million messages into Redis.
"""

from datetime import timedelta
from functools import partial
from uuid import UUID

import structlog
from sqlalchemy.exc import DBAPIError

from shared.db.session import in_transaction
from shared.failpoints import Failpoint, reach
from shared.invoicing.monthly_run import refusal_of, work_on_monthly_run
from shared.messaging.jobs import GenerateInvoices
from shared.runtime import Runtime

log = structlog.get_logger()

#: Accounts in one transaction. Card registrations of these accounts wait for it, so it must stay well under a
#: second (0.2 to 0.5 s for three lines each on two busy cores, benchmarks/month_start.py); much smaller, and
#: round trips and commits begin to cost.
CHUNK_ACCOUNTS = 1_000
#: How long one message works before it rings for the next: far below any time limit of the actor, and short
#: enough that a worker which is told to stop needn't be killed (it is given 40 s).
WORK_FOR = timedelta(seconds=20)
#: When a chunk is refused it is halved until the account to blame stands alone.
SMALLER = 2


def generate_invoices(runtime: Runtime, run_id: UUID, *, accounts_per_chunk: int = CHUNK_ACCOUNTS) -> None:
    """Go on with a run of `monthly-invoices`. Safe to deliver twice, to kill anywhere and to start again.

    Raises TooManyRefusedError, and what the database raises when it is away; the sweep brings the run back.
    """
    stop_at = runtime.machine_now() + WORK_FOR
    accounts = accounts_per_chunk
    while runtime.machine_now() < stop_at:
        work = partial(
            work_on_monthly_run, runtime=runtime, run_id=run_id, accounts=accounts, now=runtime.clock.now()
        )
        reach(Failpoint.GENERATE_CHUNK_BEGUN)
        try:
            has_more = in_transaction(runtime.engine, work)
        except DBAPIError as error:
            refusal = refusal_of(error)
            if refusal is None:
                raise
            accounts = max(1, accounts // SMALLER)
            log.warning("invoices.chunk_refused", run_id=str(run_id), sqlstate=refusal.sqlstate, next_size=accounts)
            continue
        reach(Failpoint.GENERATE_CHUNK_COMMITTED)
        if not has_more:
            return
        accounts = min(accounts_per_chunk, accounts * SMALLER)
    reach(Failpoint.GENERATE_RINGING)
    runtime.enqueue([GenerateInvoices(run_id)])
