"""Requests for a monthly run, and its cursor. `shared/scheduling/runs.py` owns the row itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
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


@dataclass(frozen=True)
class Place:
    """How far a run has come; `postponed` accounts were locked, and come last, once the run `has_seen_all`."""

    after: UUID
    postponed: tuple[UUID, ...] = ()
    has_seen_all: bool = False

    @classmethod
    def read(cls, cursor: Mapping[str, Any]) -> "Place":
        postponed = tuple(map(UUID, cursor.get("postponed_account_ids", ())))
        return cls(read_cursor(cursor), postponed, bool(postponed) and bool(cursor.get("has_seen_all")))

    def stored(self) -> dict[str, Any]:
        """As JSON for the run's row."""
        after = {"after_account_id": str(self.after)}
        if not self.postponed:
            return after
        ids = [str(account_id) for account_id in self.postponed]
        return {**after, "postponed_account_ids": ids, "has_seen_all": self.has_seen_all}


def read_cursor(cursor: Mapping[str, Any]) -> UUID:
    """The last account that a run is done with or has postponed, from its row's `cursor`."""
    return UUID(cursor["after_account_id"]) if cursor else BEFORE_ALL
