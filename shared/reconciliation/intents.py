"""The processor's PaymentIntents, page by page: those that a lost create, or a lost database, left behind.

They move no money, since nobody confirms them; but somebody could. What can still be confirmed and is ours, and
whose id we don't hold, is canceled. One that the next claim would find again under its key is left to that claim.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text

from shared.gateway.port import PaymentIntentSnapshot
from shared.reconciliation.chunk import Chunk, Reconciliation, Resolved
from shared.reconciliation.classify import COVERAGE, PAYMENT_ID, Found, Kind
from shared.reconciliation.load import payment_id_of
from shared.reconciliation.repair import ABANDONED, SUCCEEDED, Orphan, cancel_orphan

#: States in which a PaymentIntent holds no money and could be confirmed.
CONFIRMABLE = frozenset({"requires_payment_method", "requires_confirmation", "requires_action"})
CANCELED = "canceled"
ORPHANS_CANCELED = "orphans_canceled"
#: What ends an orphan: in which words its finding is resolved, and how it is counted.
_ENDS: Mapping[str | None, tuple[str, str]] = {
    CANCELED: ("canceled at the processor; it held no money", ORPHANS_CANCELED),
    SUCCEEDED: ("somebody confirmed it meanwhile; its charge is compared like any other", ""),
}

_BOOKS = text(f"""
    SELECT s.intent_id, s.payment_id, i.id IS NOT NULL AS is_known, i.closed_reason, p.id AS our_payment_id,
           p.account_id,
           EXISTS (SELECT FROM findings f WHERE f.kind = '{Kind.ORPHAN_PAYMENT_INTENT}' AND f.coverage = :coverage
                   AND f.subject = s.intent_id AND f.resolved_at IS NULL) AS is_being_canceled
    FROM unnest(CAST(:intents AS text[]), CAST(:payments AS uuid[])) AS s (intent_id, payment_id)
    LEFT JOIN payment_intents i ON i.coverage = :coverage AND i.stripe_payment_intent_id = s.intent_id
    LEFT JOIN payments p ON p.id = s.payment_id AND p.coverage = :coverage
""")  # noqa: S608  # our own word


class Seen(StrEnum):
    """How a PaymentIntent is counted; one that we hold is not."""

    KNOWN = ""
    OTHERS = "payment_intents_of_others"
    #: It names a payment that isn't in this database: perhaps another installation's. It moves no money.
    OF_UNKNOWN_PAYMENT = "payment_intents_of_unknown_payments"
    LEFT_TO_ITS_CLAIM = "payment_intents_left_to_their_claim"
    ORPHAN = "orphans"


@dataclass(frozen=True)
class IntentInBooks:
    """What our books say of one PaymentIntent at the processor."""

    is_known: bool
    closed_reason: str | None
    payment_id: UUID | None
    account_id: UUID | None
    is_being_canceled: bool


def walk_intents(reconciliation: Reconciliation, after: str | None) -> Chunk:
    """One page of PaymentIntents. An orphan is looked at once more before it is canceled."""
    page = reconciliation.processor.payment_intents(reconciliation.window, after)
    books = _books_of(reconciliation, page.items)
    chunk = Chunk(page.after)
    for snapshot in page.items:
        held = books[snapshot.stripe_id]
        judged = classify_intent(snapshot, held, reconciliation.coverage, reconciliation.runtime.policy.coverages)
        if judged is Seen.ORPHAN and held.payment_id is not None:
            judged = _cancel(reconciliation, chunk, snapshot, held)
        if judged is not Seen.KNOWN:
            chunk.counts[judged] += 1
    chunk.counts["payment_intents"] = len(page.items)
    return chunk


def classify_intent(
    snapshot: PaymentIntentSnapshot, held: IntentInBooks, coverage: str, coverages: Collection[str]
) -> Seen:
    """Say what a PaymentIntent of the account that `coverage` has at the processor is to us. Pure."""
    said = snapshot.metadata.get(COVERAGE)
    if PAYMENT_ID not in snapshot.metadata or (said != coverage and said in coverages):
        return Seen.OTHERS
    if held.is_being_canceled:
        return Seen.ORPHAN
    if snapshot.status not in CONFIRMABLE or (held.is_known and held.closed_reason != ABANDONED):
        return Seen.KNOWN
    return Seen.OF_UNKNOWN_PAYMENT if held.payment_id is None else Seen.ORPHAN


def _cancel(
    reconciliation: Reconciliation, chunk: Chunk, listed: PaymentIntentSnapshot, held: IntentInBooks
) -> Seen:
    answer = reconciliation.processor.payment_intent(listed.stripe_id)
    if answer is None or answer.payment_intent is None or held.payment_id is None:
        return Seen.KNOWN
    now: PaymentIntentSnapshot | None = answer.payment_intent
    found = _found(answer.payment_intent, held)
    if answer.payment_intent.status in CONFIRMABLE:
        now = cancel_orphan(reconciliation, Orphan(held.payment_id, answer.payment_intent), found)
        if now is None:
            return Seen.LEFT_TO_ITS_CLAIM
    elif not held.is_being_canceled:
        return Seen.KNOWN
    status = None if now is None else now.status
    if now is not None and status == CANCELED:
        chunk.canceled[listed.stripe_id] = now.cancellation_reason
    if status in _ENDS:
        words, counted_as = _ENDS[status]
        chunk.resolved.append(Resolved(Kind.ORPHAN_PAYMENT_INTENT, listed.stripe_id, words, counted_as))
    else:
        chunk.found.append(found)
    return Seen.ORPHAN


def _found(snapshot: PaymentIntentSnapshot, held: IntentInBooks) -> Found:
    details = {
        "payment_intent_id": snapshot.stripe_id,
        "amount_minor": snapshot.amount_minor,
        "currency": snapshot.currency,
        "ordinal": snapshot.metadata.get("duecourse_ordinal"),
    }
    return Found(Kind.ORPHAN_PAYMENT_INTENT, snapshot.stripe_id, details, held.payment_id, held.account_id)


def _books_of(reconciliation: Reconciliation, page: Sequence[PaymentIntentSnapshot]) -> Mapping[str, IntentInBooks]:
    parameters = {
        "coverage": reconciliation.coverage,
        "intents": [snapshot.stripe_id for snapshot in page],
        "payments": [payment_id_of(snapshot.metadata) for snapshot in page],
    }
    with reconciliation.runtime.engine.connect() as connection:
        return {row.intent_id: _read(row) for row in connection.execute(_BOOKS, parameters)}


def _read(row: Row[Any]) -> IntentInBooks:
    return IntentInBooks(row.is_known, row.closed_reason, row.our_payment_id, row.account_id, row.is_being_canceled)
