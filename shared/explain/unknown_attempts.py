"""Attempts with unknown outcome, for operators."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import Connection, and_, or_, select

from shared.db.query_terms import is_
from shared.db.tables.accounts import accounts
from shared.db.tables.invoices import invoices
from shared.db.tables.payments import payment_attempts, payment_intents, payments
from shared.domain.states import AttemptState


@dataclass(frozen=True)
class UnknownAttempt:
    """One attempt with unknown outcome. `age` and `look_up_at` are machine time; the amount is in minor units."""

    attempt_id: UUID
    number: int
    kind: str
    payment_id: UUID
    invoice_number: str | None
    account_external_id: str
    coverage: str
    amount_minor: int
    currency: str
    age: timedelta
    look_ups: int
    look_up_at: datetime | None
    reason: str | None
    stripe_payment_intent_id: str | None


def unknown_attempts(connection: Connection, machine_now: datetime, limit: int = 1_000) -> list[UnknownAttempt]:
    """Return attempts that are unknown, or whose lease expired unsettled; the oldest first, at most `limit`."""
    attempts = payment_attempts.c
    rows = connection.execute(
        select(
            payment_attempts,
            payments.c.amount_minor,
            payments.c.currency,
            invoices.c.number.label("invoice_number"),
            accounts.c.external_id,
            payment_intents.c.stripe_payment_intent_id,
        )
        .join(payments, payments.c.id == attempts.payment_id)
        .join(accounts, accounts.c.id == payments.c.account_id)
        .join(payment_intents, payment_intents.c.id == attempts.payment_intent_id)
        .join(invoices, invoices.c.id == payments.c.invoice_id, isouter=True)
        .where(
            or_(
                is_(attempts.state, AttemptState.UNKNOWN),
                and_(is_(attempts.state, AttemptState.STARTED), attempts.lease_expires_at <= machine_now),
            )
        )
        .order_by(attempts.created_at)
        .limit(limit)
    )
    return [
        UnknownAttempt(
            attempt_id=row.id,
            number=row.number,
            kind=row.kind,
            payment_id=row.payment_id,
            invoice_number=row.invoice_number,
            account_external_id=row.external_id,
            coverage=row.coverage,
            amount_minor=row.amount_minor,
            currency=row.currency,
            age=max(timedelta(0), machine_now - row.created_at),
            look_ups=row.look_ups,
            look_up_at=row.look_up_at,
            reason=row.outcome_reason,
            stripe_payment_intent_id=row.stripe_payment_intent_id,
        )
        for row in rows
    ]
