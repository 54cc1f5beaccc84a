"""Requests for a monthly run, and its cursor. `shared/scheduling/runs.py` owns the row itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection

from shared.db.billing_events import Cause
from shared.db.rows import RunRow
from shared.domain.schedule import DueRun, RunKey
from shared.domain.states import RunState
from shared.invoicing.month import BEFORE_ALL, Month
from shared.messaging.jobs import MONTHLY_INVOICES
from shared.scheduling.runs import find_run, insert_run


@dataclass(frozen=True)
class Requested:
    """A run row, and whether this request made it."""

    run: RunRow
    is_new: bool


def request_run(connection: Connection, month: Month, cause: Cause) -> Requested:
    """Request a month's invoices. The unique key makes a second request find the first one's row."""
    key = RunKey(MONTHLY_INVOICES, str(month.period), month.coverage.code)
    due = DueRun(*key, month.ends_at, RunState.READY)
    inserted = insert_run(connection, due, cause)
    return Requested(find_run(connection, key), is_new=inserted is not None)


def read_cursor(cursor: Mapping[str, str]) -> UUID:
    """The last account that a run is done with, from its row's `cursor`."""
    return UUID(cursor["after_account_id"]) if cursor else BEFORE_ALL


def cursor_after(account_id: UUID) -> dict[str, str]:
    """The cursor to store, so that the next chunk starts after this account."""
    return {"after_account_id": str(account_id)}
