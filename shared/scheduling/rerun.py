"""Rerunning a month or a day after an operator saw the preview. A second operator learns who was first.

A run has a key, and its latest event identifies its current pass. An operator who confirms names the event on
their page. It is compared under the row's lock, so of two operators at once, one requests the run.
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

#: Events by which a user requested a run.
REQUEST_EVENTS = (EventType.RUN_SCHEDULED, EventType.RUN_CONFIRMED, EventType.RUN_REOPENED)
#: There is no run yet.
NEVER = 0


class AlreadyRequestedError(RunError):
    """Another operator requested the run meanwhile, or it is in progress; the message says who and when."""


@dataclass(frozen=True)
class LatestRequest:
    """The latest request for the run: who, when (business time) and why."""

    actor: str
    at: datetime
    reason: str | None


@dataclass(frozen=True)
class RunSnapshot:
    """A run's current state. `latest_event` identifies its current pass: NEVER while there is no row."""

    run: Row[Any] | None
    latest_request: LatestRequest | None
    latest_event: int

    @property
    def is_in_progress(self) -> bool:
        return self.run is not None and self.run.state in (RunState.READY, RunState.RUNNING)


@dataclass(frozen=True)
class RerunRequested:
    """The result: the run, and its state before (None: it is new)."""

    run_id: UUID
    before: RunState | None


def read_run(connection: Connection, key: RunKey) -> RunSnapshot:
    """Read the run with this key, if it exists."""
    run = connection.execute(
        select(runs).where(runs.c.job == key.job, runs.c.period == key.period, runs.c.coverage == key.coverage)
    ).one_or_none()
    return RunSnapshot(None, None, NEVER) if run is None else _snapshot(connection, run)


def request_rerun(
    connection: Connection, policy: Policy, key: RunKey, cause: Cause, latest_event: int
) -> RerunRequested:
    """Create, confirm or reopen the run, in the caller's transaction. Enqueue its job after the commit.

    AlreadyRequestedError if the run changed after `latest_event`; RunError if it can't be requested.
    """
    due = requested_run(policy, key, cause.at)
    if latest_event == NEVER:
        run_id = insert_run(connection, due, cause)
        if run_id is not None:
            return RerunRequested(run_id, None)
    run = connection.execute(
        select(runs)
        .where(runs.c.job == key.job, runs.c.period == key.period, runs.c.coverage == key.coverage)
        .with_for_update()
    ).one_or_none()
    if run is None:
        raise RunError(f"there is no run {' '.join(key)}; reload the page")
    snapshot = _snapshot(connection, run)
    if snapshot.latest_event != latest_event or snapshot.is_in_progress:
        raise AlreadyRequestedError(describe_run(snapshot))
    if run.state == RunState.AWAITING_CONFIRMATION:
        confirm_run(connection, run.id, cause)
    else:
        reopen_run(connection, run.id, cause)
    return RerunRequested(run.id, RunState(run.state))


def describe_run(snapshot: RunSnapshot) -> str:
    """Describe a run's state and its latest request, in a sentence."""
    if snapshot.run is None:
        return "This run does not exist yet."
    how = {
        RunState.AWAITING_CONFIRMATION: "It was late and awaits confirmation",
        RunState.READY: "It waits for a worker",
        RunState.RUNNING: "It is running",
        RunState.FINISHED: "It has finished",
    }[RunState(snapshot.run.state)]
    request = snapshot.latest_request
    if request is None:
        return f"{how}; {snapshot.run.requested_by} requested it."
    why = f": {request.reason}" if request.reason else ""
    return f"{how}; {request.actor} requested it at {request.at:%Y-%m-%d %H:%M:%S} UTC{why}."


def _snapshot(connection: Connection, run: Row[Any]) -> RunSnapshot:
    own = (
        select(billing_events)
        .where(billing_events.c.run_id == run.id, billing_events.c.payment_id.is_(None))
        .order_by(billing_events.c.id.desc())
    )
    latest = connection.execute(own.limit(1)).one_or_none()
    latest_request = connection.execute(own.where(billing_events.c.type.in_(REQUEST_EVENTS)).limit(1)).one_or_none()
    return RunSnapshot(
        run,
        None
        if latest_request is None
        else LatestRequest(latest_request.actor, latest_request.at, latest_request.reason),
        NEVER if latest is None else latest.id,
    )
