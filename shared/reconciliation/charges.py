"""The processor's charges, page by page, against our books; and what any charge that was looked at leads to."""

from collections.abc import Sequence

from shared.gateway.port import ChargeReadBack
from shared.reconciliation.chunk import Chunk, Reconciliation, Resolved
from shared.reconciliation.classify import Kind, Verdict, Weighed, classify_charge
from shared.reconciliation.load import books_of
from shared.reconciliation.repair import announce, book

MENDED = "mended"


def walk_charges(reconciliation: Reconciliation, after: str | None) -> Chunk:
    """One page of the processor's list. What looks wrong on it is looked at once more before it is believed."""
    page = reconciliation.processor.charges(reconciliation.window, after)
    succeeded = [charge for charge in page.items if has_money(charge)]
    verdicts = _judge(reconciliation, succeeded)
    chunk = Chunk(page.after, listed=[charge.stripe_id for charge in succeeded])
    chunk.counts["charges"] = len(succeeded)
    suspects = []
    for charge in succeeded:
        verdict = verdicts[charge.stripe_id]
        if verdict.found or verdict.is_being_mended:
            suspects.append(charge.stripe_id)
        else:
            chunk.counts[verdict.weighed] += 1
    chunk.counts["not_shown_again"] = len(look_at_charges(reconciliation, chunk, suspects))
    return chunk


def look_at_charges(reconciliation: Reconciliation, chunk: Chunk, charge_ids: Sequence[str]) -> set[str]:
    """Retrieve charges and weigh them; return the ids of those that took no money, or aren't there at all."""
    snapshot = [charge for one in charge_ids if (charge := reconciliation.processor.charge(one)) is not None]
    with_money = [charge for charge in snapshot if has_money(charge)]
    weigh(reconciliation, chunk, with_money)
    return set(charge_ids) - {charge.stripe_id for charge in with_money}


def has_money(charge: ChargeReadBack) -> bool:
    """Whether a charge took money: declined ones and holds didn't."""
    return charge.is_paid and charge.amount_captured_minor > 0


def weigh(reconciliation: Reconciliation, chunk: Chunk, charges: Sequence[ChargeReadBack]) -> None:
    """Judge charges that were looked at just now, mend what can be mended, and judge again what that left."""
    verdicts = _judge(reconciliation, charges)
    to_mend = [one for verdict in verdicts.values() for one in verdict.found if one.mends is not None]
    if to_mend:
        announce(reconciliation, to_mend)
        for one in to_mend:
            if one.payment_id is not None and one.mends is not None:
                book(reconciliation, one.payment_id, one.mends)
        verdicts = _judge(reconciliation, charges)
    for charge in charges:
        _conclude(chunk, charge, verdicts[charge.stripe_id])


def _judge(reconciliation: Reconciliation, charges: Sequence[ChargeReadBack]) -> dict[str, Verdict]:
    with reconciliation.runtime.engine.connect() as connection:
        books = books_of(connection, reconciliation.coverage, charges)
    coverages = reconciliation.runtime.policy.coverages
    return {
        charge.stripe_id: classify_charge(charge, books[charge.stripe_id], reconciliation.coverage, coverages)
        for charge in charges
    }


def _conclude(chunk: Chunk, charge: ChargeReadBack, verdict: Verdict) -> None:
    chunk.found += verdict.found
    if charge.stripe_id in chunk.listed:
        chunk.counts[verdict.weighed] += 1
    kinds = {one.kind for one in verdict.found}
    if not verdict.is_being_mended or Kind.PAID_THERE_OPEN_HERE in kinds:
        return
    is_booked = verdict.weighed is not Weighed.ON_ITS_WAY
    words = "mended: the money is booked" if is_booked else "on its way: its payment has an open attempt now"
    counted_as = MENDED if is_booked and Kind.PAID_MORE_THAN_ONCE not in kinds else ""
    chunk.resolved.append(Resolved(Kind.PAID_THERE_OPEN_HERE, charge.stripe_id, words, counted_as))
