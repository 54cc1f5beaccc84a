"""Apply one stored Stripe event: claim it, fetch the truth behind it, apply that and mark it, ring.

Locks: the event's row first, then account, settings, payments by id. The event first, because nobody takes its
lock while holding another; so of two workers with the same event one waits holding nothing, and then sees that
it is done.
"""

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import structlog
from sqlalchemy import ColumnElement, Connection, Row, and_, or_, select, text, update
from sqlalchemy.exc import DBAPIError

from shared.accounts.cards import CardMovedError
from shared.clock import FARTHEST_AHEAD
from shared.db.billing_events import BillingEvent, record_event
from shared.db.session import in_transaction
from shared.db.tables.system import stripe_events
from shared.domain.event_types import EventType
from shared.domain.states import StripeEventState
from shared.failpoints import Failpoint, reach
from shared.gateway.port import GatewayMissingError, GatewayUnavailableError
from shared.logs import redact
from shared.runtime import Runtime
from workers.use_cases.stripe_events import ECHOES, HANDLERS
from workers.use_cases.stripe_events.effect import Apply, AskAgain, Effect, LookLaterError, StripeEvent, nothing_but

log = structlog.get_logger()

#: While a worker is at an event nobody else needs to be: above what fetch and apply usually take. A second
#: worker after it does no harm, and an event whose worker was killed is back soon.
CLAIM = timedelta(seconds=20)
#: Seconds first, for a blip; never longer than a person would wait to see an outage end.
FIRST_WAIT, LONGEST_WAIT = timedelta(seconds=5), timedelta(minutes=10)
#: Exceptions in a row (two hours of them) before an event waits for an operator. Outages don't count.
MAX_TROUBLES = 20
#: Looks at a card that changes under our hands: each repetition means that somebody else got further.
MAX_LOOKS = 3
#: `try_again_at` of an event that waits for an operator. Not 'infinity', which Python can't read.
NEVER = datetime(9999, 12, 31, tzinfo=UTC)
JUST_BEFORE_NEVER = NEVER - timedelta(days=1)

OPEN = (StripeEventState.RECEIVED, StripeEventState.TROUBLE)


def apply_stripe_event(runtime: Runtime, coverage: str, stripe_event_id: str) -> None:
    """Apply one event, if that is due. Safe to deliver twice, at once or late.

    A processor that can't be reached leaves the event for later. Any other error is noted on the event's row
    and raised, so that it is seen.
    """
    reach(Failpoint.EVENT_BEGUN)
    event = in_transaction(
        runtime.engine, lambda connection: _claim(connection, runtime, coverage, stripe_event_id)
    )
    reach(Failpoint.EVENT_CLAIMED)
    if event is None:
        return
    try:
        effect = _look_and_apply(runtime, event)
    except LookLaterError as error:
        _come_back(runtime, event, error.at, str(error))
        return
    except (GatewayUnavailableError, CardMovedError) as error:
        _come_back(runtime, event, runtime.machine_now() + _wait(event.tries), _named(error))
        return
    except Exception as error:
        _note_trouble(runtime, event, error)
        raise
    if effect is not None:
        runtime.enqueue(effect.jobs)
        reach(Failpoint.EVENT_RUNG)
        log.info(
            "stripe_event.applied",
            coverage=coverage,
            stripe_event_id=stripe_event_id,
            type=event.type,
            note=effect.note,
        )


def _claim(connection: Connection, runtime: Runtime, coverage: str, stripe_event_id: str) -> StripeEvent | None:
    """Keep the event from other workers for a while; None if it is done, not due yet, or somebody else's.

    An event that only echoes what we know is applied here at once.

    Not durable at once, since a claim that is lost costs a repetition only: saves the wait for the disk.
    """
    connection.execute(text("SET LOCAL synchronous_commit = off"))
    machine_now = runtime.machine_now()
    row = connection.execute(
        select(stripe_events).where(_is(coverage, stripe_event_id), _is_due(machine_now)).with_for_update()
    ).one_or_none()
    if row is None:
        return None
    echo = ECHOES.get(row.type)
    known = None if echo is None else echo(connection, _read(row), machine_now)
    if isinstance(known, AskAgain):
        connection.execute(
            update(stripe_events).where(_is(coverage, stripe_event_id)).values(try_again_at=known.at)
        )
        return None
    if known is not None:
        _mark_applied(connection, runtime, _read(row), known)
        reach(Failpoint.EVENT_ECHO_BEFORE_COMMIT)
        return None
    tries = row.tries + 1
    claimed = connection.execute(
        update(stripe_events)
        .where(_is(coverage, stripe_event_id))
        .values(tries=tries, try_again_at=machine_now + max(CLAIM, _wait(tries)))
        .returning(stripe_events)
    ).one()
    reach(Failpoint.EVENT_CLAIM_BEFORE_COMMIT)
    return _read(claimed)


def _look_and_apply(runtime: Runtime, event: StripeEvent) -> Effect | None:
    """Fetch and apply; again if the card changed in between. None if another worker was faster."""
    for look in range(1, MAX_LOOKS + 1):
        apply = _fetch(runtime, event)
        reach(Failpoint.EVENT_FETCHED)
        try:
            effect = in_transaction(runtime.engine, partial(_apply, runtime=runtime, event=event, apply=apply))
        except CardMovedError:
            if look == MAX_LOOKS:
                raise
            continue
        reach(Failpoint.EVENT_APPLIED)
        return effect
    raise AssertionError("unreachable: the last look returns or raises")


