"""A worker's transactions for one stored Stripe event: claim, apply, postpone, note an error.

Locks: the event's row first, then the rows that applying it locks. Nobody takes an event's lock while holding
another lock. So of two workers with the same event, one waits without holding a lock, and then finds it applied.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Row, and_, or_, select, text, update
from sqlalchemy.exc import DBAPIError

from shared.db.billing_events import BillingEvent, record_event
from shared.db.query_terms import Moment, has_come
from shared.db.tables.system import stripe_events
from shared.domain.backoff import Backoff
from shared.domain.calendar import UNTIL_RELEASED
from shared.domain.event_types import EventType
from shared.domain.states import StripeEventState
from shared.failpoints import Failpoint, reach
from shared.gateway.port import GatewayRefusedError
from shared.logs import redact
from shared.messaging.jobs import Job
from shared.operations.stripe_events import OPEN

#: No other worker needs the event while one processes it: longer than fetch and apply usually take. A second worker
#: afterwards does no harm, and an event whose worker was killed is back soon.
CLAIM = timedelta(seconds=20)
#: Starts at seconds, for a short outage; never longer than an operator would wait after an outage ends.
EVENT_BACKOFF = Backoff(first=timedelta(seconds=5), longest=timedelta(minutes=10))
#: Errors in a row (two hours of them) before an event waits for an operator. Outages don't count.
MAX_ERRORS = 20


#: As in the sweep's query.
_IS_DUE = (
    stripe_events.c.state.in_(OPEN),
    or_(stripe_events.c.try_again_at.is_(None), has_come(stripe_events.c.try_again_at)),
)


@dataclass(frozen=True)
class StripeEvent:
    """A stored event, claimed. `stored_at` is machine time; `stripe_created_at` is the processor's time."""

    coverage: str
    stripe_event_id: str
    type: str
    stripe_object_id: str
    stripe_created_at: datetime
    stored_at: datetime
    state: str
    tries: int
    trouble: str | None = None


@dataclass(frozen=True)
class Effect:
    """What applying the event did: a note for operators, the rows concerned, and jobs to enqueue."""

    note: str
    account_id: UUID | None = None
    payment_id: UUID | None = None
    attempt_id: UUID | None = None
    jobs: tuple[Job, ...] = ()


@dataclass(frozen=True)
class ProcessAgain:
    """The object of the event is being recorded at this moment: process the event again at `at` (machine time)."""

    at: datetime


class LookLaterError(Exception):
    """The event can't be applied yet. Not an error: it is due again at `at` (machine time)."""

    def __init__(self, at: datetime, why: str) -> None:
        self.at = at
        super().__init__(why)


#: Applies what was fetched, in the transaction that also marks the event as applied. May run again after a
#: deadlock, so it changes nothing outside the database.
Apply = Callable[[Connection], Effect]
#: In the claim's transaction: a note if the event only repeats what our rows say; None if it must be fetched.
Echo = Callable[[Connection, StripeEvent, datetime], Effect | ProcessAgain | None]


def nothing_but(note: str) -> Apply:
    """Return the application of an event that changes nothing."""
    return lambda _connection: Effect(note)


def claim_event(
    connection: Connection, coverage: str, stripe_event_id: str, echoes: Callable[[str], Echo | None], at: Moment
) -> StripeEvent | None:
    """Keep the event from other workers for a while; None if it is applied, not due yet, or another worker's.

    An event that only echoes our own rows (`echoes` by event type) is applied here at once.
    The commit is asynchronous, which saves the wait for the disk: a lost claim only costs a repetition.
    """
    connection.execute(text("SET LOCAL synchronous_commit = off"))
    row = connection.execute(
        select(stripe_events).where(_is(coverage, stripe_event_id), *_IS_DUE).with_for_update(), at.parameters()
    ).one_or_none()
    if row is None:
        return None
    echo = echoes(row.type)
    known = None if echo is None else echo(connection, _read(row), at.machine_now)
    if isinstance(known, ProcessAgain):
        connection.execute(
            update(stripe_events).where(_is(coverage, stripe_event_id)).values(try_again_at=known.at)
        )
        return None
    if known is not None:
        _mark_applied(connection, _read(row), known, at)
        reach(Failpoint.EVENT_ECHO_BEFORE_COMMIT)
        return None
    tries = row.tries + 1
    claimed = connection.execute(
        update(stripe_events)
        .where(_is(coverage, stripe_event_id))
        .values(tries=tries, try_again_at=at.machine_now + max(CLAIM, EVENT_BACKOFF.after(tries)))
        .returning(stripe_events)
    ).one()
    reach(Failpoint.EVENT_CLAIM_BEFORE_COMMIT)
    return _read(claimed)


