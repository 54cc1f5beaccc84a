"""The facts behind the alerts. Never cached: a resolved alert must be gone at the next refresh."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    DateTime,
    Executable,
    Row,
    Select,
    bindparam,
    func,
    or_,
    select,
    union_all,
)

from shared.db.query_terms import Moment, is_, one_of
from shared.db.tables.payments import payment_attempts, payments
from shared.db.tables.system import billing_events, findings, runs, stripe_events
from shared.domain.calendar import UNTIL_RELEASED
from shared.domain.event_types import EventType
from shared.domain.states import AttemptState, Lane, RunState, StripeEventState
from shared.messaging.queue_pauses import Pause, paused_queues
from shared.operations.heartbeats import WORKER, LiveProcess, live_processes
from shared.payments.eligibility import (
    ATTEMPT_OPEN,
    CHARGEABLE_STATE,
    HELD,
    REACHED,
    WAITS_ITS_TURN,
    Clocks,
    none_of,
)
from shared.payments.unrecorded import ERROR as RECORD_ERROR
from shared.scheduling.leader_lock import is_scheduler_alive

#: Settlement looks up within seconds; what takes longer than this doesn't settle by waiting.
UNKNOWN_FOR_TOO_LONG = timedelta(minutes=15)
DUE_FOR_TOO_LONG = timedelta(minutes=15)
#: A person may wait for what an event says; fetching and applying it takes a second.
EVENT_OPEN_FOR_TOO_LONG = timedelta(minutes=15)
ATTENTION_WITHIN = timedelta(hours=24)
#: Counting stops here: the alert stays the same.
COUNT_UP_TO = 1_000
#: Only the newest so many attention events are read: billing events are kept forever.
CALLS_READ = 100
MOST_RUNS = 20


@dataclass(frozen=True)
class Waiting:
    """Waiting rows: their number (counted up to COUNT_UP_TO), and the age of the oldest."""

    rows: int = 0
    oldest: timedelta | None = None


@dataclass(frozen=True)
class OpenStripeEvents:
    """Stripe events not applied: in trouble, those of them that wait for an operator, and received too long ago."""

    trouble: Waiting = Waiting()
    parked: int = 0
    late: Waiting = Waiting()


@dataclass(frozen=True)
class AlertFacts:
    """The facts behind the alerts, and what is shown uncached beside them."""

    is_scheduler_alive: bool
    #: Processes with a recent heartbeat.
    processes: tuple[LiveProcess, ...]
    unknown: Waiting
    unknown_too_long: int
    due_too_long: Waiting
    stripe_events: OpenStripeEvents
    #: Monthly, daily and nightly runs that await confirmation or are stalled.
    runs: tuple[Row[Any], ...]
    #: Open findings: kind, count, oldest.
    findings: tuple[Row[Any], ...]
    pauses: tuple[Pause, ...]
    #: The last day's attention events by reason: reason, count, payment of the newest, and
    #: whether it is a defect of ours.
    calls: tuple[Row[Any], ...]

    @property
    def has_worker(self) -> bool:
        return any(process.kind == WORKER for process in self.processes)


def gather_alert_facts(connection: Connection, now: datetime, machine_now: datetime) -> AlertFacts:
    """Read the facts at business time `now` and machine time `machine_now`."""
    unknown = connection.execute(_unknown(machine_now)).one()
    clocks = Moment(now, machine_now).parameters()
    due = connection.execute(_DUE_TOO_LONG, {**clocks, "before": now - DUE_FOR_TOO_LONG}).one()
    return AlertFacts(
        is_scheduler_alive=is_scheduler_alive(connection),
        processes=tuple(live_processes(connection, machine_now)),
        unknown=Waiting(unknown.rows, _since(unknown.oldest, machine_now)),
        unknown_too_long=unknown.too_long,
        due_too_long=Waiting(due.rows, _since(due.oldest, now)),
        stripe_events=_open_stripe_events(connection, machine_now),
        runs=tuple(connection.execute(_RUNS).all()),
        findings=tuple(connection.execute(_FINDINGS).all()),
        pauses=tuple(paused_queues(connection).values()),
        calls=tuple(connection.execute(_calls(now)).all()),
    )


def _since(moment: datetime | None, now: datetime) -> timedelta | None:
    return None if moment is None else max(timedelta(0), now - moment)


def _unknown(machine_now: datetime) -> Executable:
    """Ages count from the row's creation: a virtual clock may stand still while the outcome is unknown."""
    open_ = (
        select(payment_attempts.c.created_at)
        .where(is_(payment_attempts.c.state, AttemptState.UNKNOWN))
        .limit(COUNT_UP_TO)
        .subquery()
    )
    too_long = func.count().filter(open_.c.created_at <= machine_now - UNKNOWN_FOR_TOO_LONG)
    return select(
        func.count().label("rows"), func.min(open_.c.created_at).label("oldest"), too_long.label("too_long")
    ).select_from(open_)


