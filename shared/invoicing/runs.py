"""Asking for a monthly run, and what a run's row says of its month. The row itself is `shared/scheduling/runs.py`'s."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, select, update

from shared.db.billing_events import BillingEvent, record_event
from shared.db.tables.system import runs
from shared.domain.schedule import DueRun, RunKey
from shared.domain.states import RunState
from shared.invoicing.month import BEFORE_ALL, Month
from shared.messaging.jobs import MONTHLY_INVOICES
from shared.scheduling.runs import Requester, find_run, insert_run

RunRow = Row[Any]


@dataclass(frozen=True)
class Requested:
    """A run row, and whether it is this request that made it."""

    run: RunRow
    is_new: bool


def request_run(connection: Connection, month: Month, requested_by: str, reason: str, now: datetime) -> Requested:
    """Ask for a month's invoices. The unique key makes a second request find the first one's row."""
    key = RunKey(MONTHLY_INVOICES, str(month.period), month.coverage.code)
    due = DueRun(*key, month.ends_at, RunState.READY)
    inserted = insert_run(connection, due, Requester(requested_by, now, reason))
    return Requested(find_run(connection, key), is_new=inserted is not None)


def reopen_run(connection: Connection, run_id: UUID, requested_by: str, reason: str, now: datetime) -> bool:
    """Let a finished run go over all accounts once more; False if it isn't finished.

    For accounts that were in trouble and have been mended. Who has an invoice keeps it and gets no second one.
    """
    run = connection.execute(select(runs).where(runs.c.id == run_id).with_for_update()).one()
    if run.state != RunState.FINISHED:
        return False
    connection.execute(
        update(runs)
        .where(runs.c.id == run_id)
        .values(state=RunState.READY, started_at=None, finished_at=None, cursor={}, counts={})
    )
    record_event(
        connection,
        BillingEvent(
            type="run_reopened",
            at=now,
            actor=requested_by,
            reason=reason,
            run_id=run.id,
            before={"state": run.state},
            after={"state": RunState.READY},
            data={"job": run.job, "period": run.period, "coverage": run.coverage, "counts": run.counts},
        ),
    )
    return True


def cursor_of(run: RunRow) -> UUID:
    """The last account that a run is done with."""
    return UUID(run.cursor["after_account_id"]) if run.cursor else BEFORE_ALL


def cursor_after(account_id: UUID) -> dict[str, str]:
    """What the row keeps so that the next chunk starts behind this account."""
    return {"after_account_id": str(account_id)}
