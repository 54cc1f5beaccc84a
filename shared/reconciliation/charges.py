"""Compares the processor's charges with our records, page by page, and concludes what each charge leads to."""

from collections.abc import Sequence

from shared.gateway.port import ChargeReadBack
from shared.reconciliation.chunk import Chunk, Reconciliation, Resolved
from shared.reconciliation.classify import CountedAs, Kind, Verdict, classify_charge
from shared.reconciliation.load import records_of
from shared.reconciliation.repair import commit_findings, record_if_paid

FIXED = "mended"


def compare_charges(reconciliation: Reconciliation, after: str | None) -> Chunk:
    """Compare one page of the processor's list. Retrieve a suspicious charge again before concluding anything."""
    page = reconciliation.processor.charges(reconciliation.window, after)
    succeeded = [charge for charge in page.items if has_money(charge)]
    verdicts = _classify(reconciliation, succeeded)
    chunk = Chunk(page.after, listed=[charge.stripe_id for charge in succeeded])
    chunk.counts["charges"] = len(succeeded)
    suspects = []
    for charge in succeeded:
        verdict = verdicts[charge.stripe_id]
        if verdict.found or verdict.is_being_fixed:
            suspects.append(charge.stripe_id)
        else:
            chunk.counts[verdict.counted_as] += 1
    chunk.counts["not_shown_again"] = len(retrieve_and_compare(reconciliation, chunk, suspects))
    return chunk


def retrieve_and_compare(reconciliation: Reconciliation, chunk: Chunk, charge_ids: Sequence[str]) -> set[str]:
    """Retrieve charges and compare them; return the ids of those that took no money or don't exist."""
    snapshot = [charge for one in charge_ids if (charge := reconciliation.processor.charge(one)) is not None]
    with_money = [charge for charge in snapshot if has_money(charge)]
    compare_and_fix(reconciliation, chunk, with_money)
    return set(charge_ids) - {charge.stripe_id for charge in with_money}


def has_money(charge: ChargeReadBack) -> bool:
    """Whether a charge took money. Declined charges and authorization holds did not."""
    return charge.is_paid and charge.amount_captured_minor > 0


def compare_and_fix(reconciliation: Reconciliation, chunk: Chunk, charges: Sequence[ChargeReadBack]) -> None:
    """Classify charges that were just retrieved, fix what can be fixed, then classify them again."""
    verdicts = _classify(reconciliation, charges)
    to_fix = [one for verdict in verdicts.values() for one in verdict.found if one.fixed_by is not None]
    if to_fix:
        commit_findings(reconciliation, to_fix)
        for one in to_fix:
            if one.payment_id is not None and one.fixed_by is not None:
                record_if_paid(reconciliation, one.payment_id, one.fixed_by)
        verdicts = _classify(reconciliation, charges)
    for charge in charges:
        _conclude(chunk, charge, verdicts[charge.stripe_id])


def _classify(reconciliation: Reconciliation, charges: Sequence[ChargeReadBack]) -> dict[str, Verdict]:
    with reconciliation.runtime.engine.connect() as connection:
        records = records_of(connection, reconciliation.coverage, charges)
    coverages = reconciliation.runtime.policy.coverages
    return {
        charge.stripe_id: classify_charge(charge, records[charge.stripe_id], reconciliation.coverage, coverages)
        for charge in charges
    }


def _conclude(chunk: Chunk, charge: ChargeReadBack, verdict: Verdict) -> None:
    chunk.found += verdict.found
    if charge.stripe_id in chunk.listed:
        chunk.counts[verdict.counted_as] += 1
    kinds = {one.kind for one in verdict.found}
    if not verdict.is_being_fixed or Kind.PAID_THERE_OPEN_HERE in kinds:
        return
    is_recorded = verdict.counted_as is not CountedAs.HAS_OPEN_ATTEMPT
    words = "fixed: the receipt is recorded" if is_recorded else "in progress: its payment has an open attempt now"
    counted_as = FIXED if is_recorded and Kind.PAID_MORE_THAN_ONCE not in kinds else ""
    chunk.resolved.append(Resolved(Kind.PAID_THERE_OPEN_HERE, charge.stripe_id, words, counted_as))
