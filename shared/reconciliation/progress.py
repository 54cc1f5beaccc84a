"""The progress of a reconciliation: its position, its counts, and where both are saved."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID

from sqlalchemy import Connection

from shared.db.rows import RunRow
from shared.messaging.jobs import RECONCILIATION
from shared.reconciliation.window import Window
from shared.scheduling.runs import finish_run, lock_workable_run, save_run_progress, start_run

#: The key in the counts for the findings by kind.
FOUND = "found"
#: The key in a run's cursor that says from when events are listed; a run without it listed none.
EVENTS_FROM = "events_from"


class Phase(StrEnum):
    """The phases, in this order."""

    CHARGES = "charges"  # the processor's list, against our records
    RECEIPTS = "receipts"  # receipts whose charge wasn't listed
    PAID = "paid"  # paid payments without a receipt
    UNPAID = "unpaid"  # unpaid payments that were charged in the window and not listed as paid
    INTENTS = "intents"  # the processor's PaymentIntents, for orphans
    EVENTS = "events"  # the processor's events, for those that were never delivered
    END = "end"

    @property
    def next(self) -> "Phase":
        phases = list(Phase)
        return phases[phases.index(self) + 1]


@dataclass(frozen=True)
class Progress:
    """Where the next chunk starts, and the counts up to there. `after` is the phase's own cursor.

    Events are listed from `events_from` on; None if no reconciliation has listed them yet.
    """

    window: Window
    events_from: datetime | None = None
    phase: Phase = Phase.CHARGES
    after: str | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    found: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_over(self) -> bool:
        return self.phase is Phase.END

    def is_at(self, other: "Progress") -> bool:
        return (self.phase, self.after) == (other.phase, other.after)

    def advanced(self, after: str | None, counts: Mapping[str, int], found: Mapping[str, int]) -> "Progress":
        """Return the progress after a chunk; `after` None ends the phase."""
        return replace(
            self,
            phase=self.phase.next if after is None else self.phase,
            after=after,
            counts=Counter(self.counts) + Counter(counts),
            found=Counter(self.found) + Counter(found),
        )

    def counted(self) -> dict[str, Any]:
        """The counts as users see them and as the run's row stores them."""
        return {**self.counts, FOUND: dict(self.found)}

    def cursor(self) -> dict[str, str | None]:
        return {
            "begins_at": self.window.begins_at.isoformat(),
            "ends_at": self.window.ends_at.isoformat(),
            "phase": self.phase,
            "after": self.after,
            EVENTS_FROM: None if self.events_from is None else self.events_from.isoformat(),
        }

    @classmethod
    def read(cls, cursor: Mapping[str, Any], counts: Mapping[str, Any]) -> "Progress":
        """Read what `cursor` and `counted` wrote."""
        window = Window(datetime.fromisoformat(cursor["begins_at"]), datetime.fromisoformat(cursor["ends_at"]))
        began = cursor.get(EVENTS_FROM)  # absent in a run that began under a release that listed no events
        events_from = None if began is None else datetime.fromisoformat(began)
        plain = {name: count for name, count in counts.items() if name != FOUND}
        return cls(window, events_from, Phase(cursor["phase"]), cursor["after"], plain, counts.get(FOUND, {}))


class Journal(Protocol):
    """Where progress is saved. Both methods run in the transaction that writes the chunk's results."""

    def is_still_at(self, connection: Connection, progress: Progress) -> bool:
        """Lock the progress; return whether it is unchanged since we read it."""

    def save(self, connection: Connection, progress: Progress, now: datetime) -> None:
        """Save the progress that `is_still_at` locked. `now` is business time."""


class RunJournal:
    """Saves progress on the run's row, so that it survives the worker."""

    def __init__(self, run_id: UUID) -> None:
        self._run_id = run_id
        self._run: RunRow | None = None

    def is_still_at(self, connection: Connection, progress: Progress) -> bool:
        run = self._run = lock_workable_run(connection, self._run_id, RECONCILIATION)
        return run is not None and bool(run.cursor) and Progress.read(run.cursor, run.counts).is_at(progress)

    def save(self, connection: Connection, progress: Progress, now: datetime) -> None:
        if self._run is None:
            raise AssertionError("is_still_at must lock the run before save")
        save_run_progress(connection, self._run, progress.cursor(), progress.counted())
        if progress.is_over:
            finish_run(connection, self._run, progress.counted(), now)


class NoJournal:
    """Saves nothing: an operator at a terminal starts the run again."""

    def is_still_at(self, connection: Connection, progress: Progress) -> bool:  # noqa: ARG002
        return True

    def save(self, connection: Connection, progress: Progress, now: datetime) -> None:
        """The caller holds the progress in memory."""


def begin_run(
    connection: Connection, run: RunRow, window: Window, events_from: datetime | None, now: datetime
) -> Progress:
    """Return a locked run's progress; the first time, start the run with `window` and `events_from`."""
    start_run(connection, run, now)
    if run.cursor:
        return Progress.read(run.cursor, run.counts)
    progress = Progress(window, events_from)
    save_run_progress(connection, run, progress.cursor(), progress.counted())
    return progress
