"""Bulk actions: preview, start, progress, and the list."""

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, urlencode
from uuid import UUID

import psycopg.errors
from sqlalchemy import Connection, Row, func, select
from sqlalchemy.exc import DBAPIError
from starlette.responses import Response

from shared.bulk.actions import BulkAction
from shared.bulk.lifecycle import ConfirmedPreview, PreviewChanged, Started, begin, resume, stop
from shared.bulk.preview import Preview, preview
from shared.db.tables.invoices import invoices
from shared.db.tables.operators import bulk_actions, bulk_items
from shared.db.tables.payments import payments
from shared.domain.refusals import Refused
from shared.messaging.jobs import ApplyBulkAction
from shared.operations.audit_log import AuditAction
from web.dashboard.pages.operator_actions import form_date
from web.dashboard.queries.paging import PAGE, Paging, make_page, parse_cursor
from web.dashboard.queries.payments import PaymentFilter, describe, select_ids, too_broad
from web.dashboard.request_context import PageError, RequestContext

#: A filter as a query string.
LONGEST_FILTER = 4_000
LONGEST_DIGEST = 64
#: Items and reasons shown on a page; the rest is only counted.
ITEMS, REASONS, EXAMPLES = 200, 50, 5

#: Labels of the actions.
NAMES = {
    BulkAction.CHARGE: "Charge now",
    BulkAction.HOLD: "Hold",
    BulkAction.RELEASE: "Release",
    BulkAction.WRITE_OFF: "Write off",
    BulkAction.VOID: "Void",
}
#: Notes shown before confirmation.
NOTES = {
    BulkAction.CHARGE: "Network budgets are checked when each payment is charged: payments over the budget are "
    "rescheduled to the next allowed date.",
    BulkAction.HOLD: "Attempts in progress continue; no further charge is made until the hold ends.",
    BulkAction.RELEASE: "Due payments are charged as soon as they are released.",
    BulkAction.WRITE_OFF: "Each payment is closed once its PaymentIntent is canceled; money that arrives before "
    "counts. This can't be undone.",
    BulkAction.VOID: "Each payment and its invoice are voided once its PaymentIntent is canceled; money that "
    "arrives before counts. This can't be undone.",
}


def show(context: RequestContext) -> Response:
    """All bulk actions, newest first."""
    paging = Paging(parse_cursor(context.query_text("after")), parse_cursor(context.query_text("before")))
    at, id_ = bulk_actions.c.created_at, bulk_actions.c.id
    with context.read() as connection:
        rows = connection.execute(
            select(bulk_actions).where(*paging.where(at, id_)).order_by(*paging.order(at, id_)).limit(PAGE + 1)
        ).all()
    page = make_page(paging, rows, at.name)
    return context.page(
        "bulk_fragment.html" if context.is_fragment else "bulk.html",
        rows=page.rows,
        names=NAMES,
        newer=page.newer and context.here(before=str(page.newer), after=None),
        older=page.older and context.here(after=str(page.older), before=None),
    )


def show_new(context: RequestContext) -> Response:
    """Preview an action on all payments that match a filter."""
    action = _action(context.query_text("action"))
    wanted = _filter(context, [pair for pair in context.query.multi_items() if pair[0] != "action"])
    return _preview(context, action, wanted)


def submit(context: RequestContext) -> Response:
    """Start what was previewed, if the matching payments are still the same."""
    action, reason, until = _action(context.form_text("action")), context.reason(), form_date(context, "until")
    pairs = parse_qsl(context.form_text("filter", LONGEST_FILTER))
    wanted = _filter(context, pairs)
    confirmed = ConfirmedPreview(
        action, _without_personal_data(wanted), until, context.form_text("digest", LONGEST_DIGEST)
    )

    def work(connection: Connection) -> Started | PreviewChanged | Refused:
        answer = begin(connection, confirmed, select_ids(wanted), context.cause(reason), context.machine_now)
        _record(connection, context, confirmed, reason, answer)
        return answer

    answer = _or_timeout_page(lambda: context.write(work))
    if isinstance(answer, Started):
        context.site.runtime.enqueue([ApplyBulkAction(answer.bulk_id)])
        return context.redirect(f"/bulk/{answer.bulk_id}", "Bulk action started.")
    if isinstance(answer, Refused):
        raise PageError(409, f"Not started: {answer.reason}.", f"To do: {answer.what_to_do}.")
    return _preview(context, action, wanted, answer.now)


def show_one(context: RequestContext) -> Response:
    """The progress of a bulk action, and what was refused and why."""
    bulk_id = context.uuid()
    with context.read() as connection:
        bulk = connection.execute(select(bulk_actions).where(bulk_actions.c.id == bulk_id)).one_or_none()
        if bulk is None:
            context.not_found("Bulk action")
        refused, items = _refused(connection, bulk_id), _items(connection, bulk_id)
    return context.page(
        "bulk_live.html" if context.is_fragment else "bulk_action.html",
        bulk=bulk,
        name=NAMES[BulkAction(bulk.action)],
        filter_words=describe(PaymentFilter.from_json(bulk.filter)),
        done=bulk.counts["done"] + bulk.counts["refused"],
        refused=refused,
        items=items,
        shown=ITEMS,
    )


def stop_one(context: RequestContext) -> Response:
    """Stop a bulk action after the chunk in progress."""
    return _change(context, AuditAction.BULK_STOP, stop, "Bulk action stopped.")


def resume_one(context: RequestContext) -> Response:
    """Resume a stopped bulk action."""
    return _change(context, AuditAction.BULK_RESUME, resume, "Bulk action resumed.")


