"""A coverage's daily run, one chunk at a time: make retries due, update standings, explain skipped payments.

Three phases (the first one for each lane), each in short chunks. Nothing is charged here: payments become due, and
are charged afterwards. A chunk's transaction locks the run's row and saves its cursor and counts, so a killed
worker leaves the cursor consistent with the rows.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import partial
from itertools import groupby
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, and_, literal, or_, select, true, tuple_

from shared.accounts.standing import UNPAID_COLUMNS, lock_account, unpaid_payment, update_standing
from shared.db.billing_events import BillingEvent, Cause, record_event
from shared.db.query_terms import is_, one_of, one_of_not
from shared.db.rows import PaymentRow, read_all, read_first
from shared.db.tables.accounts import accounts
from shared.db.tables.payments import payments
from shared.db.tables.system import billing_events
from shared.domain.calendar import local_date, waits_for_operator
from shared.domain.dunning import decide_standing
from shared.domain.event_types import EventType
from shared.domain.states import (
    CHARGEABLE,
    ENDED,
    Lane,
    PaymentKind,
    PaymentState,
    Standing,
    Trigger,
)
from shared.failpoints import Failpoint, reach
from shared.messaging.jobs import DAILY_RETRIES, ChargePayment, Job
from shared.payments.eligibility import (
    ATTEMPT_OPEN,
    CHARGEABLE_STATE,
    CLOSE_PENDING,
    COLLECTION_ENDED,
    HELD,
    MONTHLY,
    REACHED,
    RETRY_SCHEDULED,
    WAITS_FOR_CARD,
    Clocks,
    none_of,
)
from shared.payments.state_changes import move_payment
from shared.policy import Policy
from shared.runtime import Runtime
from shared.scheduling.runs import finish_run, lock_workable_run, save_run_progress, start_run

#: Payments moved in one transaction, a few statements each: claims of these wait for it, so well under a second.
CHUNK_MOVED = 200
#: Accounts or payments read in one transaction; few of them change.
CHUNK_LOOKED_AT = 1_000
#: Payments that the run enqueues itself, so that a small run starts at once; the sweep enqueues the rest.
ENQUEUE_AT_MOST = 1_000

#: The last row of a chunk, in the order that its phase reads in.
After = tuple[Any, ...]


@dataclass(frozen=True)
class DailyRun:
    """A run of one coverage: who requested it, business time now, and the coverage's calendar day."""

    run_id: UUID
    requested_by: str
    coverage: str
    policy: Policy
    now: datetime
    today: date

    def cause(self, reason: str) -> Cause:
        return Cause("scheduler", self.now, reason, run_id=self.run_id)


@dataclass
class Chunk:
    """What a chunk did: rows it found, where the next one starts (None: the phase is over), counts, jobs."""

    size: int
    after: After | None
    counts: Counter[str] = field(default_factory=Counter)
    not_attempted: Counter[str] = field(default_factory=Counter)
    jobs: list[Job] = field(default_factory=list)


@dataclass(frozen=True)
class ChunkResult:
    """What the run's row has to keep, and what to enqueue after the commit. `cursor` None: the run is finished."""

    cursor: Mapping[str, Any] | None
    counts: Mapping[str, Any]
    jobs: Sequence[Job]


#: What a daily run makes due, and what it skips. A back-off stays in force after the move.
RETRIED_DAILY = (RETRY_SCHEDULED, REACHED, MONTHLY)
NOT_RETRIED = (HELD, CLOSE_PENDING)


def retryable(coverage: str, now: datetime) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions for payments that a coverage's daily run makes due at business time `now`."""
    at = Clocks(now=literal(now))
    return (
        payments.c.coverage == coverage,
        *(condition.sql(at) for condition in RETRIED_DAILY),
        *none_of(NOT_RETRIED, at),
    )


def work_on_daily_run(connection: Connection, runtime: Runtime, run_id: UUID) -> Sequence[Job] | None:
    """Do one chunk; return the jobs to enqueue, or None if the run is finished or another worker holds it."""
    run = lock_workable_run(connection, run_id, DAILY_RETRIES)
    if run is None:
        return None
    now = runtime.clock.now()
    start_run(connection, run, now)
    today = local_date(now, runtime.policy.coverage(run.coverage).zone)
    daily = DailyRun(run.id, run.requested_by, run.coverage, runtime.policy, now, today)
    chunk = retry_next_chunk(connection, daily, run.cursor, run.counts)
    if chunk.cursor is None:
        finish_run(connection, run, chunk.counts, now)
    else:
        save_run_progress(connection, run, chunk.cursor, chunk.counts)
        reach(Failpoint.RETRY_CHUNK_BEFORE_COMMIT)
    return chunk.jobs


