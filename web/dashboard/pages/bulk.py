"""Bulk actions: what one would do, that it begins, how far it is, and the ones before."""

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, urlencode
from uuid import UUID

import psycopg.errors
from sqlalchemy import Connection, Row, func, select
from sqlalchemy.exc import DBAPIError
from starlette.responses import Response

from shared.bulk.actions import BulkAction
from shared.bulk.lifecycle import Begun, Changed, Wanted, begin, resume, stop
from shared.bulk.preview import Preview, preview
from shared.db.tables.invoices import invoices
from shared.db.tables.operators import bulk_actions, bulk_items
from shared.db.tables.payments import payments
from shared.domain.refusals import Refused
from shared.messaging.jobs import ApplyBulkAction
from shared.operations.audit_log import AuditAction
from web.dashboard.pages.decisions import day_said
from web.dashboard.queries.paging import PAGE, Paging, found, parse_place
from web.dashboard.queries.payments import PaymentFilter, describe, select_ids, too_broad
from web.dashboard.request_context import PageError, RequestContext

#: A filter as an address carries it.
LONGEST_FILTER = 4_000
LONGEST_DIGEST = 64
#: Items and reasons that a page shows; the rest is counted.
ITEMS, REASONS, EXAMPLES = 200, 50, 5

#: How each action is called, before it is done.
NAMES = {
    BulkAction.CHARGE: "Charge now",
    BulkAction.HOLD: "Hold",
    BulkAction.RELEASE: "Release",
    BulkAction.WRITE_OFF: "Write off",
    BulkAction.VOID: "Void",
}
#: What to know of it before saying yes.
NOTES = {
    BulkAction.CHARGE: "Whether a network's budget still lets a card be asked is known only when it is its turn: "
    "those that may not be asked then are put off, with the next date.",
    BulkAction.HOLD: "What is under way goes its way; nothing after it is asked for until then.",
    BulkAction.RELEASE: "What is due is charged as soon as it is released.",
    BulkAction.WRITE_OFF: "Each ends once its PaymentIntent is seen canceled; money that comes in before counts. "
    "This can't be undone.",
    BulkAction.VOID: "Each ends, with its invoice, once its PaymentIntent is seen canceled; money that comes in "
    "before counts. This can't be undone.",
}


def show(context: RequestContext) -> Response:
    """All bulk actions, the newest first."""
    paging = Paging(parse_place(context.asked("after")), parse_place(context.asked("before")))
    at, id_ = bulk_actions.c.created_at, bulk_actions.c.id
    with context.read() as connection:
        rows = connection.execute(
            select(bulk_actions).where(*paging.where(at, id_)).order_by(*paging.order(at, id_)).limit(PAGE + 1)
        ).all()
    page = found(paging, rows, at.name)
    return context.page(
        "bulk_fragment.html" if context.is_fragment else "bulk.html",
        rows=page.rows,
        names=NAMES,
        newer=page.newer and context.here(before=str(page.newer), after=None),
        older=page.older and context.here(after=str(page.older), before=None),
    )


def show_new(context: RequestContext) -> Response:
    """What an action would do to everything that matches a filter."""
    action = _action(context.asked("action"))
    wanted = _filter(context, [pair for pair in context.query.multi_items() if pair[0] != "action"])
    return _preview(context, action, wanted)


def submit(context: RequestContext) -> Response:
    """Begin what was seen, if it still is what there is."""
    action, reason, until = _action(context.said("action")), context.reason(), day_said(context, "until")
    pairs = parse_qsl(context.said("filter", LONGEST_FILTER))
    wanted = _filter(context, pairs)
    confirmed = Wanted(action, _to_keep(wanted), until, context.said("digest", LONGEST_DIGEST))

    def work(connection: Connection) -> Begun | Changed | Refused:
        answer = begin(connection, confirmed, select_ids(wanted), context.cause(reason), context.machine_now)
        _write_down(connection, context, confirmed, reason, answer)
        return answer

    answer = _in_time(lambda: context.write(work))
    if isinstance(answer, Begun):
        context.site.runtime.enqueue([ApplyBulkAction(answer.bulk_id)])
        return context.go(f"/bulk/{answer.bulk_id}", "It has begun.")
    if isinstance(answer, Refused):
        raise PageError(409, f"Nothing was begun: {answer.reason}.", f"To do: {answer.what_to_do}.")
    return _preview(context, action, wanted, answer.now)


