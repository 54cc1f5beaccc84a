"""The audit: the book of actions, searched by who, what, on what and when."""

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
#: Pages that show what a line is about.
_PLACES = {
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
    after, before = _number(context.asked("after")), _number(context.asked("before"))
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
    """The same rows as CSV, all of them."""

    def rows() -> Iterator[tuple[Any, ...]]:
        for row in context.stream(_filtered(context).order_by(audit_log.c.id)):
            yield tuple(getattr(row, name) for name in COLUMNS)

    return stream_csv("audit.csv", COLUMNS, rows())


def _filtered(context: RequestContext) -> Select[Any]:
    query = select(audit_log)
    for name in ("actor", "action", "subject"):
        value = context.asked(name)
        if value:
            query = query.where(audit_log.c[name] == value)
    since, until = _day(context.asked("since", 10)), _day(context.asked("until", 10))
    if since is not None:
        query = query.where(audit_log.c.at >= datetime.combine(since, time(0), context.zone))
    if until is not None:
        query = query.where(audit_log.c.at < datetime.combine(until + timedelta(days=1), time(0), context.zone))
    return query


def _day(said: str) -> date | None:
    """A day out of the address; what is none, or of another age, is no condition."""
    try:
        day = date.fromisoformat(said)
    except ValueError:
        return None
    return day if 1970 <= day.year < 9000 else None


def _link(context: RequestContext, row: Row[Any]) -> str | None:
    place = _PLACES.get(row.subject_kind or "")
    return None if place is None else context.url(place.format(row.subject))


def _number(said: str) -> int | None:
    """An id out of the address; a number too large for the column is nobody's."""
    return int(said) if said.isascii() and said.isdigit() and len(said) < 19 else None
