"""Checks payments that are paid in our records and missing from the processor's list, one retrieval each.

So a list that lags, or a clock that differs, costs requests and makes no findings.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, TextClause, text

from shared.reconciliation.charges import retrieve_and_compare
from shared.reconciliation.chunk import CHUNK, Chunk, Reconciliation
from shared.reconciliation.classify import Found, Kind
from shared.reconciliation.repair import SUCCEEDED

#: Before every row: no receipt is older, and no id is smaller.
FIRST = "0001-01-01T00:00:00+00:00/00000000-0000-0000-0000-000000000000"

_RECEIPTS = text("""
    SELECT r.id, r.received_at AS at, r.stripe_charge_id, r.payment_id, r.amount_minor, r.currency, p.account_id
    FROM receipts r JOIN payments p ON p.id = r.payment_id
    WHERE r.coverage = :coverage AND r.stripe_charge_id IS NOT NULL
      AND r.received_at >= :begins_at AND r.received_at < :ends_at
      AND (r.received_at, r.id) > (CAST(:after_at AS timestamptz), CAST(:after_id AS uuid))
      AND NOT EXISTS (SELECT FROM listed_charges l
                      WHERE l.reconciliation_id = :id AND l.stripe_charge_id = r.stripe_charge_id)
    ORDER BY r.received_at, r.id LIMIT :chunk
""")
_PAID = text("""
    SELECT p.id, p.paid_at AS at, p.account_id, p.amount_minor, p.currency,
           ARRAY(SELECT i.stripe_payment_intent_id FROM payment_intents i
                 WHERE i.payment_id = p.id AND i.stripe_payment_intent_id IS NOT NULL
                 ORDER BY i.ordinal DESC) AS intent_ids
    FROM payments p
    WHERE p.coverage = :coverage AND p.state = 'paid' AND p.amount_minor > 0
      AND p.paid_at >= :begins_at AND p.paid_at < :ends_at
      AND (p.paid_at, p.id) > (CAST(:after_at AS timestamptz), CAST(:after_id AS uuid))
      AND NOT EXISTS (SELECT FROM receipts r WHERE r.payment_id = p.id)
      AND NOT EXISTS (SELECT FROM payment_attempts a
                      WHERE a.payment_id = p.id AND a.state IN ('started', 'unknown'))
    ORDER BY p.paid_at, p.id LIMIT :chunk
""")


def check_receipts(reconciliation: Reconciliation, after: str | None) -> Chunk:
    """Check receipts of the window whose charge wasn't listed."""
    rows = _rows(reconciliation, _RECEIPTS, after, id=reconciliation.id)
    chunk = Chunk(_page_end(rows))
    chunk.counts["receipts_looked_up"] = len(rows)
    charge_of = {row.id: _charge_of(reconciliation, row.stripe_charge_id) for row in rows}
    missing = {None, *retrieve_and_compare(reconciliation, chunk, list(filter(None, charge_of.values())))}
    chunk.found += [_of_receipt(row) for row in rows if charge_of[row.id] in missing]
    return chunk


def check_paid_payments(reconciliation: Reconciliation, after: str | None) -> Chunk:
    """Check payments that became paid in the window and have no receipt. None of our code leads there."""
    rows = _rows(reconciliation, _PAID, after)
    chunk = Chunk(_page_end(rows))
    charge_of: dict[UUID, str | None] = {}
    for row in rows:
        charges = (_charge_of_intent(reconciliation, intent_id) for intent_id in row.intent_ids)
        charge_of[row.id] = next((charge for charge in charges if charge is not None), None)
    missing = {None, *retrieve_and_compare(reconciliation, chunk, list(filter(None, charge_of.values())))}
    chunk.found += [_of_payment(row) for row in rows if charge_of[row.id] in missing]
    return chunk


def _charge_of(reconciliation: Reconciliation, receipt_names: str) -> str | None:
    """A receipt names its charge, or its PaymentIntent if the charge's id was unknown when it was written."""
    if not receipt_names.startswith("pi_"):
        return receipt_names
    return _charge_of_intent(reconciliation, receipt_names)


def _charge_of_intent(reconciliation: Reconciliation, intent_id: str) -> str | None:
    answer = reconciliation.processor.payment_intent(intent_id)
    if answer is None or answer.payment_intent is None or answer.payment_intent.status != SUCCEEDED:
        return None
    return answer.payment_intent.latest_charge_id


def _of_receipt(row: Row[Any]) -> Found:
    details = {"charge_id": row.stripe_charge_id, "booked_minor": row.amount_minor, "currency": row.currency}
    return Found(Kind.PAID_WITHOUT_CHARGE, row.stripe_charge_id, details, row.payment_id, row.account_id)


def _of_payment(row: Row[Any]) -> Found:
    details = {"charge_id": None, "amount_minor": row.amount_minor, "currency": row.currency}
    return Found(Kind.PAID_WITHOUT_CHARGE, str(row.id), details, row.id, row.account_id)


def _rows(
    reconciliation: Reconciliation, query: TextClause, after: str | None, **more: object
) -> Sequence[Row[Any]]:
    at, _, row_id = (after or FIRST).partition("/")
    parameters = {
        **more,
        "coverage": reconciliation.coverage,
        "begins_at": reconciliation.window.begins_at,
        "ends_at": reconciliation.window.ends_at,
        "after_at": datetime.fromisoformat(at),
        "after_id": row_id,
        "chunk": CHUNK,
    }
    with reconciliation.runtime.engine.connect() as connection:
        return connection.execute(query, parameters).all()


def _page_end(rows: Sequence[Row[Any]]) -> str | None:
    return f"{rows[-1].at.isoformat()}/{rows[-1].id}" if len(rows) == CHUNK else None
