"""Stored Stripe events for operators: a page of them, one event's history, and applying one again."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, Select, and_, func, select, tuple_, update

from shared.db.billing_events import BillingEvent, Cause, record_event
from shared.db.query_terms import is_, one_of
from shared.db.tables.system import billing_events, stripe_events
from shared.domain.calendar import waits_for_operator
from shared.domain.event_types import EventType
from shared.domain.refusals import Refused
from shared.domain.states import StripeEventState
from shared.messaging.jobs import ApplyStripeEvent

#: Events scanned for one page of a filter: some 20 ms. The next page continues from there.
WINDOW = 20_000
#: Billing events scanned for an event's errors and requests, which are rare.
RARE = 2_000
#: Billing events carry the database's time, an event the worker's: the largest difference between them.
CLOCKS_DIFFER = timedelta(minutes=2)

OPEN = (StripeEventState.RECEIVED, StripeEventState.TROUBLE)
_KEY = (stripe_events.c.created_at, stripe_events.c.stripe_event_id)


@dataclass(frozen=True)
class Wanted:
    """A filter of events; empty means any. `about` is the start of the object's id, or a whole event id."""

    state: str = ""
    type: str = ""
    coverage: str = ""
    about: str = ""

    @property
    def is_everything(self) -> bool:
        return not (self.state or self.type or self.coverage or self.about)


@dataclass(frozen=True)
class EventsPage:
    """Events, newest first. The next page begins at `older_than`; `has_more` says whether it has matches.

    If `rows` is empty and `older_than` isn't None, none of the WINDOW scanned events matched.
    """

    rows: Sequence[Row[Any]]
    older_than: tuple[datetime, str] | None


def events_page(
    connection: Connection, wanted: Wanted, older_than: tuple[datetime, str] | None, limit: int
) -> EventsPage:
    """Return a page of events, scanning at most WINDOW of them."""
    window = _window(wanted, older_than).subquery()
    query = select(window)
    for name in ("state", "type", "coverage"):
        if value := getattr(wanted, name):
            query = query.where(window.c[name] == value)
    if wanted.about.startswith("evt_"):
        query = query.where(window.c.stripe_event_id == wanted.about)
    elif wanted.about:
        query = query.where(window.c.stripe_object_id.startswith(wanted.about, autoescape=True))
    newest_first = (window.c.created_at.desc(), window.c.stripe_event_id.desc())
    rows = connection.execute(query.order_by(*newest_first).limit(limit + 1)).all()
    if len(rows) > limit:
        return EventsPage(rows[:limit], _key(rows[limit - 1]))
    if wanted.is_everything or (connection.scalar(select(func.count()).select_from(window)) or 0) < WINDOW:
        return EventsPage(rows, None)
    oldest_first = (window.c.created_at, window.c.stripe_event_id)
    return EventsPage(rows, _key(connection.execute(select(window).order_by(*oldest_first).limit(1)).one()))


def open_events(connection: Connection, up_to: int) -> dict[str, int]:
    """Count the events that are received or have an error, at most `up_to` of each."""
    return {
        state: connection.scalar(
            select(func.count()).select_from(
                select(stripe_events.c.state).where(is_(stripe_events.c.state, state)).limit(up_to).subquery()
            )
        )
        or 0
        for state in OPEN
    }


def find_event(connection: Connection, coverage: str, stripe_event_id: str) -> Row[Any] | None:
    """Return one stored event."""
    return connection.execute(select(stripe_events).where(_is(coverage, stripe_event_id))).one_or_none()


def is_parked(event: Row[Any]) -> bool:
    """Whether the workers have stopped retrying it, until an operator acts."""
    return event.try_again_at is not None and waits_for_operator(event.try_again_at)