def show_one(context: RequestContext) -> Response:
    """How far a bulk action is, what was refused and why."""
    bulk_id = context.uuid()
    with context.read() as connection:
        bulk = connection.execute(select(bulk_actions).where(bulk_actions.c.id == bulk_id)).one_or_none()
        if bulk is None:
            context.missing("such bulk action")
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
    """Stop a bulk action after the chunk that is under way."""
    return _change(context, AuditAction.BULK_STOP, stop, "It is stopped.")


def resume_one(context: RequestContext) -> Response:
    """Go on with a stopped bulk action."""
    return _change(context, AuditAction.BULK_RESUME, resume, "It goes on.")


def _change(
    context: RequestContext, act: AuditAction, do: Callable[..., Row[Any] | Refused], said: str
) -> Response:
    bulk_id, reason = context.uuid(), context.reason()

    def work(connection: Connection) -> Row[Any] | Refused:
        answer = do(connection, bulk_id, context.cause(reason))
        is_refused = isinstance(answer, Refused)
        context.record_action(
            connection,
            act,
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
    if act is AuditAction.BULK_RESUME:
        context.site.runtime.enqueue([ApplyBulkAction(bulk_id)])
    return context.go(f"/bulk/{bulk_id}", said)


def _preview(
    context: RequestContext, action: BulkAction, wanted: PaymentFilter, changed: Preview | None = None
) -> Response:
    """Show what it would do; `changed` is what there is now, instead of what the person confirmed."""

    def look() -> Preview | Refused:
        with context.read() as connection:
            errors = too_broad(connection, wanted)
            if errors:
                raise PageError(400, "This filter is too broad.", f"The text {errors['text']}.")
            return preview(connection, action, select_ids(wanted), context.now, context.machine_now)

    snapshot = changed or _in_time(look)
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
    """What was refused, by reason, with some payments of each."""
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


def _write_down(
    connection: Connection,
    context: RequestContext,
    confirmed: Wanted,
    reason: str,
    answer: Begun | Changed | Refused,
) -> None:
    snapshot: dict[str, Any] = {"action": confirmed.action, "filter": dict(confirmed.filter)}
    result: dict[str, Any] = {}
    match answer:
        case Begun(snapshot=found):
            snapshot |= found.as_snapshot()
        case Changed(now=now):
            snapshot["digest"] = confirmed.digest
            result = {"refused": "what matches changed since", "now": now.as_snapshot()}
        case Refused():
            result = {"refused": answer.reason}
    if confirmed.until is not None:
        snapshot["until"] = confirmed.until.isoformat()
    context.record_action(
        connection,
        AuditAction.BULK_START,
        subject_kind="bulk",
        subject=str(answer.bulk_id) if isinstance(answer, Begun) else None,
        reason=reason,
        outcome="started" if isinstance(answer, Begun) else "refused",
        snapshot=snapshot,
        result=result,
    )


def _action(said: str) -> BulkAction:
    try:
        return BulkAction(said)
    except ValueError:
        raise PageError(400, "There is no such bulk action.", "Begin from the list of payments.") from None


def _filter(context: RequestContext, pairs: list[tuple[str, str]]) -> PaymentFilter:
    asked = PaymentFilter.from_query(pairs, context.policy, context.now)
    if asked.errors:
        said = "; ".join(f"{name.replace('_', ' ')} {why}" for name, why in asked.errors.items())
        raise PageError(400, "This filter can't be understood.", f"{said}. Begin from the list of payments.")
    return asked.filter


def _to_keep(wanted: PaymentFilter) -> dict[str, Any]:
    """The filter as it is kept for good: without personal data."""
    kept = wanted.as_json()
    if "@" in kept.get("text", ""):
        kept["text"] = "(an e-mail address)"
    return kept


def _in_time(work: Callable[[], Any]) -> Any:
    """Do what reads a whole filter; PageError where that takes too long."""
    try:
        return work()
    except DBAPIError as error:
        if not isinstance(error.orig, psycopg.errors.QueryCanceled):
            raise
        raise PageError(
            503, "This filter looks through too many payments.", "Nothing was begun. Add a state or an account."
        ) from None
