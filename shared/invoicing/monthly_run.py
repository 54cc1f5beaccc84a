"""A run of `monthly-invoices`: its row, and the chunk of accounts invoiced in the same transaction.

A chunk that the database rejects is retried smaller, until it holds a single account. That account is reported and
skipped, and blocks no other.
"""

from datetime import datetime
from uuid import UUID

import psycopg
import psycopg.errors
import structlog
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from shared.db.rows import RunRow
from shared.invoicing.bills import SkipReason
from shared.invoicing.chunk import IssuedChunk, Issuing, issue_chunk
from shared.invoicing.counts import Counts
from shared.invoicing.month import Month
from shared.invoicing.runs import cursor_after, read_cursor
from shared.invoicing.skipped_accounts import report_accounts_without_settings, report_refused_account
from shared.messaging.jobs import MONTHLY_INVOICES
from shared.runtime import Runtime
from shared.scheduling.runs import finish_run, lock_workable_run, save_run_progress, start_run

log = structlog.get_logger()

#: So many rejected accounts point to a defect of ours, not to bad data: stop, and let an operator look.
MAX_REFUSED = 100

#: Errors by which the database rejects a row of ours; every other error (connections, locks, SQL) is raised.
_REFUSALS = (psycopg.errors.DataError, psycopg.errors.IntegrityError)


class TooManyRefusedError(Exception):
    """The database rejects too many accounts; the run stops where it is, and nothing is lost."""


def work_on_monthly_run(
    connection: Connection, runtime: Runtime, run_id: UUID, accounts: int, now: datetime
) -> bool:
    """Do one chunk. False if the run is finished, not workable, or locked by another worker."""
    run = lock_workable_run(connection, run_id, MONTHLY_INVOICES)
    if run is None:
        return False
    month = Month.of(runtime.policy, run.coverage, run.period)
    if not month.is_over(now):
        log.warning("invoices.too_early", run_id=str(run_id), period=run.period, ends_at=str(month.ends_at))
        return False  # an invoice can't be taken back; the sweep enqueues the run again when the month is over
    start_run(connection, run, now)
    issuing = Issuing(run.id, run.requested_by, month, now)
    counts = Counts.read(run.counts)
    chunk = _issue_or_skip(connection, run, issuing, accounts, counts)
    counts.add(chunk.counts)
    if chunk.last_account_id is not None:
        save_run_progress(connection, run, cursor_after(chunk.last_account_id), counts.stored())
        return True
    without_settings = report_accounts_without_settings(connection, issuing.parameters())
    counts.add_skipped(SkipReason.NO_PAYMENT_SETTINGS, without_settings)
    finish_run(connection, run, counts.stored(), now)
    return False


def _issue_or_skip(
    connection: Connection, run: RunRow, issuing: Issuing, accounts: int, so_far: Counts
) -> IssuedChunk:
    """Issue a chunk. If the database rejects a single account, report it and skip it: it blocks no other."""
    after = read_cursor(run.cursor)
    if accounts > 1:
        return issue_chunk(connection, issuing, after, accounts)
    try:
        with connection.begin_nested():
            return issue_chunk(connection, issuing, after, accounts)
    except DBAPIError as error:
        refusal = refusal_of(error)
        if refusal is None:
            raise
        sqlstate, constraint = refusal.sqlstate, refusal.diag.constraint_name
    if so_far.skipped.get(SkipReason.REFUSED_BY_DATABASE, 0) >= MAX_REFUSED:
        raise TooManyRefusedError(
            f"run {run.id}: the database rejected {MAX_REFUSED} accounts (SQLSTATE {sqlstate}, {constraint}); "
            "check the findings of kind account_not_invoiced and fix the cause; the run then continues by itself"
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


def refusal_of(error: DBAPIError) -> psycopg.Error | None:
    """The server's error if it rejected a row of ours; None for a lost connection or any other error."""
    return error.orig if isinstance(error.orig, _REFUSALS) else None
