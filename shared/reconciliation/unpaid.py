"""Checks payments that were charged in the window and are unpaid in our records, one retrieval each."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text

from shared.payments.record_outcome import record_observation
from shared.reconciliation.charges import retrieve_and_compare
from shared.reconciliation.chunk import CHUNK, Chunk, Reconciliation
from shared.reconciliation.repair import SUCCEEDED

#: Sorts before every id.
FIRST = UUID(int=0)

#: Settlement resolves an open attempt, so those are skipped. Live PaymentIntents are few, and indexed as such.
_UNPAID = text("""
    SELECT i.id, i.payment_id, i.stripe_payment_intent_id
    FROM payment_intents i JOIN payments p ON p.id = i.payment_id
    WHERE i.closed_reason IS NULL AND i.stripe_payment_intent_id IS NOT NULL AND i.coverage = :coverage
      AND i.payment_id > CAST(:after AS uuid) AND p.state <> 'paid'
      AND EXISTS (SELECT FROM payment_attempts a WHERE a.payment_intent_id = i.id
                  AND a.started_at >= :begins_at AND a.started_at < :ends_at)
      AND NOT EXISTS (SELECT FROM payment_attempts a
                      WHERE a.payment_id = p.id AND a.state IN ('started', 'unknown'))
    ORDER BY i.payment_id LIMIT :chunk
""")


def check_unpaid_payments(reconciliation: Reconciliation, after: str | None) -> Chunk:
    """Retrieve each PaymentIntent that can still be confirmed and was charged in the window."""
    rows = _rows(reconciliation, after)
    chunk = Chunk(str(rows[-1].payment_id) if len(rows) == CHUNK else None)
    charge_ids = []
    for row in rows:
        chunk.counts["unpaid_looked_up"] += 1
        answer = reconciliation.processor.payment_intent(row.stripe_payment_intent_id)
        if answer is None or answer.payment_intent is None:
            continue
        snapshot = answer.payment_intent
        if snapshot.status == SUCCEEDED and snapshot.latest_charge_id is not None:
            charge_ids.append(snapshot.latest_charge_id)
        elif snapshot.status == "canceled":  # the webhook that reported this was lost
            record_observation(reconciliation.runtime, row.id, answer, reconciliation.actor)
            chunk.counts["canceled_there"] += 1
    retrieve_and_compare(reconciliation, chunk, charge_ids)
    return chunk


def _rows(reconciliation: Reconciliation, after: str | None) -> Sequence[Row[Any]]:
    parameters = {
        "coverage": reconciliation.coverage,
        "begins_at": reconciliation.window.begins_at,
        "ends_at": reconciliation.window.ends_at,
        "after": after or FIRST,
        "chunk": CHUNK,
    }
    with reconciliation.runtime.engine.connect() as connection:
        return connection.execute(_UNPAID, parameters).all()