def retry_next_chunk(
    connection: Connection, daily: DailyRun, cursor: Mapping[str, Any], counts: Mapping[str, Any]
) -> ChunkResult:
    """Do a run's next chunk. `cursor` and `counts` are what the chunk before returned, empty at first."""
    chunk, phase = _next_chunk(connection, daily, cursor)
    added = _added(counts, chunk)
    jobs = chunk.jobs if added["retried"] <= ENQUEUE_AT_MOST else []
    if phase == len(PHASES):
        return ChunkResult(None, added, jobs)
    after = {} if chunk.after is None else {"after": _written(chunk.after)}
    return ChunkResult({"phase": phase} | after, added, jobs)


def _next_chunk(connection: Connection, daily: DailyRun, cursor: Mapping[str, Any]) -> tuple[Chunk, int]:
    """Do the next chunk that finds any rows; return it with the phase to continue with.

    Phases that find nothing are skipped within the transaction: most days of a small company are empty.
    A phase that found rows ends it, because the phases lock different rows (I4).
    """
    phase: int = cursor.get("phase", 0)
    chunk = PHASES[phase](connection, daily, _read_cursor(cursor))
    while chunk.after is None:
        phase += 1
        if chunk.size or phase == len(PHASES):
            break
        chunk = PHASES[phase](connection, daily, None)
    return chunk, phase


def _stamp(lane: Lane, connection: Connection, daily: DailyRun, after: After | None) -> Chunk:
    """Make scheduled retries due for this run, on the batch lane whatever their lane was."""
    rows = connection.execute(
        select(payments.c.next_attempt_at, payments.c.id)
        .where(
            is_(payments.c.lane, lane),
            one_of(payments.c.state, CHARGEABLE),  # the index's predicate; `retryable` narrows it
            *retryable(daily.coverage, daily.now),
            _beyond((payments.c.next_attempt_at, payments.c.id), after),
        )
        .order_by(payments.c.next_attempt_at, payments.c.id)
        .limit(CHUNK_MOVED)
    ).all()
    chunk = Chunk(len(rows), _last_of(rows, CHUNK_MOVED))
    for payment in _lock_retryable(connection, daily, [row.id for row in rows]):
        move_payment(
            connection,
            payment,
            PaymentState.DUE,
            daily.cause(f"daily retry of {daily.today}, after: {payment.state_reason}"),
            next_attempt_at=daily.now,
            backoff_until=payment.backoff_until,
            lane=Lane.BATCH,
            trigger=Trigger.DAILY_RETRY,
            requested_by=daily.requested_by,
            run_id=daily.run_id,
        )
        chunk.jobs.append(ChargePayment(payment.id, Lane.BATCH))
    chunk.counts["retried"] = len(chunk.jobs)
    return chunk


def _lock_retryable(connection: Connection, daily: DailyRun, ids: Sequence[UUID]) -> list[PaymentRow]:
    """Lock payments in id order (I4); return those that are still to be retried and have no open attempt (I2)."""
    locked = connection.execute(
        select(payments)
        .where(payments.c.id.in_(ids), *retryable(daily.coverage, daily.now))
        .order_by(payments.c.id)
        .with_for_update(key_share=True)
    )
    blocked = set(  # read under the locks: an attempt is only opened under its payment's lock
        connection.scalars(select(payments.c.id).where(payments.c.id.in_(ids), ATTEMPT_OPEN.sql()))
    )
    return [payment for payment in read_all(PaymentRow, locked) if payment.id not in blocked]


def _mark(connection: Connection, daily: DailyRun, after: After | None) -> Chunk:
    """Update the standing of accounts with a declined or overdue payment; days count without attempts too.

    Most standings don't change, so the accounts are only read; the few that change are locked and decided again.
    """
    rows = connection.execute(
        select(payments.c.account_id)
        .distinct()
        .where(
            one_of_not(payments.c.state, ENDED),
            payments.c.coverage == daily.coverage,
            payments.c.kind == PaymentKind.MONTHLY,
            or_(payments.c.due_on < daily.today, payments.c.decline_count > 0),
            _beyond((payments.c.account_id,), after),
        )
        .order_by(payments.c.account_id)
        .limit(CHUNK_LOOKED_AT)
    ).all()
    chunk = Chunk(len(rows), _last_of(rows, CHUNK_LOOKED_AT))
    changing = _changing(connection, daily, [row.account_id for row in rows])
    if len(changing) > CHUNK_MOVED:  # as after days without a run: the rest is the next chunk's
        changing = changing[:CHUNK_MOVED]
        chunk.after = (changing[-1],)
    for account_id in changing:
        account = lock_account(connection, account_id)
        decision = update_standing(
            connection, account, daily.policy, daily.today, daily.cause(f"daily run of {daily.today}")
        )
        if decision.standing != account.standing and decision.standing is Standing.MARKED_FOR_SUSPENSION:
            chunk.counts["marked"] += 1
    return chunk


