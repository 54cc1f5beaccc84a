"""Stripe events: the list, one event with its payload, and applying it again."""

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

#: Events per page.
PAGE = 50
#: Counting stops here.
COUNT_UP_TO = 10_000


def show(context: RequestContext) -> Response:
    """Events, newest first."""
    state = context.query_text("state")
    wanted = Wanted(
        state=state if state in set(StripeEventState) else "",
        type=context.query_text("type", 80),
        coverage=context.query_text("coverage", 40),
        about=context.query_text("about", 80),
    )
    older_than = _cursor(context.query_text("older_than"))
    with context.read() as connection:
        page = events_page(connection, wanted, older_than, PAGE)
        counts = open_events(connection, COUNT_UP_TO)
    next_cursor = None if page.older_than is None else f"{page.older_than[0].isoformat()}~{page.older_than[1]}"
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
        older=None if next_cursor is None else context.here(older_than=next_cursor),
    )


def show_one(context: RequestContext, payload: str | None = None, error: str = "", status: int = 200) -> Response:
    """One event: its details, and the billing events it caused."""
    with context.read() as connection:
        event = _event(context, connection)
        events = billing_events_of(connection, event)
    mode = "test/" if context.site.is_test_mode else ""
    return context.page(
        "stripe_event.html",
        status,
        event=event,
        path=_path(event),
        events=events,
        is_parked=is_parked(event),
        payload=payload,
        error=error,
        at_stripe=f"https://dashboard.stripe.com/{mode}events/{event.stripe_event_id}",
    )


def read(context: RequestContext) -> Response:
    """Fetch the payload from Stripe and show it once; it is not stored."""

    def note(connection: Connection) -> Row[Any]:
        event = _event(context, connection)
        context.record_action(
            connection, AuditAction.STRIPE_EVENT_READ, subject_kind="stripe_event", subject=_subject(event)
        )
        return event

    event = context.write(note)
    gateway = context.site.runtime.gateways.get(event.coverage)
    if gateway is None:
        return show_one(context, error=f"No API key for {event.coverage}: add it to STRIPE_API_KEYS.", status=503)
    try:
        payload = show_payload(gateway.retrieve_event(event.stripe_event_id))
    except GatewayMissingError:
        gone = "Stripe no longer has this event: it keeps events for 30 days. Its effects are listed below."
        return show_one(context, error=gone, status=404)
    except GatewayUnavailableError as error:
        log.warning("dashboard.event_not_read", stripe_event_id=event.stripe_event_id, why=redact(str(error)))
        away = "Stripe doesn’t respond, or rejects our API key. Nothing depends on this; try again in a minute."
        return show_one(context, error=away, status=502)
    return show_one(context, payload=payload)


def apply_again(context: RequestContext) -> Response:
    """Have a worker apply the event now."""
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
        return context.redirect(path, f"Not applied: {answer.reason}. To do: {answer.what_to_do}.")
    is_enqueued = context.site.runtime.enqueue([answer])
    return context.redirect(
        path, "A worker applies it now." if is_enqueued else "Redis doesn’t respond: the next sweep enqueues it."
    )


def _event(context: RequestContext, connection: Connection) -> Row[Any]:
    parameters = context.request.path_params
    event = find_event(connection, parameters["coverage"][:40], parameters["id"][:200])
    if event is None:
        context.not_found("Stripe event")
    return event


def _path(event: Row[Any]) -> str:
    return f"/stripe-events/{event.coverage}/{event.stripe_event_id}"


def _subject(event: Row[Any]) -> str:
    return f"{event.coverage}/{event.stripe_event_id}"


def _cursor(text: str) -> tuple[datetime, str] | None:
    moment, _, stripe_event_id = text.partition("~")
    try:
        at = datetime.fromisoformat(moment)
    except ValueError:
        return None
    return (at, stripe_event_id) if at.tzinfo is not None else None
