"""The walk: chunk after chunk through the phases. What a chunk found and how far it came are one transaction."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from uuid import UUID

from sqlalchemy import Connection, delete, func
from sqlalchemy.dialects.postgresql import insert

from shared.db.session import in_transaction
from shared.db.tables.system import listed_charges
from shared.failpoints import Failpoint, reach
from shared.payments.receipts import resolve_finding
from shared.reconciliation.charges import walk_charges
from shared.reconciliation.chunk import ROWS_OF_A_KIND, Chunk, Reconciliation
from shared.reconciliation.classify import Kind
from shared.reconciliation.intents import walk_intents
from shared.reconciliation.paid import walk_paid, walk_receipts
from shared.reconciliation.progress import Journal, Phase, Progress
from shared.reconciliation.repair import hold, note_cancellation, write_found
from shared.reconciliation.unpaid import walk_unpaid

PHASES: Mapping[Phase, Callable[[Reconciliation, str | None], Chunk]] = {
    Phase.CHARGES: walk_charges,
    Phase.RECEIPTS: walk_receipts,
    Phase.PAID: walk_paid,
    Phase.UNPAID: walk_unpaid,
    Phase.INTENTS: walk_intents,
}

#: What a reconciliation that was killed for good (a person's, at a terminal) left behind is removed after this.
LEFTOVERS_AFTER = timedelta(days=7)


def walk_on(reconciliation: Reconciliation, progress: Progress, journal: Journal) -> Progress | None:
    """Do one chunk; return the progress after it, or None if somebody else moved on meanwhile.

    Raises ProcessorAwayError; then nothing of the chunk is kept, and what it began to mend is found again.
    """
    asked_before = reconciliation.processor.requests
    chunk = PHASES[progress.phase](reconciliation, progress.after)
    chunk.counts["requests"] += reconciliation.processor.requests - asked_before
    for resolved in chunk.resolved:
        if resolved.counted_as:
            chunk.counts[resolved.counted_as] += 1
    after = progress.advanced(chunk.after, chunk.counts, chunk.found_by_kind())

    def conclude(connection: Connection) -> bool:
        if not journal.is_still_at(connection, progress):
            return False
        _write(connection, reconciliation, progress, chunk)
        if after.is_over:
            forget_listed(connection, reconciliation.id)
        journal.keep(connection, after, reconciliation.runtime.clock.now())
        reach(Failpoint.RECONCILE_CHUNK_BEFORE_COMMIT)
        return True

    reach(Failpoint.RECONCILE_CHUNK_SEEN)
    is_kept = in_transaction(reconciliation.runtime.engine, conclude)
    reach(Failpoint.RECONCILE_CHUNK_COMMITTED)
    return after if is_kept else None


def forget_listed(connection: Connection, reconciliation_id: UUID) -> None:
    """Drop what a reconciliation noted of the processor's list, and old leftovers of others."""
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
            write_found(connection, reconciliation, one)
        if one.kind is Kind.PAID_THERE_OPEN_HERE and one.payment_id is not None:
            hold(connection, reconciliation, one.payment_id)
    for resolved in chunk.resolved:
        cause = reconciliation.cause(resolved.resolution)
        resolve_finding(connection, resolved.kind, reconciliation.coverage, resolved.subject, cause)
    for stripe_id, reason in chunk.canceled.items():
        note_cancellation(connection, reconciliation.coverage, stripe_id, reason)
