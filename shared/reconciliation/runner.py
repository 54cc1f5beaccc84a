"""Runs the phases chunk by chunk. One transaction writes a chunk's results and its progress."""

from collections import Counter
from collections.abc import Callable, Mapping
from datetime import timedelta
from uuid import UUID

import structlog
from sqlalchemy import Connection, delete, func
from sqlalchemy.dialects.postgresql import insert

from shared.db.session import in_transaction
from shared.db.tables.system import listed_charges
from shared.operations.stripe_event_intake import store_stripe_event
from shared.payments.receipts import resolve_finding
from shared.reconciliation.charges import compare_charges
from shared.reconciliation.chunk import ROWS_OF_A_KIND, Chunk, Reconciliation
from shared.reconciliation.classify import Kind
from shared.reconciliation.events import list_events
from shared.reconciliation.intents import compare_payment_intents
from shared.reconciliation.paid import check_paid_payments, check_receipts
from shared.reconciliation.progress import Journal, Phase, Progress
from shared.reconciliation.repair import hold, mark_canceled, write_new_finding
from shared.reconciliation.unpaid import check_unpaid_payments

PHASES: Mapping[Phase, Callable[[Reconciliation, Progress], Chunk]] = {
    Phase.CHARGES: lambda reconciliation, at: compare_charges(reconciliation, at.after),
    Phase.RECEIPTS: lambda reconciliation, at: check_receipts(reconciliation, at.after),
    Phase.PAID: lambda reconciliation, at: check_paid_payments(reconciliation, at.after),
    Phase.UNPAID: lambda reconciliation, at: check_unpaid_payments(reconciliation, at.after),
    Phase.INTENTS: lambda reconciliation, at: compare_payment_intents(reconciliation, at.after),
    Phase.EVENTS: lambda reconciliation, at: list_events(reconciliation, at.events_from, at.after),
}

log = structlog.get_logger()

#: Rows left by a reconciliation that was killed for good (an operator's, at a terminal) are deleted after this.
LEFTOVERS_AFTER = timedelta(days=7)


def run_chunk(reconciliation: Reconciliation, progress: Progress, journal: Journal) -> Progress | None:
    """Run one chunk; return the progress after it, or None if another worker advanced it meanwhile.

    Raises ProcessorUnavailableError. Then nothing of the chunk is saved; the next one finds the same differences.
    """
    requests_before = reconciliation.processor.requests
    chunk = PHASES[progress.phase](reconciliation, progress)
    chunk.counts["requests"] += reconciliation.processor.requests - requests_before
    for resolved in chunk.resolved:
        if resolved.counted_as:
            chunk.counts[resolved.counted_as] += 1

    def conclude(connection: Connection) -> Progress | None:
        if not journal.is_still_at(connection, progress):
            return None
        _write(connection, reconciliation, progress, chunk)
        counts = chunk.counts + _store_events(connection, reconciliation, chunk)
        after = progress.advanced(chunk.after, counts, chunk.found_by_kind())
        if after.is_over:
            delete_listed_charges(connection, reconciliation.id)
        journal.save(connection, after, reconciliation.runtime.clock.now())
        return after

    return in_transaction(reconciliation.runtime.engine, conclude, step="reconcile.chunk")


def delete_listed_charges(connection: Connection, reconciliation_id: UUID) -> None:
    """Delete the charges listed by a reconciliation, and old leftovers of others."""
    is_left_over = listed_charges.c.created_at < func.clock_timestamp() - LEFTOVERS_AFTER
    connection.execute(
        delete(listed_charges).where((listed_charges.c.reconciliation_id == reconciliation_id) | is_left_over)
    )


def _store_events(connection: Connection, reconciliation: Reconciliation, chunk: Chunk) -> Counter[str]:
    """Store listed events that we lack; the sweep enqueues them. Sorted, so that two workers can't deadlock."""
    listed = sorted(chunk.events, key=lambda event: event.stripe_event_id)
    lacked = [event for event in listed if store_stripe_event(connection, reconciliation.coverage, event)]
    if lacked:
        log.warning(
            "reconciliation.events_were_missing",
            coverage=reconciliation.coverage,
            events=len(lacked),
            first=lacked[0].stripe_event_id,
            what_to_do="check the webhook endpoint in Stripe's dashboard: is it enabled, does it get a 200?",
        )
    return Counter(events_that_were_missing=len(lacked))


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
