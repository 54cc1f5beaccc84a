"""Finds orphans among the processor's PaymentIntents: those left by a lost create or a lost database.

An orphan moves no money until it is confirmed. Reconciliation cancels a PaymentIntent that is ours, can still
be confirmed, and has no id in our records. It leaves one that the next claim would get again under its key.
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

#: States in which a PaymentIntent holds no money and can be confirmed.
CONFIRMABLE = frozenset({"requires_payment_method", "requires_confirmation", "requires_action"})
CANCELED = "canceled"
ORPHANS_CANCELED = "orphans_canceled"
#: Final states of an orphan: the text that resolves its finding, and how it is counted.
_ENDS: Mapping[str | None, tuple[str, str]] = {
    CANCELED: ("canceled at the processor; it held no money", ORPHANS_CANCELED),
    SUCCEEDED: ("it was confirmed meanwhile; its charge is compared like any other", ""),
}

_RECORDS = text(f"""
    SELECT s.intent_id, s.payment_id, i.id IS NOT NULL AS is_known, i.closed_reason, p.id AS our_payment_id,
           p.account_id,
           EXISTS (SELECT FROM findings f WHERE f.kind = '{Kind.ORPHAN_PAYMENT_INTENT}' AND f.coverage = :coverage
                   AND f.subject = s.intent_id AND f.resolved_at IS NULL) AS is_being_canceled
    FROM unnest(CAST(:intents AS text[]), CAST(:payments AS uuid[])) AS s (intent_id, payment_id)
    LEFT JOIN payment_intents i ON i.coverage = :coverage AND i.stripe_payment_intent_id = s.intent_id
    LEFT JOIN payments p ON p.id = s.payment_id AND p.coverage = :coverage
""")  # noqa: S608  # our own word


class IntentCount(StrEnum):
    """How a PaymentIntent is counted; one in our records is not counted."""

    KNOWN = ""
    OTHERS = "payment_intents_of_others"
    #: It names a payment that isn't in this database, perhaps another installation's. It moves no money.
    OF_UNKNOWN_PAYMENT = "payment_intents_of_unknown_payments"
    LEFT_TO_ITS_CLAIM = "payment_intents_left_to_their_claim"
    ORPHAN = "orphans"


@dataclass(frozen=True)
class OurIntentRecord:
    """What our records say about one PaymentIntent at the processor."""

    is_known: bool
    closed_reason: str | None
    payment_id: UUID | None
    account_id: UUID | None
    is_being_canceled: bool


def compare_payment_intents(reconciliation: Reconciliation, after: str | None) -> Chunk:
    """Compare one page of PaymentIntents. Retrieve an orphan again before canceling it."""
    page = reconciliation.processor.payment_intents(reconciliation.window, after)
    records = _records_of(reconciliation, page.items)
    chunk = Chunk(page.after)
    for snapshot in page.items:
        held = records[snapshot.stripe_id]
        classified = classify_intent(
            snapshot, held, reconciliation.coverage, reconciliation.runtime.policy.coverages
        )
        if classified is IntentCount.ORPHAN and held.payment_id is not None:
            classified = _cancel(reconciliation, chunk, snapshot, held)
        if classified is not IntentCount.KNOWN:
            chunk.counts[classified] += 1
    chunk.counts["payment_intents"] = len(page.items)
    return chunk


def classify_intent(
    snapshot: PaymentIntentSnapshot, held: OurIntentRecord, coverage: str, coverages: Collection[str]
) -> IntentCount:
    """Classify a PaymentIntent on the account that `coverage` has at the processor. Pure."""
    tagged_coverage = snapshot.metadata.get(COVERAGE)
    if PAYMENT_ID not in snapshot.metadata or (tagged_coverage != coverage and tagged_coverage in coverages):
        return IntentCount.OTHERS
    if held.is_being_canceled:
        return IntentCount.ORPHAN
    if snapshot.status not in CONFIRMABLE or (held.is_known and held.closed_reason != ABANDONED):
        return IntentCount.KNOWN
    return IntentCount.OF_UNKNOWN_PAYMENT if held.payment_id is None else IntentCount.ORPHAN


def _cancel(
    reconciliation: Reconciliation, chunk: Chunk, listed: PaymentIntentSnapshot, held: OurIntentRecord
) -> IntentCount:
    answer = reconciliation.processor.payment_intent(listed.stripe_id)
    if answer is None or answer.payment_intent is None or held.payment_id is None:
        return IntentCount.KNOWN
    now: PaymentIntentSnapshot | None = answer.payment_intent
    found = _found(answer.payment_intent, held)
    if answer.payment_intent.status in CONFIRMABLE:
        now = cancel_orphan(reconciliation, Orphan(held.payment_id, answer.payment_intent), found)
        if now is None:
            return IntentCount.LEFT_TO_ITS_CLAIM
    elif not held.is_being_canceled:
        return IntentCount.KNOWN
    status = None if now is None else now.status
    if now is not None and status == CANCELED:
        chunk.canceled[listed.stripe_id] = now.cancellation_reason
    if status in _ENDS:
        words, counted_as = _ENDS[status]
        chunk.resolved.append(Resolved(Kind.ORPHAN_PAYMENT_INTENT, listed.stripe_id, words, counted_as))
    else:
        chunk.found.append(found)
    return IntentCount.ORPHAN


def _found(snapshot: PaymentIntentSnapshot, held: OurIntentRecord) -> Found:
    details = {
        "payment_intent_id": snapshot.stripe_id,
        "amount_minor": snapshot.amount_minor,
        "currency": snapshot.currency,
        "ordinal": snapshot.metadata.get("duecourse_ordinal"),
    }
    return Found(Kind.ORPHAN_PAYMENT_INTENT, snapshot.stripe_id, details, held.payment_id, held.account_id)


def _records_of(
    reconciliation: Reconciliation, page: Sequence[PaymentIntentSnapshot]
) -> Mapping[str, OurIntentRecord]:
    parameters = {
        "coverage": reconciliation.coverage,
        "intents": [snapshot.stripe_id for snapshot in page],
        "payments": [payment_id_of(snapshot.metadata) for snapshot in page],
    }
    with reconciliation.runtime.engine.connect() as connection:
        return {row.intent_id: _read(row) for row in connection.execute(_RECORDS, parameters)}


def _read(row: Row[Any]) -> OurIntentRecord:
    return OurIntentRecord(
        row.is_known, row.closed_reason, row.our_payment_id, row.account_id, row.is_being_canceled
    )
