"""Stripe events: which came, what they did, what is in trouble; what one says, and having it applied again."""

from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import Connection, Row
from starlette.responses import Response

from shared.domain.refusals import Refused
from shared.domain.states import StripeEventState
from shared.gateway.port import GatewayMissingError, GatewayUnavailableError
from shared.gateway.stripe_event_types import HANDLED_EVENT_TYPES
from shared.logs import redact
from shared.messaging.jobs import ApplyStripeEvent
from shared.operations.audit_log import AuditAction
from shared.operations.stripe_events import (
    Wanted,
    billing_events_of,
    events_page,
    find_event,
    is_parked,
    open_events,
    request_apply,
)
from web.dashboard.payload import show_payload
from web.dashboard.request_context import ROOT, RequestContext

log = structlog.get_logger()

#: Events of a page.
PAGE = 50
#: Counting stops here.
COUNT_UP_TO = 10_000


def show(context: RequestContext) -> Response:
    """Events, newest first."""
    state = context.asked("state")
    wanted = Wanted(
        state=state if state in set(StripeEventState) else "",
        type=context.asked("type", 80),
        coverage=context.asked("coverage", 40),
        about=context.asked("about", 80),
    )
    older_than = _place(context.asked("older_than"))
    with context.read() as connection:
        page = events_page(connection, wanted, older_than, PAGE)
        counts = open_events(connection, COUNT_UP_TO)
    next_place = None if page.older_than is None else f"{page.older_than[0].isoformat()}~{page.older_than[1]}"
    return context.page(
        "stripe_events.html",
        rows=page.rows,
        wanted=wanted,
        states=list(StripeEventState),
        types=sorted(HANDLED_EVENT_TYPES),
        counts=counts,
        is_parked=is_parked,
        is_first=older_than is None,
        newest=context.here(older_than=None),
        older=None if next_place is None else context.here(older_than=next_place),
    )


def show_one(context: RequestContext, payload: str | None = None, trouble: str = "", status: int = 200) -> Response:
    """One event: where it stands, and what it did."""
    with context.read() as connection:
        event = _event(context, connection)
        trail = billing_events_of(connection, event)
    mode = "test/" if context.site.is_test_mode else ""
    return context.page(
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


def read(context: RequestContext) -> Response:
    """Fetch what Stripe sent, and show it once: we keep none of it."""

    def note(connection: Connection) -> Row[Any]:
        event = _event(context, connection)
        context.record_action(
            connection, AuditAction.STRIPE_EVENT_READ, subject_kind="stripe_event", subject=_subject(event)
        )
        return event

    event = context.write(note)
    gateway = context.site.runtime.gateways.get(event.coverage)
    if gateway is None:
        return show_one(
            context, trouble=f"No key of {event.coverage} is set: add it to STRIPE_API_KEYS.", status=503
        )
    try:
        payload = show_payload(gateway.retrieve_event(event.stripe_event_id))
    except GatewayMissingError:
        gone = "Stripe doesn’t have this event any more: it keeps them for 30 days. What it did is in the trail."
        return show_one(context, trouble=gone, status=404)
    except GatewayUnavailableError as error:
        log.warning("dashboard.event_not_read", stripe_event_id=event.stripe_event_id, why=redact(str(error)))
        away = "Stripe doesn’t answer, or refuses our key. Nothing depends on this; try again in a minute."
        return show_one(context, trouble=away, status=502)
    return show_one(context, payload=payload)


def apply_again(context: RequestContext) -> Response:
    """Have the event applied by a worker, at once."""
    cause = context.cause(context.reason())

    def work(connection: Connection) -> ApplyStripeEvent | Refused:
        event = _event(context, connection)
        answer = request_apply(connection, event.coverage, event.stripe_event_id, cause)
        is_refused = isinstance(answer, Refused)
        context.record_action(
            connection,
            AuditAction.STRIPE_EVENT_APPLY,
            subject_kind="stripe_event",
            subject=_subject(event),
            reason=cause.reason,
            outcome="refused" if is_refused else "done",
            snapshot={"state": event.state, "tries": event.tries},
            result={"why": answer.reason} if isinstance(answer, Refused) else {},
        )
        return answer

    answer = context.write(work)
    path = context.path.removeprefix(ROOT).removesuffix("/apply")
    if isinstance(answer, Refused):
        return context.go(path, f"Not applied: {answer.reason}. To do: {answer.what_to_do}.")
    is_enqueued = context.site.runtime.enqueue([answer])
    return context.go(
        path, "A worker applies it now." if is_enqueued else "Redis doesn’t answer: the next sweep rings."
    )


def _event(context: RequestContext, connection: Connection) -> Row[Any]:
    parameters = context.request.path_params
    event = find_event(connection, parameters["coverage"][:40], parameters["id"][:200])
    if event is None:
        context.missing("such event")
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
