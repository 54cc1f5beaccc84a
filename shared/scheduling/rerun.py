"""Running a month or a day again, by a person who saw what it would do. Who comes second is told who was first.

A run is known by its key, and its latest event says in which life it is. Who confirms names the event that they
saw; under the row's lock it is compared, so that of two people at once one asks for the run and the other is told.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, select

from shared.db.billing_events import Cause
from shared.db.tables.system import billing_events, runs
from shared.domain.event_types import EventType
from shared.domain.schedule import RunKey
from shared.domain.states import RunState
from shared.policy import Policy
from shared.scheduling.runs import RunError, confirm_run, insert_run, reopen_run, requested_run

#: Events by which somebody asked for a run.
ASKED = (EventType.RUN_SCHEDULED, EventType.RUN_CONFIRMED, EventType.RUN_REOPENED)
#: No run yet.
NEVER = 0


class AskedAlreadyError(RunError):
    """Somebody else asked for the run meanwhile, or it is under way; the message says who and when."""


@dataclass(frozen=True)
class Asked:
    """Who asked for a run the last time, when (business time) and why."""

    actor: str
    at: datetime
    reason: str | None


@dataclass(frozen=True)
class RunSnapshot:
    """How a run stands as a person sees it. `latest_event` is its life's mark: NEVER while there is no row."""

    run: Row[Any] | None
    asked: Asked | None
    latest_event: int

    @property
    def is_under_way(self) -> bool:
        return self.run is not None and self.run.state in (RunState.READY, RunState.RUNNING)


@dataclass(frozen=True)
class RunAsked:
    """What was done: the run, the state it was in before (None: it is new)."""

    run_id: UUID
    before: RunState | None


def read_run(connection: Connection, key: RunKey) -> RunSnapshot:
    """Look at the run with this key, which may not exist."""
    run = connection.execute(
        select(runs).where(runs.c.job == key.job, runs.c.period == key.period, runs.c.coverage == key.coverage)
    ).one_or_none()
    return RunSnapshot(None, None, NEVER) if run is None else _snapshot(connection, run)


def ask_again(connection: Connection, policy: Policy, key: RunKey, cause: Cause, latest_event: int) -> RunAsked:
    """Make, confirm or reopen the run, in the caller's transaction. Ring after commit.

    AskedAlreadyError if it isn't as it was at `latest_event`; RunError if it can't be asked for at all.
    """
    due = requested_run(policy, key, cause.at)
    if latest_event == NEVER:
        run_id = insert_run(connection, due, cause)
        if run_id is not None:
            return RunAsked(run_id, None)
    run = connection.execute(
        select(runs)
        .where(runs.c.job == key.job, runs.c.period == key.period, runs.c.coverage == key.coverage)
        .with_for_update()
    ).one_or_none()
    if run is None:
        raise RunError(f"there is no run {' '.join(key)}; look again")
    snapshot = _snapshot(connection, run)
    if snapshot.latest_event != latest_event or snapshot.is_under_way:
        raise AskedAlreadyError(tell(snapshot))
    if run.state == RunState.AWAITING_CONFIRMATION:
        confirm_run(connection, run.id, cause)
    else:
        reopen_run(connection, run.id, cause)
    return RunAsked(run.id, RunState(run.state))


def tell(snapshot: RunSnapshot) -> str:
    """Say how a run stands and who asked for it, in a sentence."""
    if snapshot.run is None:
        return "There is no such run yet."
    how = {
        RunState.AWAITING_CONFIRMATION: "It was late, and awaits confirmation",
        RunState.READY: "It waits for a worker",
        RunState.RUNNING: "It is running",
        RunState.FINISHED: "It has finished",
    }[RunState(snapshot.run.state)]
    if snapshot.asked is None:
        return f"{how}; {snapshot.run.requested_by} asked for it."
    why = f": {snapshot.asked.reason}" if snapshot.asked.reason else ""
    return f"{how}; {snapshot.asked.actor} asked for it at {snapshot.asked.at:%Y-%m-%d %H:%M:%S} UTC{why}."


def _snapshot(connection: Connection, run: Row[Any]) -> RunSnapshot:
    own = (
        select(billing_events)
        .where(billing_events.c.run_id == run.id, billing_events.c.payment_id.is_(None))
        .order_by(billing_events.c.id.desc())
    )
    latest = connection.execute(own.limit(1)).one_or_none()
    asked = connection.execute(own.where(billing_events.c.type.in_(ASKED)).limit(1)).one_or_none()
    return RunSnapshot(
        run,
        None if asked is None else Asked(asked.actor, asked.at, asked.reason),
        NEVER if latest is None else latest.id,
    )
