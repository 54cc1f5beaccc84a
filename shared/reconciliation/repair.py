"""What a reconciliation changes: it records money through `record_observation`, and cancels orphans.

It commits the finding first, then acts, then resolves the finding together with the progress. A process killed in
between leaves a finding that the next chunk finds, finishes and counts.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, Update, insert, update

from shared.db.rows import PaymentIntentRow, PaymentRow
from shared.db.session import in_transaction
from shared.db.tables.payments import payment_intents
from shared.domain.calendar import UNTIL_RELEASED, waits_for_operator
from shared.domain.states import CHARGEABLE, WAITING_FOR_CARD, PaymentState
from shared.gateway.port import STRIPE_API_VERSION, PaymentIntentSnapshot
from shared.payments.claim import KEY_GOOD_FOR
from shared.payments.locked_rows import lock_intents, lock_payment
from shared.payments.receipts import Finding, write_finding
from shared.payments.record_outcome import record_observation
from shared.payments.state_changes import move_payment, open_attempt
from shared.reconciliation.chunk import Reconciliation
from shared.reconciliation.classify import ORDINAL, Found

SUCCEEDED, ABANDONED = "succeeded", "abandoned"


def commit_findings(reconciliation: Reconciliation, found: Iterable[Found]) -> None:
    """Commit the findings before anything is done about them."""

    def work(connection: Connection) -> None:
        for one in found:
            write_new_finding(connection, reconciliation, one)

    in_transaction(reconciliation.runtime.engine, work, step="reconcile.announce")


def write_new_finding(connection: Connection, reconciliation: Reconciliation, one: Found) -> None:
    """Write one finding, in the caller's transaction."""
    finding = Finding(one.kind, reconciliation.coverage, one.subject, one.details, one.payment_id, one.account_id)
    write_finding(connection, finding, reconciliation.cause(f"reconciliation: {one.kind}"))


def record_if_paid(reconciliation: Reconciliation, payment_id: UUID, stripe_payment_intent_id: str) -> None:
    """Retrieve a PaymentIntent and, if it is paid, record that as its webhook would.

    Do nothing while its payment has an open attempt: that attempt's answer or settlement will record it.
    """
    answer = reconciliation.processor.payment_intent(stripe_payment_intent_id)
    if answer is None or answer.payment_intent is None or answer.payment_intent.status != SUCCEEDED:
        return
    snapshot, runtime = answer.payment_intent, reconciliation.runtime

    def work(connection: Connection) -> UUID | None:
        return _row_for_money(connection, reconciliation, payment_id, snapshot)

    row_id = in_transaction(runtime.engine, work, step="reconcile.row")
    if row_id is not None:
        record_observation(runtime, row_id, answer, reconciliation.actor)


@dataclass(frozen=True)
class Orphan:
    """A PaymentIntent at the processor that no attempt of ours will ever confirm."""

    payment_id: UUID
    snapshot: PaymentIntentSnapshot


def cancel_orphan(reconciliation: Reconciliation, orphan: Orphan, found: Found) -> PaymentIntentSnapshot | None:
    """Make sure that no claim can use an orphan, then cancel it; return the processor's state afterwards.

    None if it isn't an orphan: its payment has an open attempt now, or its create may be sent again.
    """

    def abandon(connection: Connection) -> bool:
        payment = lock_payment(connection, orphan.payment_id)
        if open_attempt(connection, payment.id) is not None:
            return False
        if not _abandon(connection, reconciliation, payment, orphan.snapshot):
            return False
        write_new_finding(connection, reconciliation, found)
        return True

    is_abandoned = in_transaction(reconciliation.runtime.engine, abandon, step="reconcile.abandon")
    if not is_abandoned:
        return None
    return reconciliation.processor.cancel(orphan.snapshot.stripe_id)


def hold(connection: Connection, reconciliation: Reconciliation, payment_id: UUID) -> None:
    """Hold a payment that was charged at the processor and can't be recorded: it must not be charged again."""
    payment = lock_payment(connection, payment_id)
    is_held = payment.held_until is not None and waits_for_operator(payment.held_until)
    if payment.state not in CHARGEABLE | WAITING_FOR_CARD or is_held or open_attempt(connection, payment_id):
        return
    cause = reconciliation.cause("the processor has a charge for it that can't be recorded: an operator decides")
    move_payment(
        connection,
        payment,
        PaymentState.DUE,
        cause,
        next_attempt_at=payment.next_attempt_at or cause.at,
        held_until=UNTIL_RELEASED,
    )


