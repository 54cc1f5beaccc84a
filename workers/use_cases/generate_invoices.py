"""Month start: go on with one monthly run, chunk by chunk, until it is finished or its time is up.

Each chunk is one short transaction that holds the run's row, so that two messages for the same run take turns and
a killed worker leaves a cursor that is exactly as far as its invoices. Charging is left to the sweep: it rings the
payments that have become due in bounded batches, where ringing here would put a million messages into Redis.
"""

from datetime import datetime, timedelta
from functools import partial
from uuid import UUID

import psycopg.errors
import structlog
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from shared.db.session import in_transaction
from shared.failpoints import Failpoint, reach
from shared.invoicing.bills import SkipReason
from shared.invoicing.chunk import IssuedChunk, Issuing, issue_chunk
from shared.invoicing.counts import Counts
from shared.invoicing.month import Month
from shared.invoicing.runs import cursor_after, cursor_of
from shared.invoicing.skipped_accounts import report_accounts_without_settings, report_refused_account
from shared.messaging.jobs import MONTHLY_INVOICES, GenerateInvoices
from shared.runtime import Runtime
from shared.scheduling.runs import RunRow, finish_run, lock_workable_run, save_run_progress, start_run

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
#: So many refused accounts aren't the data's fault but ours: stop, and let a person look.
MAX_REFUSED = 100

#: What the database says when a row of ours can't be; everything else (connections, locks, SQL) is raised.
_REFUSALS = (psycopg.errors.DataError, psycopg.errors.IntegrityError)


class TooManyRefusedError(Exception):
    """The database refuses account after account; the run stops where it is, with nothing lost."""


def generate_invoices(runtime: Runtime, run_id: UUID, *, accounts_per_chunk: int = CHUNK_ACCOUNTS) -> None:
    """Go on with a run of `monthly-invoices`. Safe to deliver twice, to kill anywhere and to start again.

    Raises TooManyRefusedError, and what the database raises when it is away; the sweep brings the run back.
    """
    stop_at = runtime.machine_now() + WORK_FOR
    accounts = accounts_per_chunk
    while runtime.machine_now() < stop_at:
        work = partial(_work_on_chunk, runtime, run_id, accounts, runtime.clock.now())
        reach(Failpoint.GENERATE_CHUNK_BEGUN)
        try:
            has_more = in_transaction(runtime.engine, work)
        except DBAPIError as error:
            if not isinstance(error.orig, _REFUSALS):
                raise
            accounts = max(1, accounts // SMALLER)
            log.warning("invoices.chunk_refused", run_id=str(run_id), sqlstate=_sqlstate(error), next_size=accounts)
            continue
        reach(Failpoint.GENERATE_CHUNK_COMMITTED)
        if not has_more:
            return
        accounts = min(accounts_per_chunk, accounts * SMALLER)
    reach(Failpoint.GENERATE_RINGING)
    runtime.enqueue([GenerateInvoices(run_id)])


def _work_on_chunk(runtime: Runtime, run_id: UUID, accounts: int, now: datetime, connection: Connection) -> bool:
    """Do one chunk; False when the run is finished, or nobody's to work on, or somebody else is on it."""
    run = lock_workable_run(connection, run_id, MONTHLY_INVOICES)
    if run is None:
        return False
    month = Month.of(runtime.policy, run.coverage, run.period)
    if not month.is_over(now):
        log.warning("invoices.too_early", run_id=str(run_id), period=run.period, ends_at=str(month.ends_at))
        return False  # an invoice can't be taken back; the sweep asks again when the month is over
    start_run(connection, run, now)
    issuing = Issuing(run.id, run.requested_by, month, now)
    counts = Counts.read(run.counts)
    chunk = _issue_or_set_aside(connection, run, issuing, accounts, counts)
    counts.add(chunk.counts)
    if chunk.last_account_id is not None:
        save_run_progress(connection, run, cursor_after(chunk.last_account_id), counts.stored())
        reach(Failpoint.GENERATE_CHUNK_BEFORE_COMMIT)
        return True
    without_settings = report_accounts_without_settings(connection, issuing.parameters())
    counts.add_skipped(SkipReason.NO_PAYMENT_SETTINGS, without_settings)
    finish_run(connection, run, counts.stored(), now)
    return False


def _issue_or_set_aside(
    connection: Connection, run: RunRow, issuing: Issuing, accounts: int, so_far: Counts
) -> IssuedChunk:
    """Issue a chunk. A single account that the database refuses is reported and passed over: it blocks nobody."""
    after = cursor_of(run)
    if accounts > 1:
        return issue_chunk(connection, issuing, after, accounts)
    try:
        with connection.begin_nested():
            return issue_chunk(connection, issuing, after, accounts)
    except DBAPIError as error:
        if not isinstance(error.orig, _REFUSALS):
            raise
        sqlstate = _sqlstate(error)
        constraint = error.orig.diag.constraint_name
    if so_far.skipped.get(SkipReason.REFUSED_BY_DATABASE, 0) >= MAX_REFUSED:
        raise TooManyRefusedError(
            f"run {run.id}: the database refused {MAX_REFUSED} accounts (SQLSTATE {sqlstate}, {constraint}); "
            "look at the findings of kind account_not_invoiced, mend the cause, and the run goes on by itself"
        )
    account_id: UUID = connection.execute(
        text(
            "SELECT account_id FROM payment_settings WHERE coverage = :coverage AND account_id > :after"
            " ORDER BY account_id LIMIT 1"
        ),
        {"coverage": run.coverage, "after": after},
    ).scalar_one()
    report_refused_account(connection, issuing.parameters(), account_id, sqlstate, constraint)
    refused = Counts()
    refused.add_skipped(SkipReason.REFUSED_BY_DATABASE, 1)
    return IssuedChunk(refused, account_id)


def _sqlstate(error: DBAPIError) -> str | None:
    return error.orig.sqlstate if isinstance(error.orig, psycopg.Error) else None
