"""Receipts of money that arrived, and findings for an operator to review."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, exists, select, update
from sqlalchemy.dialects.postgresql import insert

from shared.db.billing_events import BillingEvent, Cause, record_event
from shared.db.rows import PaymentRow
from shared.db.tables.payments import receipts
from shared.db.tables.system import findings
from shared.domain.event_types import EventType
from shared.gateway.port import PaymentIntentSnapshot

#: The prefix of operators' names in findings and billing events.
OPERATOR_PREFIX = "operator:"


def record_receipt(
    connection: Connection,
    payment: PaymentRow,
    attempt_id: UUID | None,
    snapshot: PaymentIntentSnapshot,
    cause: Cause,
) -> bool:
    """Record a receipt, once per charge; False if this charge has one already (I8)."""
    written = connection.execute(
        insert(receipts)
        .values(
            payment_id=payment.id,
            attempt_id=attempt_id,
            coverage=payment.coverage,
            stripe_charge_id=snapshot.latest_charge_id or snapshot.stripe_id,
            amount_minor=snapshot.amount_received_minor,
            currency=snapshot.currency,
            received_at=cause.at,
        )
        .on_conflict_do_nothing()
        .returning(receipts.c.id)
    ).one_or_none()
    return written is not None


def has_other_receipt(connection: Connection, payment: PaymentRow, charge_id: str) -> bool:
    """Whether the payment has a receipt of another charge: then it was paid twice."""
    other = exists().where(receipts.c.payment_id == payment.id, receipts.c.stripe_charge_id != charge_id)
    return bool(connection.scalar(select(other)))


def open_finding(
    connection: Connection, kind: str, payment: PaymentRow, subject: str, details: dict[str, Any], cause: Cause
) -> None:
    """Open a finding about a payment, once per kind and subject. Details hold ids, codes and amounts only."""
    finding = Finding(kind, payment.coverage, subject, details, payment.id, payment.account_id)
    write_finding(connection, finding, cause)


@dataclass(frozen=True)
class Finding:
    """What an operator must review. The same kind, coverage and subject are one finding, however often found."""

    kind: str
    coverage: str
    subject: str
    details: Mapping[str, Any]  # ids, codes and amounts only
    payment_id: UUID | None = None
    account_id: UUID | None = None


def write_finding(connection: Connection, finding: Finding, cause: Cause) -> None:
    """Open a finding, unless it is open already with the same facts.

    If an operator resolved it, it reopens only with changed facts; if it was resolved automatically, always.
    """
    opened = connection.execute(
        insert(findings)
        .values(
            kind=finding.kind,
            coverage=finding.coverage,
            payment_id=finding.payment_id,
            subject=finding.subject,
            details=dict(finding.details),
            found_at=cause.at,
        )
        .on_conflict_do_nothing()
        .returning(findings.c.id)
    ).one_or_none()
    if opened is not None:
        _record_finding_event(connection, EventType.FINDING_OPENED, finding, cause, finding.details)
        return
    known = connection.execute(
        select(findings)
        .where(
            findings.c.kind == finding.kind,
            findings.c.coverage == finding.coverage,
            findings.c.subject == finding.subject,
        )
        .with_for_update()
    ).one()
    is_open, is_same = known.resolved_at is None, known.details == dict(finding.details)
    if is_same and (is_open or known.resolved_by.startswith(OPERATOR_PREFIX)):
        return
    connection.execute(
        update(findings)
        .where(findings.c.id == known.id)
        .values(
            details=dict(finding.details),
            found_at=known.found_at if is_open else cause.at,
            resolved_at=None,
            resolved_by=None,
            resolution=None,
        )
    )
    before = {"details": known.details, "resolved_by": known.resolved_by, "resolution": known.resolution}
    what = EventType.FINDING_CHANGED if is_open else EventType.FINDING_REOPENED
    _record_finding_event(connection, what, finding, cause, finding.details, before=before)


def details_of_known(connection: Connection, kind: str, coverage: str, subject: str) -> Mapping[str, Any] | None:
    """The details of a finding, open or resolved, as they were written last; None if it was never found."""
    details: Mapping[str, Any] | None = connection.scalar(
        select(findings.c.details).where(
            findings.c.kind == kind, findings.c.coverage == coverage, findings.c.subject == subject
        )
    )
    return details


def resolve_finding(connection: Connection, kind: str, coverage: str, subject: str, cause: Cause) -> bool:
    """Resolve an open finding with the cause's reason; False if none is open."""
    resolved = connection.execute(
        update(findings)
        .where(
            findings.c.kind == kind,
            findings.c.coverage == coverage,
            findings.c.subject == subject,
            findings.c.resolved_at.is_(None),
        )
        .values(resolved_at=cause.at, resolved_by=cause.actor, resolution=cause.reason)
        .returning(findings.c.details, findings.c.payment_id)
    ).one_or_none()
    if resolved is None:
        return False
    finding = Finding(kind, coverage, subject, resolved.details, resolved.payment_id)
    _record_finding_event(
        connection, EventType.FINDING_RESOLVED, finding, cause, {"kind": kind}, reason=cause.reason
    )
    return True


def resolve_finding_by_id(connection: Connection, finding_id: UUID, cause: Cause) -> bool:
    """Resolve a finding for an operator, with name and reason; False if it was resolved already.

    LookupError if there is no such finding, or if no reason is given.
    """
    if not cause.reason.strip():
        raise LookupError("--reason is empty: say what you found and did; it is kept in the billing events")
    known = connection.execute(select(findings).where(findings.c.id == finding_id)).one_or_none()
    if known is None:
        raise LookupError(f"there is no finding {finding_id}; `duecourse findings list --all` shows all")
    return resolve_finding(connection, known.kind, known.coverage, known.subject, cause)


def _record_finding_event(
    connection: Connection,
    what: EventType,
    finding: Finding,
    cause: Cause,
    data: Mapping[str, Any],
    *,
    before: Mapping[str, Any] | None = None,
    reason: str | None = None,
) -> None:
    record_event(
        connection,
        BillingEvent(
            type=what,
            at=cause.at,
            actor=cause.actor,
            reason=reason or finding.kind,
            account_id=finding.account_id,
            payment_id=finding.payment_id,
            attempt_id=cause.attempt_id,
            run_id=cause.run_id,
            before=before or {},
            data={"coverage": finding.coverage, "subject": finding.subject, **data},
        ),
    )