def mark_canceled(connection: Connection, coverage: str, stripe_id: str, reason: str | None) -> None:
    """Mark an orphan's row, if it has one, as canceled."""
    connection.execute(
        update(payment_intents)
        .where(
            payment_intents.c.coverage == coverage,
            payment_intents.c.stripe_payment_intent_id == stripe_id,
            payment_intents.c.closed_reason == ABANDONED,
        )
        .values(status="canceled", closed_reason="canceled", cancellation_reason=reason)
    )


def _row_for_money(
    connection: Connection, reconciliation: Reconciliation, payment_id: UUID, snapshot: PaymentIntentSnapshot
) -> UUID | None:
    """Return our row of a paid PaymentIntent; insert it if it was lost. None while an attempt is open."""
    payment = lock_payment(connection, payment_id)
    if open_attempt(connection, payment_id) is not None:
        return None
    rows = lock_intents(connection, payment_id)
    row = _with_id(rows, snapshot) or _without_id(rows, snapshot)
    if row is None:
        return _insert_closed(connection, reconciliation, payment, snapshot, ordinal=len(rows) + 1)
    if row.stripe_payment_intent_id is None:
        connection.execute(_of(row).values(stripe_payment_intent_id=snapshot.stripe_id, status=snapshot.status))
    return row.id


def _abandon(
    connection: Connection, reconciliation: Reconciliation, payment: PaymentRow, snapshot: PaymentIntentSnapshot
) -> bool:
    """Use up the orphan's ordinal, and with it its create's key. False if a row of ours still needs the orphan.

    The payment is locked and has no open attempt, so no claim reads its PaymentIntents meanwhile.
    """
    rows = lock_intents(connection, payment.id)
    row = _with_id(rows, snapshot)
    if row is not None:
        return row.closed_reason == ABANDONED
    row = _without_id(rows, snapshot)
    if row is not None:
        if row.closed_reason is None and not _is_create_given_up(row, reconciliation):
            return False
        closed_at = row.closed_at or reconciliation.runtime.clock.now()
        shown = {"stripe_payment_intent_id": snapshot.stripe_id, "status": snapshot.status}
        connection.execute(_of(row).values(**shown, closed_reason=ABANDONED, closed_at=closed_at))
        return True
    latest = rows[-1].closed_reason if rows else ABANDONED
    if latest in (ABANDONED, "canceled") and ordinal_of(snapshot) == len(rows) + 1:
        _insert_closed(connection, reconciliation, payment, snapshot, ordinal=len(rows) + 1)
    return True


def ordinal_of(snapshot: PaymentIntentSnapshot) -> int | None:
    """The PaymentIntent's ordinal within its payment, from its metadata."""
    ordinal = snapshot.metadata.get(ORDINAL, "")
    return int(ordinal) if ordinal.isdecimal() else None


def _is_create_given_up(row: PaymentIntentRow, reconciliation: Reconciliation) -> bool:
    """Whether no claim will send this row's create again: the rule is the claim's own (I6)."""
    good_since = reconciliation.runtime.machine_now() - KEY_GOOD_FOR
    return row.first_sent_at is None or row.first_sent_at < good_since


def _with_id(rows: Iterable[PaymentIntentRow], snapshot: PaymentIntentSnapshot) -> PaymentIntentRow | None:
    return next((row for row in rows if row.stripe_payment_intent_id == snapshot.stripe_id), None)


def _without_id(rows: Iterable[PaymentIntentRow], snapshot: PaymentIntentSnapshot) -> PaymentIntentRow | None:
    """The row whose create made this PaymentIntent and never got its id."""
    ordinal = ordinal_of(snapshot)
    return next((row for row in rows if row.ordinal == ordinal and row.stripe_payment_intent_id is None), None)


def _of(row: PaymentIntentRow) -> Update:
    return update(payment_intents).where(payment_intents.c.id == row.id)


def _insert_closed(
    connection: Connection,
    reconciliation: Reconciliation,
    payment: PaymentRow,
    snapshot: PaymentIntentSnapshot,
    *,
    ordinal: int,
) -> UUID:
    """Insert the row that a lost create or a lost database should have left. It is closed: nothing confirms it."""
    inserted: UUID = connection.execute(
        insert(payment_intents)
        .values(
            payment_id=payment.id,
            ordinal=ordinal,
            coverage=payment.coverage,
            amount_minor=snapshot.amount_minor,
            currency=snapshot.currency,
            stripe_customer_id=snapshot.stripe_customer_id or "",
            stripe_payment_intent_id=snapshot.stripe_id,
            api_version=STRIPE_API_VERSION,
            status=snapshot.status,
            closed_reason=ABANDONED,
            closed_at=reconciliation.runtime.clock.now(),
        )
        .returning(payment_intents.c.id)
    ).scalar_one()
    return inserted
