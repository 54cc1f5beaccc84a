"""Runs the phases chunk by chunk. One transaction writes a chunk's results and its progress."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from uuid import UUID

from sqlalchemy import Connection, delete, func
from sqlalchemy.dialects.postgresql import insert

from shared.db.session import in_transaction
from shared.db.tables.system import listed_charges
from shared.payments.receipts import resolve_finding
from shared.reconciliation.charges import compare_charges
from shared.reconciliation.chunk import ROWS_OF_A_KIND, Chunk, Reconciliation
from shared.reconciliation.classify import Kind
from shared.reconciliation.intents import compare_payment_intents
from shared.reconciliation.paid import check_paid_payments, check_receipts
from shared.reconciliation.progress import Journal, Phase, Progress
from shared.reconciliation.repair import hold, mark_canceled, write_new_finding
from shared.reconciliation.unpaid import check_unpaid_payments

PHASES: Mapping[Phase, Callable[[Reconciliation, str | None], Chunk]] = {
    Phase.CHARGES: compare_charges,
    Phase.RECEIPTS: check_receipts,
    Phase.PAID: check_paid_payments,
    Phase.UNPAID: check_unpaid_payments,
    Phase.INTENTS: compare_payment_intents,
}

#: Rows left by a reconciliation that was killed for good (an operator's, at a terminal) are deleted after this.
LEFTOVERS_AFTER = timedelta(days=7)


def run_chunk(reconciliation: Reconciliation, progress: Progress, journal: Journal) -> Progress | None:
    """Run one chunk; return the progress after it, or None if another worker advanced it meanwhile.

    Raises ProcessorUnavailableError. Then nothing of the chunk is saved; the next one finds the same differences.
    """
    requests_before = reconciliation.processor.requests
    chunk = PHASES[progress.phase](reconciliation, progress.after)
    chunk.counts["requests"] += reconciliation.processor.requests - requests_before
    for resolved in chunk.resolved:
        if resolved.counted_as:
            chunk.counts[resolved.counted_as] += 1
    after = progress.advanced(chunk.after, chunk.counts, chunk.found_by_kind())

    def conclude(connection: Connection) -> bool:
        if not journal.is_still_at(connection, progress):
            return False
        _write(connection, reconciliation, progress, chunk)
        if after.is_over:
            delete_listed_charges(connection, reconciliation.id)
        journal.save(connection, after, reconciliation.runtime.clock.now())
        return True

    is_saved = in_transaction(reconciliation.runtime.engine, conclude, step="reconcile.chunk")
    return after if is_saved else None


def delete_listed_charges(connection: Connection, reconciliation_id: UUID) -> None:
    """Delete the charges listed by a reconciliation, and old leftovers of others."""
    is_left_over = listed_charges.c.created_at < func.clock_timestamp() - LEFTOVERS_AFTER
    connection.execute(
        delete(listed_charges).where((listed_charges.c.reconciliation_id == reconciliation_id) | is_left_over)
    )


def _write(connection: Connection, reconciliation: Reconciliation, progress: Progress, chunk: Chunk) -> None:
    if chunk.listed:
        rows = [{"reconciliation_id": reconciliation.id, "stripe_charge_id": one} for one in chunk.listed]
        connection.execute(insert(listed_charges).on_conflict_do_nothing(), rows)
    written = dict(progress.found)
    for one in chunk.found:
        written[one.kind] = written.get(one.kind, 0) + 1
        if written[one.kind] <= ROWS_OF_A_KIND:
            write_new_finding(connection, reconciliation, one)
        if one.kind is Kind.PAID_THERE_OPEN_HERE and one.payment_id is not None:
            hold(connection, reconciliation, one.payment_id)
    for resolved in chunk.resolved:
        cause = reconciliation.cause(resolved.resolution)
        resolve_finding(connection, resolved.kind, reconciliation.coverage, resolved.subject, cause)
    for stripe_id, reason in chunk.canceled.items():
        mark_canceled(connection, reconciliation.coverage, stripe_id, reason)