def _due_too_long() -> Executable:
    """Payments backing off count too: no money flows then. Open attempts have an alert of their own."""
    before = bindparam("before", type_=DateTime(timezone=True))
    due = union_all(
        *(
            select(payments.c.next_attempt_at)
            .where(
                is_(payments.c.lane, lane),
                CHARGEABLE_STATE.sql(),
                REACHED.sql(Clocks(now=before)),
                *none_of((HELD, ATTEMPT_OPEN, WAITS_ITS_TURN)),
            )
            .order_by(payments.c.next_attempt_at)
            .limit(COUNT_UP_TO)
            .subquery()
            .select()
            for lane in Lane
        )
    ).subquery()
    return select(func.count().label("rows"), func.min(due.c.next_attempt_at).label("oldest")).select_from(due)


def _open_stripe_events(connection: Connection, machine_now: datetime) -> OpenStripeEvents:
    """Count each kind by itself, so that a flood of new events hides neither trouble nor old ones."""
    before = {"before": machine_now - EVENT_OPEN_FOR_TOO_LONG}
    trouble, late = connection.execute(_EVENTS_IN_TROUBLE).one(), connection.execute(_EVENTS_LATE, before).one()
    return OpenStripeEvents(
        Waiting(trouble.rows, _since(trouble.oldest, machine_now)),
        trouble.parked,
        Waiting(late.rows, _since(late.oldest, machine_now)),
    )


def _oldest_open_events(state: StripeEventState, *conditions: ColumnElement[bool]) -> Executable:
    open_ = (
        select(stripe_events.c.created_at, stripe_events.c.try_again_at)
        .where(is_(stripe_events.c.state, state), *conditions)
        .order_by(stripe_events.c.created_at)
        .limit(COUNT_UP_TO)
        .subquery()
    )
    return select(
        func.count().label("rows"),
        func.min(open_.c.created_at).label("oldest"),
        func.count().filter(open_.c.try_again_at >= UNTIL_RELEASED).label("parked"),
    ).select_from(open_)


def _calls(now: datetime) -> Select[Any]:
    newest = (
        select(
            billing_events.c.id,
            billing_events.c.at,
            billing_events.c.reason,
            billing_events.c.payment_id,
            billing_events.c.data.has_key(RECORD_ERROR).label("is_defect"),
        )
        .where(billing_events.c.type == EventType.ATTENTION_NEEDED)
        .order_by(billing_events.c.id.desc())
        .limit(CALLS_READ)
        .subquery()
    )
    payment = func.array_agg(newest.c.payment_id)
    return (
        select(
            newest.c.reason,
            func.count().label("calls"),
            payment.label("payments"),
            func.bool_or(newest.c.is_defect).label("is_defect"),
        )
        .where(newest.c.at > now - ATTENTION_WITHIN, newest.c.at <= now)
        .group_by(newest.c.reason)
        .order_by(func.count().desc(), newest.c.reason)
    )


_DUE_TOO_LONG = _due_too_long()
_EVENTS_IN_TROUBLE = _oldest_open_events(StripeEventState.TROUBLE)
_EVENTS_LATE = _oldest_open_events(
    StripeEventState.RECEIVED, stripe_events.c.created_at <= bindparam("before", type_=DateTime(timezone=True))
)

_RUNS = (
    select(runs)
    .where(
        or_(
            is_(runs.c.state, RunState.AWAITING_CONFIRMATION),
            one_of(runs.c.state, (RunState.READY, RunState.RUNNING)) & runs.c.trouble.is_not(None),
        )
    )
    .order_by(runs.c.scheduled_for_at)
    .limit(MOST_RUNS)
)

_OPEN_FINDINGS = (
    select(findings.c.kind, findings.c.found_at)
    .where(findings.c.resolved_at.is_(None))
    .limit(COUNT_UP_TO)
    .subquery()
)
_FINDINGS = (
    select(
        _OPEN_FINDINGS.c.kind,
        func.count().label("findings"),
        func.min(_OPEN_FINDINGS.c.found_at).label("oldest"),
    )
    .group_by(_OPEN_FINDINGS.c.kind)
    .order_by(_OPEN_FINDINGS.c.kind)
)