def _fetch(runtime: Runtime, event: StripeEvent) -> Apply:
    handler = HANDLERS.get(event.type)
    if handler is None:
        raise LookupError(
            f"no handler for {event.type}: the web process that stored it is newer than this worker; update it"
        )
    if event.coverage not in runtime.gateways:
        raise LookupError(f"STRIPE_API_KEYS has no key for {event.coverage!r}; add it and restart the workers")
    if not event.stripe_object_id:
        return nothing_but("the event names no object")
    try:
        return handler(runtime, event)
    except GatewayMissingError:
        return nothing_but("gone: the processor doesn't know the object any more")


def _apply(connection: Connection, runtime: Runtime, event: StripeEvent, apply: Apply) -> Effect | None:
    state = connection.scalar(
        select(stripe_events.c.state).where(_is(event.coverage, event.stripe_event_id)).with_for_update()
    )
    if state not in OPEN:
        return None
    effect = apply(connection)
    _mark_applied(connection, runtime, event, effect)
    reach(Failpoint.EVENT_APPLY_BEFORE_COMMIT)
    return effect


def _mark_applied(connection: Connection, runtime: Runtime, event: StripeEvent, effect: Effect) -> None:
    connection.execute(
        update(stripe_events)
        .where(_is(event.coverage, event.stripe_event_id))
        .values(state=StripeEventState.APPLIED, applied_at=runtime.machine_now(), try_again_at=None, trouble=None)
    )
    record_event(
        connection,
        BillingEvent(
            type=EventType.STRIPE_EVENT_APPLIED,
            at=runtime.clock.now(),
            actor="stripe",
            reason=effect.note,
            account_id=effect.account_id,
            payment_id=effect.payment_id,
            before={"state": event.state},
            after={"state": StripeEventState.APPLIED},
            data=_ids(event),
        ),
    )


def _come_back(runtime: Runtime, event: StripeEvent, at: datetime, why: str) -> None:
    """Leave the event as it is and look at it again at `at`, machine time."""
    log.warning("stripe_event.later", stripe_event_id=event.stripe_event_id, type=event.type, at=at, why=why)
    reach(Failpoint.EVENT_POSTPONING)
    with runtime.engine.begin() as connection:
        connection.execute(_still_open(event).values(try_again_at=at))
        reach(Failpoint.EVENT_POSTPONE_BEFORE_COMMIT)
    reach(Failpoint.EVENT_POSTPONED)


def _note_trouble(runtime: Runtime, event: StripeEvent, error: Exception) -> None:
    """Say on the event's row what is wrong. After MAX_TROUBLES it stays there until an operator acts."""
    tries = event.tries if event.state == StripeEventState.TROUBLE else 1
    try_again_at = NEVER if tries >= MAX_TROUBLES else runtime.machine_now() + _wait(tries)
    trouble = _named(error)
    try:
        at = runtime.clock.now()
        reach(Failpoint.EVENT_TROUBLE_BEGUN)
        with runtime.engine.begin() as connection:
            noted = connection.execute(
                _still_open(event).values(
                    state=StripeEventState.TROUBLE, tries=tries, try_again_at=try_again_at, trouble=trouble
                )
            )
            if noted.rowcount == 0:
                return
            record_event(
                connection,
                BillingEvent(
                    type=EventType.STRIPE_EVENT_NOT_APPLIED,
                    at=at,
                    actor="worker",
                    reason=trouble,
                    before={"state": event.state},
                    after={"state": StripeEventState.TROUBLE, "try_again_at": try_again_at.isoformat()},
                    data={**_ids(event), "tries": tries},
                ),
            )
            reach(Failpoint.EVENT_TROUBLE_BEFORE_COMMIT)
        reach(Failpoint.EVENT_TROUBLE_NOTED)
    except DBAPIError as also:  # the database may be the trouble; the claim's end brings the event back
        log.warning("stripe_event.trouble_not_noted", stripe_event_id=event.stripe_event_id, why=_named(also))


def _still_open(event: StripeEvent) -> Any:
    return update(stripe_events).where(_is(event.coverage, event.stripe_event_id), stripe_events.c.state.in_(OPEN))


def _is(coverage: str, stripe_event_id: str) -> ColumnElement[bool]:
    return and_(stripe_events.c.coverage == coverage, stripe_events.c.stripe_event_id == stripe_event_id)


def _is_due(machine_now: datetime) -> ColumnElement[bool]:
    """The same rule as the sweep's."""
    return and_(
        stripe_events.c.state.in_(OPEN),
        or_(
            stripe_events.c.try_again_at.is_(None),
            stripe_events.c.try_again_at <= machine_now,
            stripe_events.c.try_again_at.between(machine_now + FARTHEST_AHEAD, JUST_BEFORE_NEVER),
        ),
    )


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
    )


def _wait(tries: int) -> timedelta:
    doublings = min(tries - 1, 10)  # ten are beyond the longest wait
    return min(FIRST_WAIT * (1 << doublings), LONGEST_WAIT)


def _ids(event: StripeEvent) -> dict[str, str]:
    return {
        "coverage": event.coverage,
        "stripe_event_id": event.stripe_event_id,
        "type": event.type,
        "stripe_object_id": event.stripe_object_id,
    }


def _named(error: Exception) -> str:
    """Type and message, without secrets; of a database error only the server's sentence, not the values."""
    if isinstance(error, DBAPIError):
        diagnosis = getattr(error.orig, "diag", None)
        return f"{type(error.orig).__name__}: {getattr(diagnosis, 'message_primary', None) or 'no message'}"
    return redact(f"{type(error).__name__}: {error}")[:500]
