"""Payments: everything that matches a filter, a page at a time, and all of it as CSV."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import psycopg.errors
from sqlalchemy import Connection, Row, text
from sqlalchemy.exc import DBAPIError
from starlette.responses import Response

from shared.domain.declines import DeclineCategory, category_of_code
from shared.domain.states import PaymentState, Trigger
from shared.operations.audit_log import AuditAction
from web.dashboard.csv_export import stream_csv
from web.dashboard.queries.paging import Found, Paging, parse_place
from web.dashboard.queries.payments import (
    Asked,
    Matches,
    PaymentFilter,
    count_matches,
    decimal_text,
    find_page,
    select_rows,
    too_broad,
)
from web.dashboard.request_context import PageError, RequestContext

#: Counting is a kindness: where no index makes it quick, the page comes without it (ms).
COUNT_WITHIN_MS = 500
#: What can be done to all that match; each begins with a page that shows what it would do.
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
    """Newest first. What can't be understood is said beside its field, and nothing is shown in its stead."""
    asked = _asked(context)
    paging = Paging(parse_place(context.asked("after")), parse_place(context.asked("before")))
    found, matches = Found((), None, None), None
    if not asked.errors:
        with context.read() as connection:
            asked.errors.update(too_broad(connection, asked.filter))
            if not asked.errors:
                found = _page(connection, asked.filter, paging)
    if not asked.errors:
        matches = _count(context, asked.filter)
    query = asked.filter.to_query()
    return context.page(
        "payments.html",
        400 if asked.errors else 200,
        asked=asked,
        found=found,
        matches=matches,
        newer=found.newer and context.url("/payments", **query, before=str(found.newer)),
        older=found.older and context.url("/payments", **query, after=str(found.older)),
        bulk=[(name, context.url("/bulk/new", action=action, **query)) for action, name in BULK],
        csv=context.url("/payments.csv", **query),
        states=list(PaymentState),
        categories=list(DeclineCategory),
        triggers=list(Trigger),
        codes=sorted(category_of_code()),
    )


def export(context: RequestContext) -> Response:
    """All that matches, as CSV. Who took it with which filter is in the book before the first row leaves."""
    asked = _asked(context)
    if asked.errors:
        said = "; ".join(f"{name.replace('_', ' ')} {why}" for name, why in asked.errors.items())
        raise PageError(400, "This filter can't be understood.", f"{said}.")
    kept = asked.filter.as_json()
    if "@" in kept.get("text", ""):
        kept["text"] = "(an e-mail address)"  # the book is kept for good and holds no personal data
    context.write(
        lambda connection: context.record_action(
            connection, AuditAction.EXPORT, subject_kind="export", subject="payments.csv", snapshot=kept
        )
    )

    def rows() -> Iterator[tuple[Any, ...]]:
        for row in context.stream(select_rows(asked.filter)):
            yield tuple(_cell(row, name) for name in COLUMNS)

    return stream_csv("payments.csv", COLUMNS, rows())


def _cell(row: Row[Any], name: str) -> Any:
    return decimal_text(row.amount_minor, row.currency) if name == "amount" else getattr(row, name)


def _asked(context: RequestContext) -> Asked:
    return PaymentFilter.from_query(context.query.multi_items(), context.policy, context.now)


def _page(connection: Connection, wanted: PaymentFilter, paging: Paging) -> Found:
    try:
        return find_page(connection, wanted, paging)
    except DBAPIError as error:
        if not _took_too_long(error):
            raise
        raise PageError(
            503,
            "This filter looks through too many payments.",
            f"Add a state, a decline code or an account. Asked was: {urlencode(wanted.to_query(), doseq=True)}",
        ) from None


def _count(context: RequestContext, wanted: PaymentFilter) -> Matches | None:
    """In a transaction of its own, which may be given up."""
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