def _change(
    context: RequestContext, action: AuditAction, change: Callable[..., Row[Any] | Refused], message: str
) -> Response:
    bulk_id, reason = context.uuid(), context.reason()

    def work(connection: Connection) -> Row[Any] | Refused:
        answer = change(connection, bulk_id, context.cause(reason))
        is_refused = isinstance(answer, Refused)
        context.record_action(
            connection,
            action,
            subject_kind="bulk",
            subject=str(bulk_id),
            reason=reason,
            outcome="refused" if is_refused else "done",
            result={"refused": answer.reason} if isinstance(answer, Refused) else {"until then": answer.counts},
        )
        return answer

    answer = context.write(work)
    if isinstance(answer, Refused):
        raise PageError(409, f"Nothing was changed: {answer.reason}.", f"To do: {answer.what_to_do}.")
    if action is AuditAction.BULK_RESUME:
        context.site.runtime.enqueue([ApplyBulkAction(bulk_id)])
    return context.redirect(f"/bulk/{bulk_id}", message)


def _preview(
    context: RequestContext, action: BulkAction, wanted: PaymentFilter, changed: Preview | None = None
) -> Response:
    """Show the preview; `changed` is the current one if it differs from what the user confirmed."""

    def look() -> Preview | Refused:
        with context.read() as connection:
            errors = too_broad(connection, wanted)
            if errors:
                raise PageError(400, "The filter is too broad", f"The text {errors['text']}.")
            return preview(connection, action, select_ids(wanted), context.now, context.machine_now)

    snapshot = changed or _or_timeout_page(look)
    query = wanted.to_query()
    return context.page(
        "bulk_new.html",
        409 if changed else 200,
        action=action,
        name=NAMES[action],
        note=NOTES[action],
        filter_words=describe(wanted),
        filter=urlencode(query, doseq=True),
        payments_path=context.url("/payments", **query),
        preview=None if isinstance(snapshot, Refused) else snapshot,
        refused=snapshot if isinstance(snapshot, Refused) else None,
        has_changed=changed is not None,
    )


def _refused(connection: Connection, bulk_id: UUID) -> list[Row[Any]]:
    """Refused items by reason, with some examples of each."""
    ids = func.array_agg(bulk_items.c.payment_id)
    return list(
        connection.execute(
            select(bulk_items.c.result, func.count().label("payments"), ids[1:EXAMPLES].label("examples"))
            .where(bulk_items.c.bulk_id == bulk_id, bulk_items.c.state == "refused")
            .group_by(bulk_items.c.result)
            .order_by(func.count().desc(), bulk_items.c.result)
            .limit(REASONS)
        )
    )


def _items(connection: Connection, bulk_id: UUID) -> list[Row[Any]]:
    first = (
        select(bulk_items)
        .where(bulk_items.c.bulk_id == bulk_id)
        .order_by(bulk_items.c.payment_id)
        .limit(ITEMS)
        .subquery()
    )
    return list(
        connection.execute(
            select(first, invoices.c.number)
            .join(payments, payments.c.id == first.c.payment_id)
            .join(invoices, invoices.c.id == payments.c.invoice_id, isouter=True)
            .order_by(first.c.payment_id)
        )
    )


def _record(
    connection: Connection,
    context: RequestContext,
    confirmed: ConfirmedPreview,
    reason: str,
    answer: Started | PreviewChanged | Refused,
) -> None:
    snapshot: dict[str, Any] = {"action": confirmed.action, "filter": dict(confirmed.filter)}
    result: dict[str, Any] = {}
    match answer:
        case Started(snapshot=found):
            snapshot |= found.as_snapshot()
        case PreviewChanged(now=now):
            snapshot["digest"] = confirmed.digest
            result = {"refused": "the matching payments have changed", "now": now.as_snapshot()}
        case Refused():
            result = {"refused": answer.reason}
    if confirmed.until is not None:
        snapshot["until"] = confirmed.until.isoformat()
    context.record_action(
        connection,
        AuditAction.BULK_START,
        subject_kind="bulk",
        subject=str(answer.bulk_id) if isinstance(answer, Started) else None,
        reason=reason,
        outcome="started" if isinstance(answer, Started) else "refused",
        snapshot=snapshot,
        result=result,
    )


def _action(name: str) -> BulkAction:
    try:
        return BulkAction(name)
    except ValueError:
        raise PageError(400, "Unknown bulk action", "Start from the list of payments.") from None


def _filter(context: RequestContext, pairs: list[tuple[str, str]]) -> PaymentFilter:
    parsed = PaymentFilter.from_query(pairs, context.policy, context.now)
    if parsed.errors:
        errors = "; ".join(f"{name.replace('_', ' ')} {why}" for name, why in parsed.errors.items())
        raise PageError(400, "Invalid filter", f"{errors}. Start from the list of payments.")
    return parsed.filter


def _without_personal_data(wanted: PaymentFilter) -> dict[str, Any]:
    """Return the filter as it is stored permanently: without personal data."""
    stored = wanted.as_json()
    if "@" in stored.get("text", ""):
        stored["text"] = "(an e-mail address)"
    return stored


def _or_timeout_page(work: Callable[[], Any]) -> Any:
    """Run a query over a whole filter; PageError if it takes too long."""
    try:
        return work()
    except DBAPIError as error:
        if not isinstance(error.orig, psycopg.errors.QueryCanceled):
            raise
        raise PageError(
            503, "The filter takes too long", "Nothing was started. Add a state or an account to the filter."
        ) from None
