"""Findings: differences that an operator must resolve, with their meaning and what to do."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, select, tuple_
from starlette.responses import Response

from shared.db.tables.system import findings
from shared.explain.descriptions import FINDING_DESCRIPTIONS, details_of_finding
from shared.operations.audit_log import AuditAction
from shared.payments.receipts import resolve_finding_by_id
from web.dashboard.request_context import RequestContext

#: Open findings shown at once. More than these have one cause, which the first ones show as well.
MOST_OPEN = 200
#: Resolved findings per page.
PAGE = 50


def show(context: RequestContext) -> Response:
    """Open findings by kind, then resolved ones, the latest first."""
    older_than = _cursor(context.query_text("older_than"))
    is_open = findings.c.resolved_at.is_(None)
    key = (findings.c.found_at, findings.c.id)
    resolved = select(findings).where(~is_open).order_by(*(column.desc() for column in key)).limit(PAGE + 1)
    if older_than is not None:
        resolved = resolved.where(tuple_(*key) < older_than)
    with context.read() as connection:
        found = connection.execute(
            select(findings).where(is_open).order_by(findings.c.found_at.desc(), findings.c.id).limit(MOST_OPEN + 1)
        ).all()
        closed = connection.execute(resolved).all()
    by_kind: dict[str, list[Row[Any]]] = {}
    for finding in found[:MOST_OPEN]:
        by_kind.setdefault(finding.kind, []).append(finding)
    has_more, closed = len(closed) > PAGE, closed[:PAGE]
    return context.page(
        "findings.html",
        by_kind=by_kind,
        has_more_open=len(found) > MOST_OPEN,
        most_open=MOST_OPEN,
        closed=closed,
        meanings=FINDING_DESCRIPTIONS,
        details=details_of_finding,
        newest=None if older_than is None else context.here(older_than=None),
        older=context.here(older_than=f"{closed[-1].found_at.isoformat()}~{closed[-1].id}") if has_more else None,
    )


def resolve(context: RequestContext) -> Response:
    """Resolve a finding with a permanent reason; a second operator sees who resolved it."""
    finding_id, cause = context.uuid(), context.cause(context.reason())

    def work(connection: Connection) -> tuple[bool, Row[Any]]:
        known = connection.execute(
            select(findings).where(findings.c.id == finding_id).with_for_update()
        ).one_or_none()
        if known is None:
            context.not_found("Finding")
        is_resolved = resolve_finding_by_id(connection, finding_id, cause)
        context.record_action(
            connection,
            AuditAction.FINDING_RESOLVE,
            subject_kind="finding",
            subject=str(finding_id),
            reason=cause.reason,
            outcome="done" if is_resolved else "refused",
            snapshot={"kind": known.kind, "subject": known.subject},
            result={} if is_resolved else {"resolved_already_by": known.resolved_by},
        )
        return is_resolved, known

    is_resolved, known = context.write(work)
    if is_resolved:
        return context.redirect("/findings", f"Finding {known.kind} resolved. It reopens only if its facts change.")
    return context.redirect("/findings", f"Already resolved by {known.resolved_by}: {known.resolution}")


def _cursor(text: str) -> tuple[datetime, UUID] | None:
    moment, _, finding_id = text.partition("~")
    try:
        at, last = datetime.fromisoformat(moment), UUID(finding_id)
    except ValueError:
        return None
    return (at, last) if at.tzinfo is not None else None
