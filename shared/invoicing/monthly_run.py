"""A run of `monthly-invoices`: its row, and the chunk of accounts invoiced in the same transaction.

A chunk that the database rejects is retried smaller, until it holds a single account. That account is reported and
skipped, and blocks no other. So does an account that another transaction has locked: it is passed over, and comes
last.
"""

from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID

import psycopg
import psycopg.errors
import structlog
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from shared.db.rows import RunRow
from shared.invoicing.bills import PART, SkipReason
from shared.invoicing.chunk import IssuedChunk, Issuing, Part, issue_chunk
from shared.invoicing.counts import Counts
from shared.invoicing.month import BEFORE_ALL, Month
from shared.invoicing.runs import Place
from shared.invoicing.skipped_accounts import report_accounts_without_settings, report_refused_account
from shared.messaging.jobs import MONTHLY_INVOICES
from shared.runtime import Runtime
from shared.scheduling.runs import back_off_run, finish_run, lock_workable_run, save_run_progress, start_run

log = structlog.get_logger()

#: So many rejected accounts point to a defect of ours, not to bad data: stop, and let an operator look.
MAX_REFUSED = 100
#: So many locked accounts are no forgotten transaction but a change of all rows: wait for it.
MAX_POSTPONED = 1_000
#: Machine time after which a run looks again at accounts that are still locked.
LOOK_AGAIN_AFTER = timedelta(minutes=1)

#: Errors by which the database rejects a row of ours; every other error (connections, locks, SQL) is raised.
_REFUSALS = (psycopg.errors.DataError, psycopg.errors.IntegrityError)


class TooManyRefusedError(Exception):
    """The database rejects too many accounts; the run stops where it is, and nothing is lost."""


class TooManyLockedError(Exception):
    """Another transaction has too many accounts locked; the run stops where it is, and nothing is lost."""


def work_on_monthly_run(
    connection: Connection,
    runtime: Runtime,
    run_id: UUID,
    accounts: int,
    now: datetime,
    *,
    passes_over_locked: bool = False,
) -> bool:
    """Do one chunk. False if the run is finished, not workable, backing off, or locked by another worker."""
    run = lock_workable_run(connection, run_id, MONTHLY_INVOICES)
    if run is None:
        return False
    month = Month.of(runtime.policy, run.coverage, run.period)
    if not month.is_over(now):
        log.warning("invoices.too_early", run_id=str(run_id), period=run.period, ends_at=str(month.ends_at))
        return False  # an invoice can't be taken back; the sweep enqueues the run again when the month is over
    start_run(connection, run, now)
    issuing = Issuing(run.id, run.requested_by, month, now)
    counts, place = Counts.read(run.counts), Place.read(run.cursor)
    part = Part(place.after, accounts, passes_over_locked=passes_over_locked)
    if place.has_seen_all:
        part = Part(BEFORE_ALL, accounts, place.postponed[:accounts], passes_over_locked=True)
    chunk = _issue_or_skip(connection, run, issuing, part, counts)
    counts.add(chunk.counts)
    place = _place_after(place, part, chunk)
    if chunk.last_account_id is not None and not (place.has_seen_all and not place.postponed):
        save_run_progress(connection, run, place.stored(), counts.stored())
        if place.has_seen_all and len(chunk.locked) == len(part.only or ()) > 0:
            _wait_for_locked(connection, runtime, run, place, now)
            return False
        return True
    if place.postponed:
        save_run_progress(connection, run, replace(place, has_seen_all=True).stored(), counts.stored())
        return True
    without_settings = report_accounts_without_settings(connection, issuing.parameters())
    counts.add_skipped(SkipReason.NO_PAYMENT_SETTINGS, without_settings)
    finish_run(connection, run, counts.stored(), now)
    return False


def _place_after(place: Place, part: Part, chunk: IssuedChunk) -> Place:
    """Return the place after a chunk; TooManyLockedError rather than a cursor as long as the table."""
    if place.has_seen_all:
        return replace(place, postponed=(*place.postponed[part.accounts :], *chunk.locked))
    postponed = (*place.postponed, *chunk.locked)
    if len(postponed) > MAX_POSTPONED:
        raise TooManyLockedError(
            f"another transaction has locked more than {MAX_POSTPONED:,} accounts: find it in pg_stat_activity; "
            "the run then continues by itself"
        )
    return replace(place, after=chunk.last_account_id or place.after, postponed=postponed)


def _wait_for_locked(connection: Connection, runtime: Runtime, run: RunRow, place: Place, now: datetime) -> None:
    """Let the sweep enqueue the run again later: all that is left of it is locked."""
    trouble = (
        f"payment settings or fees of {len(place.postponed)} accounts are locked by another transaction: "
        "find it in pg_stat_activity"
    )
    back_off_run(connection, run, runtime.machine_now() + LOOK_AGAIN_AFTER, trouble, now)


def _issue_or_skip(
    connection: Connection, run: RunRow, issuing: Issuing, part: Part, so_far: Counts
) -> IssuedChunk:
    """Issue a chunk. If the database rejects a single account, report it and skip it: it blocks no other."""
    if part.accounts > 1:
        return issue_chunk(connection, issuing, part)
    try:
        with connection.begin_nested():
            return issue_chunk(connection, issuing, part)
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
        text(f"SELECT s.account_id FROM payment_settings s WHERE {PART} ORDER BY s.account_id LIMIT 1"),  # noqa: S608
        {"coverage": run.coverage, **part.parameters()},
    ).scalar_one()
    report_refused_account(connection, issuing.parameters(), account_id, sqlstate, constraint)
    refused = Counts()
    refused.add_skipped(SkipReason.REFUSED_BY_DATABASE, 1)
    return IssuedChunk(refused, account_id)


def refusal_of(error: DBAPIError) -> psycopg.Error | None:
    """The server's error if it rejected a row of ours; None for a lost connection or any other error."""
    return error.orig if isinstance(error.orig, _REFUSALS) else None
