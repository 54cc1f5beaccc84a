"""Runs: created by the scheduler or an operator, confirmed by an operator, found by their unique key.

Inserting is idempotent: a second insert finds that the run exists. Each change writes a billing event.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime, time
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, func, select, text, tuple_, update
from sqlalchemy.dialects.postgresql import insert

from shared.db.billing_events import BillingEvent, Cause, record_event
from shared.db.rows import RunRow, read_one, read_one_or_none
from shared.db.tables.system import billing_events, runs
from shared.domain.event_types import EventType
from shared.domain.schedule import Cadence, DueRun, RunKey, ScheduleEntry, moment_of
from shared.domain.states import RunState
from shared.failpoints import Failpoint, reach
from shared.messaging.jobs import DAILY_RETRIES, MONTHLY_INVOICES, RECONCILIATION
from shared.policy import Policy

#: Jobs that have runs, in the order of the schedule's days and nights.
JOBS = (MONTHLY_INVOICES, RECONCILIATION, DAILY_RETRIES)


class RunError(Exception):
    """A run can't be created or confirmed as requested; the message says what to do instead."""


def schedule_of(policy: Policy) -> tuple[ScheduleEntry, ...]:
    """Return the whole schedule: three lines per coverage."""
    return tuple(
        entry
        for coverage in policy.coverages.values()
        for entry in (
            ScheduleEntry(
                MONTHLY_INVOICES, Cadence.MONTHLY, coverage.code, coverage.zone, time(0), policy.catch_up_within
            ),
            ScheduleEntry(DAILY_RETRIES, Cadence.DAILY, coverage.code, coverage.zone, policy.dunning.retry_at),
            ScheduleEntry(RECONCILIATION, Cadence.DAILY, coverage.code, coverage.zone, policy.reconcile_at),
        )
    )


def begin_schedule(connection: Connection, policy: Policy, now: datetime) -> Mapping[str, datetime]:
    """Start the schedule for coverages that aren't scheduled yet; return since when each one is.

    It starts at the first tick, or when a virtual clock is first set, whichever is earlier. Billing events hold
    that instant, because no other row does: rows carry machine time, and accounts may be imported years before.
    """
    began = schedule_in_force_since(connection)
    missing = [code for code in policy.coverages if code not in began]
    for code in missing:
        record_event(
            connection,
            BillingEvent(
                type=EventType.SCHEDULE_BEGAN,
                at=now,
                actor="scheduler",
                reason="runs due before this moment are left to an operator",
                data={"coverage": code},
            ),
        )
    return {**began, **dict.fromkeys(missing, now)}


def schedule_in_force_since(connection: Connection) -> Mapping[str, datetime]:
    """Return since when (business time) each coverage is scheduled, without those that never were."""
    coverage = text("data ->> 'coverage'")
    rows = connection.execute(
        select(coverage, func.min(billing_events.c.at))
        .where(billing_events.c.type == EventType.SCHEDULE_BEGAN)
        .group_by(coverage)
    )
    return {row[0]: row[1] for row in rows}


def known_run_keys(connection: Connection, keys: Iterable[RunKey]) -> frozenset[RunKey]:
    """Return those of `keys` for which a row exists, in whatever state."""
    wanted = [tuple(key) for key in keys]
    if not wanted:
        return frozenset()
    found = connection.execute(
        select(runs.c.job, runs.c.period, runs.c.coverage).where(
            tuple_(runs.c.job, runs.c.period, runs.c.coverage).in_(wanted)
        )
    )
    return frozenset(RunKey(*row) for row in found)


def insert_run(connection: Connection, run: DueRun, cause: Cause) -> UUID | None:
    """Insert a run and its billing event; return its id, or None if its key is taken and nothing is left to do."""
    run_id: UUID | None = connection.scalar(
        insert(runs)
        .values(
            job=run.job,
            period=run.period,
            coverage=run.coverage,
            state=run.state,
            scheduled_for_at=run.scheduled_for_at,
            requested_by=cause.actor,
            reason=cause.reason or None,
        )
        .on_conflict_do_nothing(index_elements=[runs.c.job, runs.c.period, runs.c.coverage])
        .returning(runs.c.id)
    )
    if run_id is not None:
        record_event(
            connection,
            BillingEvent(
                type=EventType.RUN_SCHEDULED,
                at=cause.at,
                actor=cause.actor,
                reason=cause.reason or None,
                run_id=run_id,
                after={"state": run.state},
                data={"job": run.job, "period": run.period, "coverage": run.coverage},
            ),
        )
    return run_id


def requested_run(policy: Policy, key: RunKey, now: datetime) -> DueRun:
    """Return the run that an operator requests, ready to insert; RunError if it isn't due or the key is invalid.

    However late it is, it needs no confirmation: a request by name, with a reason, confirms it.
    """
    policy.coverage(key.coverage)
    entry = next(
        (line for line in schedule_of(policy) if (line.job, line.coverage) == (key.job, key.coverage)), None
    )
    if entry is None:
        raise RunError(f"there is no job {key.job!r}; there are {', '.join(JOBS)}")
    try:
        moment = moment_of(entry, key.period)
    except ValueError as error:
        raise RunError(f"{key.period!r} is no period of {key.job}: {error}") from None
    if moment > now:
        raise RunError(
            f"{key.job} {key.period} {key.coverage} is due at {moment:%Y-%m-%d %H:%M} UTC, and business time is "
            f"{now:%Y-%m-%d %H:%M} UTC: it will run by itself"
        )
    return DueRun(key.job, key.period, key.coverage, moment, RunState.READY)


