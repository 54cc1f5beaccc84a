"""Stripe events: which came, what they did, what is in trouble; what one says, and having it applied again."""

from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import Connection, Row
from starlette.responses import Response

from shared.domain.states import StripeEventState
from shared.gateway.port import GatewayMissingError, GatewayUnavailableError
from shared.gateway.stripe_event_types import HANDLED_EVENT_TYPES
from shared.logs import redact
from shared.messaging.jobs import ApplyStripeEvent
from shared.operations.audit_log import Act
from shared.operations.stripe_events import (
    Wanted,
    events_page,
    find_event,
    is_parked,
    open_events,
    request_apply,
    trail_of_event,
)
from shared.payments.operator.charge import Refused
from web.dashboard.payload import show_payload
from web.dashboard.request_context import ROOT, Visit

log = structlog.get_logger()

#: Events of a page.
PAGE = 50
#: Counting stops here.
COUNT_UP_TO = 10_000


def show(visit: Visit) -> Response:
    """Events, newest first."""
    state = visit.asked("state")
    wanted = Wanted(
        state=state if state in set(StripeEventState) else "",
        type=visit.asked("type", 80),
        coverage=visit.asked("coverage", 40),
        about=visit.asked("about", 80),
    )
    older_than = _place(visit.asked("older_than"))
    with visit.read() as connection:
        page = events_page(connection, wanted, older_than, PAGE)
        counts = open_events(connection, COUNT_UP_TO)
    next_place = None if page.older_than is None else f"{page.older_than[0].isoformat()}~{page.older_than[1]}"
    return visit.page(
        "stripe_events.html",
        rows=page.rows,
        wanted=wanted,
        states=list(StripeEventState),
        types=sorted(HANDLED_EVENT_TYPES),
        counts=counts,
        is_parked=is_parked,
        is_first=older_than is None,
        newest=visit.here(older_than=None),
        older=None if next_place is None else visit.here(older_than=next_place),
    )


def show_one(visit: Visit, payload: str | None = None, trouble: str = "", status: int = 200) -> Response:
    """One event: where it stands, and what it did."""
    with visit.read() as connection:
        event = _event(visit, connection)
        trail = trail_of_event(connection, event)
    mode = "test/" if visit.site.is_test_mode else ""
    return visit.page(
        "stripe_event.html",
        status,
        event=event,
        path=_path(event),
        trail=trail,
        is_parked=is_parked(event),
        payload=payload,
        trouble=trouble,
        at_stripe=f"https://dashboard.stripe.com/{mode}events/{event.stripe_event_id}",
    )


def read(visit: Visit) -> Response:
    """Fetch what Stripe sent, and show it once: we keep none of it."""

    def note(connection: Connection) -> Row[Any]:
        event = _event(visit, connection)
        visit.write_down(connection, Act.STRIPE_EVENT_READ, subject_kind="stripe_event", subject=_subject(event))
        return event

    event = visit.write(note)
    gateway = visit.site.runtime.gateways.get(event.coverage)
    if gateway is None:
        return show_one(visit, trouble=f"No key of {event.coverage} is set: add it to STRIPE_API_KEYS.", status=503)
    try:
        payload = show_payload(gateway.retrieve_event(event.stripe_event_id))
    except GatewayMissingError:
        gone = "Stripe doesn’t have this event any more: it keeps them for 30 days. What it did is in the trail."
        return show_one(visit, trouble=gone, status=404)
    except GatewayUnavailableError as error:
        log.warning("dashboard.event_not_read", stripe_event_id=event.stripe_event_id, why=redact(str(error)))
        away = "Stripe doesn’t answer, or refuses our key. Nothing depends on this; try again in a minute."
        return show_one(visit, trouble=away, status=502)
    return show_one(visit, payload=payload)


def apply_again(visit: Visit) -> Response:
    """Have the event applied by a worker, at once."""
    because = visit.because(visit.reason())

    def work(connection: Connection) -> ApplyStripeEvent | Refused:
        event = _event(visit, connection)
        answer = request_apply(connection, event.coverage, event.stripe_event_id, because)
        is_refused = isinstance(answer, Refused)
        visit.write_down(
            connection,
            Act.STRIPE_EVENT_APPLY,
            subject_kind="stripe_event",
            subject=_subject(event),
            reason=because.reason,
            outcome="refused" if is_refused else "done",
            seen={"state": event.state, "tries": event.tries},
            result={"why": answer.reason} if isinstance(answer, Refused) else {},
        )
        return answer

    answer = visit.write(work)
    path = visit.path.removeprefix(ROOT).removesuffix("/apply")
    if isinstance(answer, Refused):
        return visit.go(path, f"Not applied: {answer.reason}. To do: {answer.what_to_do}.")
    is_rung = visit.site.runtime.ring([answer])
    return visit.go(path, "A worker applies it now." if is_rung else "Redis doesn’t answer: the next sweep rings.")


def _event(visit: Visit, connection: Connection) -> Row[Any]:
    parameters = visit.request.path_params
    event = find_event(connection, parameters["coverage"][:40], parameters["id"][:200])
    if event is None:
        visit.missing("such event")
    return event


def _path(event: Row[Any]) -> str:
    return f"/stripe-events/{event.coverage}/{event.stripe_event_id}"


def _subject(event: Row[Any]) -> str:
    return f"{event.coverage}/{event.stripe_event_id}"


def _place(said: str) -> tuple[datetime, str] | None:
    moment, _, stripe_event_id = said.partition("~")
    try:
        at = datetime.fromisoformat(moment)
    except ValueError:
        return None
    return (at, stripe_event_id) if at.tzinfo is not None else None
