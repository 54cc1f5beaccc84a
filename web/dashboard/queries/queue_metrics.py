"""Due, in-flight and completed work of each queue: from the rows, not from the messages."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    ScalarSelect,
    Select,
    bindparam,
    column,
    func,
    select,
    text,
)

from shared.db.query_terms import Moment, is_, one_of
from shared.db.tables.operators import queue_pauses
from shared.db.tables.payments import payment_attempts, payments
from shared.db.tables.system import runs, stripe_events
from shared.domain.states import CHARGEABLE, AttemptState, Lane, RunState
from shared.messaging.jobs import QUEUE_OF_LANE, QUEUES, RECONCILIATION, RECONCILIATION_QUEUE, RUNS, SETTLEMENT
from shared.scheduling.due_work import DUE_WORK, DueWork

#: Counting stops here.
COUNT_UP_TO = 10_000
#: The period over which the rate is measured.
RATE_PERIOD = timedelta(minutes=5)


@dataclass(frozen=True)
class QueueMetrics:
    """One queue. `due` is counted up to COUNT_UP_TO; `oldest` is since when the oldest of it has been due.

    `later`, up to COUNT_UP_TO too, is delayed work: rows whose time is yet to come (payments' next attempts,
    unknown attempts' next look-ups). None where rows have no such time.
    `in_flight` is attempts or runs in progress; None where it isn't recorded. `last_minute` and `last_5_minutes`
    are attempts or runs done, by business time.
    """

    queue: str
    due: int
    later: int | None
    oldest: timedelta | None
    in_flight: int | None
    last_minute: int
    last_5_minutes: int
    is_paused: bool


@dataclass(frozen=True)
class _Age:
    """The column of a source's age, and its clock."""

    column: Column[Any]
    is_machine_time: bool


_AGES: dict[str, _Age] = {
    "unfinished runs": _Age(runs.c.created_at, is_machine_time=True),
    "unfinished reconciliations": _Age(runs.c.created_at, is_machine_time=True),
    "stripe events": _Age(stripe_events.c.created_at, is_machine_time=True),
    "expired leases": _Age(payment_attempts.c.lease_expires_at, is_machine_time=True),
    "unknown attempts": _Age(payment_attempts.c.look_up_at, is_machine_time=True),
    **{
        f"due payments, {lane}": _Age(payments.c.next_attempt_at, is_machine_time=False)
        for lane in (Lane.INTERACTIVE, Lane.BATCH)
    },
}


def gather_queue_metrics(connection: Connection, now: datetime, machine_now: datetime) -> tuple[QueueMetrics, ...]:
    """Read the metrics of every queue at business time `now` and machine time `machine_now`."""
    row = connection.execute(_WAITING, Moment(now, machine_now).parameters()).one()._mapping
    in_progress = {each.lane: each for each in connection.execute(_IN_PROGRESS)}
    done = connection.execute(_DONE, {"since": now - RATE_PERIOD, "minute_ago": now - RATE_PERIOD / 5, "now": now})
    rates = {each.queue: each for each in done}
    running = {each.job: each.runs for each in connection.execute(_RUNNING)}
    paused = set(connection.scalars(select(queue_pauses.c.queue)))
    later = connection.execute(_LATER, {"now": now, "machine_now": machine_now}).one()._mapping
    in_flight: dict[str, int | None] = {
        **{queue: getattr(in_progress.get(lane), "attempts", 0) for lane, queue in QUEUE_OF_LANE.items()},
        RECONCILIATION_QUEUE: running.get(RECONCILIATION, 0),
        RUNS: sum(count for job, count in running.items() if job != RECONCILIATION),
        SETTLEMENT: None,  # a look-up is a request, and leaves no row while it lasts
    }
    return tuple(
        QueueMetrics(
            queue=queue,
            due=sum(row[f"{source.name}: rows"] for source in _of(queue)),
            later=later.get(queue),
            oldest=max(
                (
                    max(timedelta(0), (machine_now if age.is_machine_time else now) - oldest)
                    for source in _of(queue)
                    if (age := _AGES.get(source.name)) and (oldest := row[f"{source.name}: oldest"])
                ),
                default=None,
            ),
            in_flight=in_flight[queue],
            last_minute=getattr(rates.get(queue), "last_minute", 0),
            last_5_minutes=getattr(rates.get(queue), "last_5_minutes", 0),
            is_paused=queue in paused,
        )
        for queue in QUEUES
    )


def _of(queue: str) -> list[DueWork]:
    return [source for source in DUE_WORK if source.queue == queue]


def _capped(query: Select[Any]) -> ScalarSelect[Any]:
    """Count a query's rows up to COUNT_UP_TO."""
    few = query.with_only_columns(text("1"), maintain_column_froms=True).order_by(None).limit(COUNT_UP_TO)
    return select(func.count()).select_from(few.subquery()).scalar_subquery()


def _oldest(source: DueWork) -> ScalarSelect[Any]:
    """The first row in the source's own order, read by its index."""
    age = _AGES[source.name]
    query = source.query.with_only_columns(age.column, maintain_column_froms=True).order_by(None)
    return query.order_by(age.column).limit(1).scalar_subquery()


_WAITING = select(
    *(_capped(source.query).label(f"{source.name}: rows") for source in DUE_WORK),
    *(_oldest(source).label(f"{source.name}: oldest") for source in DUE_WORK if source.name in _AGES),
)

_LATER = select(
    *(
        _capped(
            select(payments.c.id).where(
                one_of(payments.c.state, CHARGEABLE),
                is_(payments.c.lane, lane),
                payments.c.next_attempt_at > bindparam("now"),
            )
        ).label(queue)
        for lane, queue in QUEUE_OF_LANE.items()
    ),
    _capped(
        select(payment_attempts.c.id).where(
            is_(payment_attempts.c.state, AttemptState.UNKNOWN),
            payment_attempts.c.look_up_at > bindparam("machine_now"),
        )
    ).label(SETTLEMENT),
)

_IN_PROGRESS = (
    select(payment_attempts.c.lane, func.count().label("attempts"))
    .where(is_(payment_attempts.c.state, AttemptState.STARTED))
    .group_by(payment_attempts.c.lane)
)

_RUNNING = (
    select(runs.c.job, func.count().label("runs"))
    .where(one_of(runs.c.state, (RunState.READY, RunState.RUNNING)), is_(runs.c.state, RunState.RUNNING))
    .group_by(runs.c.job)
)

#: An attempt that was looked up was completed by settlement. Runs are few, for years.
_DONE = text(f"""
    SELECT queue, count(*) AS last_5_minutes, count(*) FILTER (WHERE at > :minute_ago) AS last_minute
    FROM (
        SELECT CASE WHEN look_ups > 0 THEN '{SETTLEMENT}' ELSE lane END AS queue, finished_at AS at
        FROM payment_attempts WHERE finished_at > :since AND finished_at <= :now
        UNION ALL
        SELECT CASE job WHEN '{RECONCILIATION}' THEN '{RECONCILIATION_QUEUE}' ELSE '{RUNS}' END, finished_at
        FROM runs WHERE finished_at > :since AND finished_at <= :now
    ) done
    GROUP BY queue
""").columns(column("queue"), column("last_5_minutes"), column("last_minute"))  # noqa: S608  # our own constants