def request_apply(
    connection: Connection, coverage: str, stripe_event_id: str, cause: Cause
) -> ApplyStripeEvent | Refused:
    """Apply an event for an operator, again if need be; enqueue the job after the commit.

    This is safe for an applied event too, because an event is only a hint. The worker fetches the current state: a
    SetupIntent registers its card once, a charge gets one receipt, and recording the same answer twice changes
    nothing.
    """
    event = connection.execute(
        select(stripe_events).where(_is(coverage, stripe_event_id)).with_for_update()
    ).one_or_none()
    if event is None:
        return Refused("there is no such event", "check the address, or search for it")
    if event.state == StripeEventState.IGNORED:
        return Refused(
            f"Duecourse does nothing on {event.type}", "nothing: the next event of this type is ignored, too"
        )
    connection.execute(
        update(stripe_events)
        .where(_is(coverage, stripe_event_id))
        .values(state=StripeEventState.RECEIVED, tries=0, try_again_at=None, trouble=None, applied_at=None)
    )
    before = {"state": event.state, "tries": event.tries, "trouble": event.trouble}
    record_event(
        connection,
        BillingEvent(
            type=EventType.STRIPE_EVENT_APPLY_REQUESTED,
            at=cause.at,
            actor=cause.actor,
            reason=cause.reason,
            before={name: value for name, value in before.items() if value is not None},
            after={"state": StripeEventState.RECEIVED},
            data={"coverage": coverage, "stripe_event_id": stripe_event_id, "type": event.type},
        ),
    )
    return ApplyStripeEvent(coverage, stripe_event_id)


def billing_events_of(connection: Connection, event: Row[Any]) -> list[Row[Any]]:
    """Return an event's billing events, oldest first: errors, requests, and what applying it did.

    Billing events have no index by Stripe's ids: the one of its application is found by time.
    """
    found: list[Row[Any]] = []
    for rare in (EventType.STRIPE_EVENT_NOT_APPLIED, EventType.STRIPE_EVENT_APPLY_REQUESTED):
        newest = (
            select(billing_events)
            .where(billing_events.c.type == rare)
            .order_by(billing_events.c.id.desc())
            .limit(RARE)
        )
        found += _about(connection, event, newest)
    if event.applied_at is not None:
        first = _first_since(connection, EventType.STRIPE_EVENT_APPLIED, event.applied_at - CLOCKS_DIFFER)
        near = (
            select(billing_events)
            .where(billing_events.c.type == EventType.STRIPE_EVENT_APPLIED, billing_events.c.id >= first)
            .order_by(billing_events.c.id)
            .limit(WINDOW)
        )
        found += _about(connection, event, near)
    return sorted(found, key=lambda row: int(row.id))


def _about(connection: Connection, event: Row[Any], rows: Select[Any]) -> Sequence[Row[Any]]:
    among = rows.subquery()
    return connection.execute(
        select(among).where(
            among.c.data["stripe_event_id"].astext == event.stripe_event_id,
            among.c.data["coverage"].astext == event.coverage,
        )
    ).all()


def _first_since(connection: Connection, event_type: str, since: datetime) -> int:
    """Return an id before which no billing event of this type happened since then: some twenty index look-ups."""
    low, high = connection.execute(
        select(func.min(billing_events.c.id), func.max(billing_events.c.id)).where(
            billing_events.c.type == event_type
        )
    ).one()
    if low is None:
        return 0
    while low < high:
        middle = (low + high) // 2
        snapshot = connection.execute(
            select(billing_events.c.id, billing_events.c.created_at)
            .where(billing_events.c.type == event_type, billing_events.c.id >= middle)
            .order_by(billing_events.c.id)
            .limit(1)
        ).one()
        if snapshot.created_at < since:
            low = snapshot.id + 1
        else:
            high = middle
    return int(low)


def _window(wanted: Wanted, older_than: tuple[datetime, str] | None) -> Select[Any]:
    query = select(stripe_events)
    if wanted.state in OPEN:
        query = query.where(one_of(stripe_events.c.state, OPEN))
    if wanted.about.startswith("evt_"):
        query = query.where(stripe_events.c.stripe_event_id == wanted.about)
        if wanted.coverage:
            query = query.where(stripe_events.c.coverage == wanted.coverage)
    if older_than is not None:
        query = query.where(tuple_(*_KEY) < older_than)
    return query.order_by(*(column.desc() for column in _KEY)).limit(WINDOW)


def _is(coverage: str, stripe_event_id: str) -> Any:
    return and_(stripe_events.c.coverage == coverage, stripe_events.c.stripe_event_id == stripe_event_id)


def _key(row: Row[Any]) -> tuple[datetime, str]:
    return row.created_at, row.stripe_event_id