def apply_event(connection: Connection, event: StripeEvent, apply: Apply, at: Moment) -> Effect | None:
    """Apply what was fetched and mark the event as applied; None if another worker was faster."""
    state = connection.scalar(
        select(stripe_events.c.state).where(_is(event.coverage, event.stripe_event_id)).with_for_update()
    )
    if state not in OPEN:
        return None
    effect = apply(connection)
    _mark_applied(connection, event, effect, at)
    return effect


def postpone_event(connection: Connection, event: StripeEvent, until: datetime) -> None:
    """Leave the event unchanged until `until`, machine time."""
    connection.execute(_is_open(event).values(try_again_at=until))


def note_error(connection: Connection, event: StripeEvent, error: Exception, at: Moment) -> None:
    """Write the error on the event's row. After MAX_ERRORS it stays there until an operator acts.

    A refused key isn't the event's fault: it is tried for as long as the key is refused, and one billing event says
    so, so that after a corrected key no event has to be applied by hand.
    """
    trouble = describe_error(error)
    tries = event.tries if event.state == StripeEventState.TROUBLE else 1
    is_about_key = isinstance(error, GatewayRefusedError) and error.is_about_key
    if is_about_key:
        tries = min(tries, MAX_ERRORS // 2)
    try_again_at = UNTIL_RELEASED if tries >= MAX_ERRORS else at.machine_now + EVENT_BACKOFF.after(tries)
    noted = connection.execute(
        _is_open(event).values(
            state=StripeEventState.TROUBLE, tries=tries, try_again_at=try_again_at, trouble=trouble
        )
    )
    if noted.rowcount == 0 or (is_about_key and trouble == event.trouble):
        return
    record_event(
        connection,
        BillingEvent(
            type=EventType.STRIPE_EVENT_NOT_APPLIED,
            at=at.now,
            actor="worker",
            reason=trouble,
            before={"state": event.state},
            after={"state": StripeEventState.TROUBLE, "try_again_at": try_again_at.isoformat()},
            data={**_ids(event), "tries": tries},
        ),
    )


def describe_error(error: Exception) -> str:
    """Type and message, without secrets. For a database error only the server's message, not the values."""
    if isinstance(error, DBAPIError):
        diagnosis = getattr(error.orig, "diag", None)
        return f"{type(error.orig).__name__}: {getattr(diagnosis, 'message_primary', None) or 'no message'}"
    return redact(f"{type(error).__name__}: {error}")[:500]


def _mark_applied(connection: Connection, event: StripeEvent, effect: Effect, at: Moment) -> None:
    connection.execute(
        update(stripe_events)
        .where(_is(event.coverage, event.stripe_event_id))
        .values(state=StripeEventState.APPLIED, applied_at=at.machine_now, try_again_at=None, trouble=None)
    )
    record_event(
        connection,
        BillingEvent(
            type=EventType.STRIPE_EVENT_APPLIED,
            at=at.now,
            actor="stripe",
            reason=effect.note,
            account_id=effect.account_id,
            payment_id=effect.payment_id,
            attempt_id=effect.attempt_id,
            before={"state": event.state},
            after={"state": StripeEventState.APPLIED},
            data=_ids(event),
        ),
    )


def _is_open(event: StripeEvent) -> Any:
    return update(stripe_events).where(_is(event.coverage, event.stripe_event_id), stripe_events.c.state.in_(OPEN))


def _is(coverage: str, stripe_event_id: str) -> ColumnElement[bool]:
    return and_(stripe_events.c.coverage == coverage, stripe_events.c.stripe_event_id == stripe_event_id)


def _read(row: Row[Any]) -> StripeEvent:
    return StripeEvent(
        coverage=row.coverage,
        stripe_event_id=row.stripe_event_id,
        type=row.type,
        stripe_object_id=row.stripe_object_id or "",
        stripe_created_at=row.stripe_created_at,
        stored_at=row.created_at,
        state=row.state,
        tries=row.tries,
        trouble=row.trouble,
    )


def _ids(event: StripeEvent) -> dict[str, str]:
    return {
        "coverage": event.coverage,
        "stripe_event_id": event.stripe_event_id,
        "type": event.type,
        "stripe_object_id": event.stripe_object_id,
    }