def find_run(connection: Connection, key: RunKey) -> RunRow:
    """Return the run with this key; RunError if there is none."""
    found = connection.execute(
        select(runs).where(runs.c.job == key.job, runs.c.period == key.period, runs.c.coverage == key.coverage)
    )
    run = read_one_or_none(RunRow, found)
    if run is None:
        raise RunError(f"there is no run {' '.join(key)}; `duecourse runs list` shows all")
    return run


def confirm_run(connection: Connection, run_id: UUID, cause: Cause) -> RunRow:
    """Confirm a run that awaits confirmation, and return it; RunError if it doesn't. Enqueue after the commit."""
    if not cause.reason:
        raise RunError("confirming a run needs a reason; its billing event keeps it")
    run = read_one_or_none(RunRow, connection.execute(select(runs).where(runs.c.id == run_id).with_for_update()))
    if run is None:
        raise RunError(f"there is no run {run_id}; `duecourse runs list` shows all")
    if run.state != RunState.AWAITING_CONFIRMATION:
        raise RunError(f"run {run.job} {run.period} {run.coverage} is {run.state} and needs no confirmation")
    connection.execute(
        update(runs)
        .where(runs.c.id == run_id)
        .values(state=RunState.READY, confirmed_by=cause.actor, reason=cause.reason or None)
    )
    record_event(
        connection,
        BillingEvent(
            type=EventType.RUN_CONFIRMED,
            at=cause.at,
            actor=cause.actor,
            reason=cause.reason or None,
            run_id=run_id,
            before={"state": run.state},
            after={"state": RunState.READY},
        ),
    )
    return run


def lock_workable_run(connection: Connection, run_id: UUID, job: str) -> RunRow | None:
    """Lock a run to work on it; None if another worker holds it, or if there is nothing to do."""
    locked = connection.execute(
        select(runs)
        .where(runs.c.id == run_id, runs.c.job == job, runs.c.state.in_((RunState.READY, RunState.RUNNING)))
        .with_for_update(skip_locked=True)
    )
    return read_one_or_none(RunRow, locked)


def start_run(connection: Connection, run: RunRow, now: datetime) -> None:
    """Mark a locked run as running, once. `now` is business time."""
    if run.state == RunState.READY:
        connection.execute(update(runs).where(runs.c.id == run.id).values(state=RunState.RUNNING, started_at=now))
        _record(connection, run, EventType.RUN_STARTED, now)
        reach(Failpoint.RUN_STARTED)


def save_run_progress(
    connection: Connection, run: RunRow, cursor: Mapping[str, Any], counts: Mapping[str, Any]
) -> None:
    """Save a locked run's progress, in the transaction of the chunk itself. Clears the run's error."""
    connection.execute(
        update(runs)
        .where(runs.c.id == run.id)
        .values(cursor=dict(cursor), counts=dict(counts), backoff_until=None, trouble=None)
    )


def back_off_run(connection: Connection, run: RunRow, until: datetime, trouble: str, now: datetime) -> None:
    """Back off a locked run until `until` (machine time), because what it needs is down; it stays unfinished.

    `now` is business time. Only the first error in a row writes a billing event.
    """
    connection.execute(update(runs).where(runs.c.id == run.id).values(backoff_until=until, trouble=trouble))
    if run.trouble is None:
        _record(connection, run, EventType.RUN_STALLED, now, reason=trouble)


def finish_run(connection: Connection, run: RunRow, counts: Mapping[str, Any], now: datetime) -> None:
    """Mark a locked run as finished. `now` is business time."""
    connection.execute(
        update(runs)
        .where(runs.c.id == run.id)
        .values(state=RunState.FINISHED, finished_at=now, counts=dict(counts), backoff_until=None, trouble=None)
    )
    _record(connection, run, EventType.RUN_FINISHED, now, counts)
    reach(Failpoint.RUN_FINISH_BEFORE_COMMIT)


def _record(
    connection: Connection,
    run: RunRow,
    what: EventType,
    now: datetime,
    counts: Mapping[str, Any] | None = None,
    reason: str | None = None,
) -> None:
    data: dict[str, Any] = {"job": run.job, "period": run.period, "coverage": run.coverage}
    if counts is not None:
        data["counts"] = dict(counts)
    record_event(
        connection, BillingEvent(type=what, at=now, actor="worker", reason=reason, run_id=run.id, data=data)
    )


def reopen_run(connection: Connection, run_id: UUID, cause: Cause) -> bool:
    """Make a finished run go through all accounts again; False if it isn't finished.

    For accounts that were skipped and have been fixed. An account that has its invoice gets no second one.
    """
    run = read_one(RunRow, connection.execute(select(runs).where(runs.c.id == run_id).with_for_update()))
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
            type=EventType.RUN_REOPENED,
            at=cause.at,
            actor=cause.actor,
            reason=cause.reason,
            run_id=run.id,
            before={"state": run.state},
            after={"state": RunState.READY},
            data={"job": run.job, "period": run.period, "coverage": run.coverage, "counts": run.counts},
        ),
    )
    return True
