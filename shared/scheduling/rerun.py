"""Running a month or a day again, by a person who saw what it would do. Who comes second is told who was first.

A run is known by its key, and its latest event says in which life it is. Who confirms names the event that they
saw; under the row's lock it is compared, so that of two people at once one asks for the run and the other is told.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, select

from shared.db.tables.system import events, runs
from shared.domain.schedule import RunKey
from shared.domain.states import RunState
from shared.invoicing.runs import reopen_run
from shared.policy import Policy
from shared.scheduling.runs import Requester, RunError, confirm_run, insert_run, requested_run

#: Events by which somebody asked for a run.
ASKED = ("run_scheduled", "run_confirmed", "run_reopened")
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
class RunSeen:
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


def see_run(connection: Connection, key: RunKey) -> RunSeen:
    """Look at the run with this key, which may not exist."""
    run = connection.execute(
        select(runs).where(runs.c.job == key.job, runs.c.period == key.period, runs.c.coverage == key.coverage)
    ).one_or_none()
    return RunSeen(None, None, NEVER) if run is None else _seen(connection, run)


def ask_again(
    connection: Connection, policy: Policy, key: RunKey, requester: Requester, latest_event: int
) -> RunAsked:
    """Make, confirm or reopen the run, in the caller's transaction. Ring after commit.

    AskedAlreadyError if it isn't as it was at `latest_event`; RunError if it can't be asked for at all.
    """
    due = requested_run(policy, key, requester.at)
    if latest_event == NEVER:
        run_id = insert_run(connection, due, requester)
        if run_id is not None:
            return RunAsked(run_id, None)
    run = connection.execute(
        select(runs)
        .where(runs.c.job == key.job, runs.c.period == key.period, runs.c.coverage == key.coverage)
        .with_for_update()
    ).one_or_none()
    if run is None:
        raise RunError(f"there is no run {' '.join(key)}; look again")
    seen = _seen(connection, run)
    if seen.latest_event != latest_event or seen.is_under_way:
        raise AskedAlreadyError(tell(seen))
    if run.state == RunState.AWAITING_CONFIRMATION:
        confirm_run(connection, run.id, requester)
    else:
        reopen_run(connection, run.id, requester.actor, requester.reason or "", requester.at)
    return RunAsked(run.id, RunState(run.state))


def tell(seen: RunSeen) -> str:
    """Say how a run stands and who asked for it, in a sentence."""
    if seen.run is None:
        return "There is no such run yet."
    how = {
        RunState.AWAITING_CONFIRMATION: "It was late, and awaits confirmation",
        RunState.READY: "It waits for a worker",
        RunState.RUNNING: "It is running",
        RunState.FINISHED: "It has finished",
    }[RunState(seen.run.state)]
    if seen.asked is None:
        return f"{how}; {seen.run.requested_by} asked for it."
    why = f": {seen.asked.reason}" if seen.asked.reason else ""
    return f"{how}; {seen.asked.actor} asked for it at {seen.asked.at:%Y-%m-%d %H:%M:%S} UTC{why}."


def _seen(connection: Connection, run: Row[Any]) -> RunSeen:
    own = (
        select(events).where(events.c.run_id == run.id, events.c.payment_id.is_(None)).order_by(events.c.id.desc())
    )
    latest = connection.execute(own.limit(1)).one_or_none()
    asked = connection.execute(own.where(events.c.type.in_(ASKED)).limit(1)).one_or_none()
    return RunSeen(
        run,
        None if asked is None else Asked(asked.actor, asked.at, asked.reason),
        NEVER if latest is None else latest.id,
    )