def _changing(connection: Connection, daily: DailyRun, account_ids: Sequence[UUID]) -> list[UUID]:
    """Return, in id order, the accounts whose standing isn't what it should be."""
    rows = connection.execute(
        select(
            accounts.c.id,
            accounts.c.standing,
            *UNPAID_COLUMNS,
        )
        .join(payments, payments.c.account_id == accounts.c.id)
        .where(
            accounts.c.id.in_(account_ids),
            payments.c.kind == PaymentKind.MONTHLY,
            one_of_not(payments.c.state, ENDED),
        )
        .order_by(accounts.c.id, payments.c.due_on, payments.c.id)
    )
    changing: list[UUID] = []
    for (account_id, standing), unpaid in groupby(rows, key=lambda row: (row.id, row.standing)):
        owed = [unpaid_payment(row) for row in unpaid]
        decision = decide_standing(Standing(standing), owed, daily.policy.dunning, daily.today)
        if decision.standing != standing:
            changing.append(account_id)
    return changing


def _explain(connection: Connection, daily: DailyRun, after: After | None) -> Chunk:
    """Record why a payment isn't charged today, and when next: once for each reason, not each day."""
    last = (
        select(billing_events.c.reason)
        .where(
            billing_events.c.payment_id == payments.c.id, billing_events.c.type == EventType.CHARGE_NOT_ATTEMPTED
        )
        .order_by(billing_events.c.id.desc())
        .limit(1)
        .lateral()
    )
    at = Clocks(now=literal(daily.now))
    is_held = HELD.sql(at)
    rows = connection.execute(
        select(payments, last.c.reason.label("last_reason"), is_held.label("is_held"))
        .join(last, true(), isouter=True)
        .where(
            ~COLLECTION_ENDED.sql(),
            payments.c.coverage == daily.coverage,
            MONTHLY.sql(),
            or_(WAITS_FOR_CARD.sql(), and_(CHARGEABLE_STATE.sql(), is_held)),
            _beyond((payments.c.account_id, payments.c.id), after),
        )
        .order_by(payments.c.account_id, payments.c.id)
        .limit(CHUNK_LOOKED_AT)
    ).all()
    chunk = Chunk(len(rows), (rows[-1].account_id, rows[-1].id) if len(rows) == CHUNK_LOOKED_AT else None)
    for row in rows:
        payment = read_first(PaymentRow, row)
        reason = f"held: {payment.state_reason}" if row.is_held else payment.state_reason
        chunk.not_attempted["held" if row.is_held else payment.state] += 1
        if reason != row.last_reason:
            _record_not_attempted(connection, daily, payment, reason, payment.held_until if row.is_held else None)
    return chunk


def _record_not_attempted(
    connection: Connection, daily: DailyRun, payment: PaymentRow, reason: str | None, held_until: datetime | None
) -> None:
    """`next_attempt_on` is the local date, null if the payment waits for a card, a customer or an operator."""
    zone = daily.policy.coverage(payment.coverage).zone
    next_at = held_until if held_until is not None and not waits_for_operator(held_until) else None
    record_event(
        connection,
        BillingEvent(
            type=EventType.CHARGE_NOT_ATTEMPTED,
            at=daily.now,
            actor="scheduler",
            reason=reason,
            account_id=payment.account_id,
            payment_id=payment.id,
            run_id=daily.run_id,
            data={
                "state": payment.state,
                "trigger": Trigger.DAILY_RETRY,
                "next_attempt_on": str(local_date(next_at, zone)) if next_at else None,
            },
        ),
    )


#: A daily run from its start to its end; the run row's cursor holds the index. Add at the end only.
PHASES: tuple[Callable[[Connection, DailyRun, After | None], Chunk], ...] = (
    partial(_stamp, Lane.INTERACTIVE),
    partial(_stamp, Lane.BATCH),
    _mark,
    _explain,
)


def _last_of(rows: Sequence[Sequence[Any]], chunk_size: int) -> After | None:
    return tuple(rows[-1]) if len(rows) == chunk_size else None


def _beyond(columns: tuple[ColumnElement[Any], ...], after: After | None) -> ColumnElement[bool]:
    """Rows after a cursor, in the order of `columns`."""
    return true() if after is None else tuple_(*columns) > tuple_(*after)


def _written(after: After) -> list[str]:
    return [value.isoformat() if isinstance(value, datetime) else str(value) for value in after]


def _read_cursor(cursor: Mapping[str, Any]) -> After | None:
    """Read what `_written` wrote; an id is known by its four dashes, an instant has three at most."""
    written: list[str] | None = cursor.get("after")
    if written is None:
        return None
    return tuple(UUID(word) if word.count("-") == 4 else datetime.fromisoformat(word) for word in written)


def _added(counts: Mapping[str, Any], chunk: Chunk) -> dict[str, Any]:
    added: dict[str, Any] = {"retried": 0, "marked": 0, **counts}
    for name, count in chunk.counts.items():
        added[name] += count
    added["not_attempted"] = dict(Counter(counts.get("not_attempted", {})) + chunk.not_attempted)
    return added
