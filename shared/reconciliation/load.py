"""Loads our records of a page of charges, in one query."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, text

from shared.domain.states import PaymentState
from shared.gateway.port import ChargeReadBack
from shared.reconciliation.classify import PAYMENT_ID, Kind, KnownReceipt, OurRecords

#: A charge's payment is found by its PaymentIntent in our records, or else by our metadata. A receipt carries the
#: PaymentIntent's id if the charge's id was unknown when it was written.
_RECORDS = text(f"""
    WITH listed AS (
        SELECT * FROM unnest(CAST(:charges AS text[]), CAST(:intents AS text[]), CAST(:payments AS uuid[]),
                             CAST(:customers AS text[])) AS s (charge_id, intent_id, tagged_payment_id, customer_id)
    )
    SELECT s.charge_id, i.id IS NOT NULL AS has_payment_intent, p.id AS payment_id, p.account_id, p.state,
           p.amount_minor, p.currency, r.amount_minor AS booked_minor, r.currency AS booked_currency,
           r.payment_id AS booked_payment_id,
           EXISTS (SELECT FROM payment_settings c
                   WHERE c.coverage = :coverage AND c.stripe_customer_id = s.customer_id) AS is_customer_ours,
           EXISTS (SELECT FROM payment_attempts a
                   WHERE a.payment_id = p.id AND a.state IN ('started', 'unknown')) AS has_open_attempt,
           EXISTS (SELECT FROM receipts o WHERE o.payment_id = r.payment_id AND o.id <> r.id
                   AND (o.created_at, o.id) < (r.created_at, r.id)) AS is_later,
           EXISTS (SELECT FROM receipts o WHERE o.payment_id = p.id AND r.id IS NULL) AS has_other_receipt,
           EXISTS (SELECT FROM findings f WHERE f.kind = '{Kind.PAID_THERE_OPEN_HERE}' AND f.coverage = :coverage
                   AND f.subject = s.charge_id AND f.resolved_at IS NULL) AS is_being_fixed
    FROM listed s
    LEFT JOIN payment_intents i ON i.coverage = :coverage AND i.stripe_payment_intent_id = s.intent_id
    LEFT JOIN payments p ON p.id = coalesce(i.payment_id, s.tagged_payment_id) AND p.coverage = :coverage
    LEFT JOIN LATERAL (
        SELECT * FROM receipts r
        WHERE r.coverage = :coverage AND r.stripe_charge_id IN (s.charge_id, s.intent_id)
        LIMIT 1
    ) r ON true
""")  # noqa: S608  # our own word


def records_of(
    connection: Connection, coverage: str, charges: Sequence[ChargeReadBack]
) -> Mapping[str, OurRecords]:
    """Return our records of each charge, by the charge's id."""
    if not charges:
        return {}
    parameters = {
        "coverage": coverage,
        "charges": [charge.stripe_id for charge in charges],
        "intents": [charge.stripe_payment_intent_id for charge in charges],
        "payments": [payment_id_of(charge.metadata) for charge in charges],
        "customers": [charge.stripe_customer_id for charge in charges],
    }
    return {row.charge_id: _read(row) for row in connection.execute(_RECORDS, parameters)}


def payment_id_of(metadata: Mapping[str, str]) -> UUID | None:
    """Return the payment id in the metadata; None if it is missing or invalid."""
    try:
        return UUID(metadata[PAYMENT_ID])
    except (KeyError, ValueError):
        return None


def _read(row: Row[Any]) -> OurRecords:
    receipt = None
    if row.booked_minor is not None:
        receipt = KnownReceipt(row.booked_payment_id, row.booked_minor, row.booked_currency, is_later=row.is_later)
    return OurRecords(
        payment_id=row.payment_id,
        account_id=row.account_id,
        payment_state=None if row.state is None else PaymentState(row.state),
        amount_minor=row.amount_minor or 0,
        currency=row.currency or "",
        has_payment_intent=row.has_payment_intent,
        is_customer_ours=row.is_customer_ours,
        has_open_attempt=row.has_open_attempt,
        receipt=receipt,
        has_other_receipt=row.has_other_receipt,
        is_being_fixed=row.is_being_fixed,
    )
