"""Money that came in, and what a person must look at: receipts and findings."""

from typing import Any
from uuid import UUID

from sqlalchemy import Connection, exists, select
from sqlalchemy.dialects.postgresql import insert

from shared.collection.payments import Because, PaymentRow
from shared.db.machinery import findings
from shared.db.tables import receipts
from shared.db.trail import TrailEvent, record_event
from shared.gateway.port import PaymentIntentSeen


def record_receipt(
    connection: Connection, payment: PaymentRow, attempt_id: UUID | None, seen: PaymentIntentSeen, because: Because
) -> bool:
    """Write down money that came in, once per charge; False if this charge is in the books already (I8)."""
    written = connection.execute(
        insert(receipts)
        .values(
            payment_id=payment.id,
            attempt_id=attempt_id,
            coverage=payment.coverage,
            stripe_charge_id=seen.latest_charge_id or seen.stripe_id,
            amount_minor=seen.amount_received_minor,
            currency=seen.currency,
            received_at=because.at,
        )
        .on_conflict_do_nothing()
        .returning(receipts.c.id)
    ).one_or_none()
    return written is not None


def has_other_receipt(connection: Connection, payment: PaymentRow, charge_id: str) -> bool:
    """Whether the payment was paid by another charge than this one: then it was paid twice."""
    other = exists().where(receipts.c.payment_id == payment.id, receipts.c.stripe_charge_id != charge_id)
    return bool(connection.scalar(select(other)))


def open_finding(
    connection: Connection, kind: str, payment: PaymentRow, subject: str, details: dict[str, Any], because: Because
) -> None:
    """Ask for a person's eye, once per kind and subject. Details hold ids, codes and amounts only."""
    opened = connection.execute(
        insert(findings)
        .values(
            kind=kind,
            coverage=payment.coverage,
            payment_id=payment.id,
            subject=subject,
            details=details,
            found_at=because.at,
        )
        .on_conflict_do_nothing()
        .returning(findings.c.id)
    ).one_or_none()
    if opened is not None:
        record_event(
            connection,
            TrailEvent(
                type="finding_opened",
                at=because.at,
                actor=because.actor,
                reason=kind,
                account_id=payment.account_id,
                payment_id=payment.id,
                attempt_id=because.attempt_id,
                data={"subject": subject, **details},
            ),
        )
