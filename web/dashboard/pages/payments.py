"""Payments that match a filter, page by page, and all of them as CSV."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import psycopg.errors
from sqlalchemy import Connection, Row, text
from sqlalchemy.exc import DBAPIError
from starlette.responses import Response

from shared.domain.declines import DeclineCategory, category_of_code
from shared.domain.states import PaymentState, Trigger
from shared.operations.audit_log import AuditAction
from shared.payments.network_budgets import free_dates
from web.dashboard.csv_export import stream_csv
from web.dashboard.queries.paging import Paging, ResultPage, parse_cursor
from web.dashboard.queries.payments import (
    Matches,
    ParsedFilter,
    PaymentFilter,
    count_matches,
    decimal_text,
    find_page,
    select_rows,
    too_broad,
)
from web.dashboard.request_context import PageError, RequestContext

#: Counting is optional: without a fast index the page omits it (ms).
COUNT_WITHIN_MS = 500
#: Actions on all matching payments; each starts with a preview.
BULK = (
    ("charge", "Charge now"),
    ("hold", "Hold"),
    ("release", "Release"),
    ("write_off", "Write off"),
    ("void", "Void"),
)
COLUMNS = (
    "id",
    "invoice_number",
    "kind",
    "account_external_id",
    "account_name",
    "coverage",
    "currency",
    "amount",
    "amount_minor",
    "state",
    "state_reason",
    "last_decline_code",
    "due_on",
    "next_attempt_at",
    "held_until",
    "trigger",
    "requested_by",
    "attempt_count",
    "decline_count",
    "created_at",
    "paid_at",
)


def show(context: RequestContext) -> Response:
    """Newest first. Invalid fields show their error, and no payments are listed."""
    parsed = _parse(context)
    paging = Paging(parse_cursor(context.query_text("after")), parse_cursor(context.query_text("before")))
    page, matches = ResultPage((), None, None), None
    free: Mapping[UUID, datetime] = {}
    if not parsed.errors:
        with context.read() as connection:
            parsed.errors.update(too_broad(connection, parsed.filter))
            if not parsed.errors:
                page = _page(connection, parsed.filter, paging)
                free = free_dates(connection, [row.id for row in page.rows], context.now)
    if not parsed.errors:
        matches = _count(context, parsed.filter)
    query = parsed.filter.to_query()
    return context.page(
        "payments.html",
        400 if parsed.errors else 200,
        parsed=parsed,
        page=page,
        free_dates=free,
        matches=matches,
        newer=page.newer and context.url("/payments", **query, before=str(page.newer)),
        older=page.older and context.url("/payments", **query, after=str(page.older)),
        bulk=[(name, context.url("/bulk/new", action=action, **query)) for action, name in BULK],
        csv=context.url("/payments.csv", **query),
        states=list(PaymentState),
        categories=list(DeclineCategory),
        triggers=list(Trigger),
        codes=sorted(category_of_code()),
    )


def export(context: RequestContext) -> Response:
    """All matching payments as CSV. User and filter are in the audit log before the first row is sent."""
    parsed = _parse(context)
    if parsed.errors:
        errors = "; ".join(f"{name.replace('_', ' ')} {why}" for name, why in parsed.errors.items())
        raise PageError(400, "Invalid filter", f"{errors}.")
    stored = parsed.filter.as_json()
    if "@" in stored.get("text", ""):
        stored["text"] = "(an e-mail address)"  # the audit log is permanent and holds no personal data
    context.write(
        lambda connection: context.record_action(
            connection, AuditAction.EXPORT, subject_kind="export", subject="payments.csv", snapshot=stored
        )
    )

    def rows() -> Iterator[tuple[Any, ...]]:
        for row in context.stream(select_rows(parsed.filter)):
            yield tuple(_cell(row, name) for name in COLUMNS)

    return stream_csv("payments.csv", COLUMNS, rows())


def _cell(row: Row[Any], name: str) -> Any:
    return decimal_text(row.amount_minor, row.currency) if name == "amount" else getattr(row, name)


def _parse(context: RequestContext) -> ParsedFilter:
    return PaymentFilter.from_query(context.query.multi_items(), context.policy, context.now)


def _page(connection: Connection, wanted: PaymentFilter, paging: Paging) -> ResultPage:
    try:
        return find_page(connection, wanted, paging)
    except DBAPIError as error:
        if not _took_too_long(error):
            raise
        raise PageError(
            503,
            "The filter takes too long",
            f"Add a state, a decline code or an account. Your filter: {urlencode(wanted.to_query(), doseq=True)}",
        ) from None


def _count(context: RequestContext, wanted: PaymentFilter) -> Matches | None:
    """Count in a transaction of its own, which may be canceled."""
    try:
        with context.read() as connection:
            connection.execute(text(f"SET LOCAL statement_timeout = '{COUNT_WITHIN_MS}ms'"))
            return count_matches(connection, wanted)
    except DBAPIError as error:
        if not _took_too_long(error):
            raise
        return None


def _took_too_long(error: DBAPIError) -> bool:
    return isinstance(error.orig, psycopg.errors.QueryCanceled)
