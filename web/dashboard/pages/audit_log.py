"""The audit log, filtered by actor, action, subject and time."""

from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from typing import Any

from sqlalchemy import Row, Select, select
from starlette.responses import Response

from shared.db.tables.operators import audit_log
from shared.operations.audit_log import AuditAction
from web.dashboard.csv_export import stream_csv
from web.dashboard.request_context import RequestContext

#: Rows of a page.
PAGE = 50
#: Pages of the subjects.
_SUBJECT_PATHS = {
    "payment": "/payments/{}",
    "account": "/accounts/{}",
    "run": "/runs/{}",
    "bulk": "/bulk/{}",
    "finding": "/findings",
    "lane": "/queues",
    "stripe_event": "/stripe-events",
}
COLUMNS = (
    "id",
    "at",
    "actor",
    "role",
    "address",
    "action",
    "subject_kind",
    "subject",
    "reason",
    "outcome",
    "snapshot",
    "result",
)


def show(context: RequestContext) -> Response:
    """Newest first."""
    after, before = _number(context.query_text("after")), _number(context.query_text("before"))
    query = _filtered(context)
    if before is not None:
        query = query.where(audit_log.c.id > before).order_by(audit_log.c.id)
    else:
        query = query.where(audit_log.c.id < after) if after is not None else query
        query = query.order_by(audit_log.c.id.desc())
    with context.read() as connection:
        rows = list(connection.execute(query.limit(PAGE + 1)))
    has_more, rows = len(rows) > PAGE, rows[:PAGE]
    if before is not None:
        rows.reverse()
    is_first = (after is None and before is None) or (before is not None and not has_more)
    is_last = not has_more if before is None else False
    return context.page(
        "audit_log.html",
        rows=rows,
        names=sorted(AuditAction),
        links={row.id: _link(context, row) for row in rows},
        newer=None if is_first or not rows else context.here(before=rows[0].id, after=None),
        older=None if is_last or not rows else context.here(after=rows[-1].id, before=None),
    )


def export(context: RequestContext) -> Response:
    """All matching entries as CSV."""

    def rows() -> Iterator[tuple[Any, ...]]:
        for row in context.stream(_filtered(context).order_by(audit_log.c.id)):
            yield tuple(getattr(row, name) for name in COLUMNS)

    return stream_csv("audit-log.csv", COLUMNS, rows())


def _filtered(context: RequestContext) -> Select[Any]:
    query = select(audit_log)
    for name in ("actor", "action", "subject"):
        value = context.query_text(name)
        if value:
            query = query.where(audit_log.c[name] == value)
    since, until = _day(context.query_text("since", 10)), _day(context.query_text("until", 10))
    if since is not None:
        query = query.where(audit_log.c.at >= datetime.combine(since, time(0), context.zone))
    if until is not None:
        query = query.where(audit_log.c.at < datetime.combine(until + timedelta(days=1), time(0), context.zone))
    return query


def _day(text: str) -> date | None:
    """Read a day from the URL; None, and so no filter, if it is invalid or out of range."""
    try:
        day = date.fromisoformat(text)
    except ValueError:
        return None
    return day if 1970 <= day.year < 9000 else None


def _link(context: RequestContext, row: Row[Any]) -> str | None:
    path = _SUBJECT_PATHS.get(row.subject_kind or "")
    return None if path is None else context.url(path.format(row.subject))


def _number(text: str) -> int | None:
    """Read an id from the URL; None if it isn't a number that fits the column."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None
