"""The accounts after the fire: figures, and every break of a promise with the payments in question.

Money is read from the processor's own ledger; the audit then compares everything with everything.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

from local.chaos.company import Company
from local.chaos.context import ChaosContext
from shared.clock import machine_now
from shared.explain.explanation import explain_payment
from shared.explain.next_step import Owner
from shared.reconciliation.verify import Report, Scope, verify
from simulator.client import LedgerLine

#: After quiet nothing may be due any more; a second for the audit's own clock.
FORGOTTEN_AFTER = timedelta(seconds=1)
#: Payments whose trail is printed; who has more has one cause.
SHOWN = 5

_PAYMENTS = "SELECT id, currency, amount_minor, state FROM payments"
_RECEIPTS = """
    SELECT payment_id, currency, sum(amount_minor) AS amount_minor, count(*) AS receipts FROM receipts
    WHERE stripe_charge_id IS NOT NULL GROUP BY 1, 2
"""
_UNPAID = """
    SELECT id FROM payments WHERE state NOT IN ('paid', 'carried_forward', 'uncollectible', 'void') ORDER BY id
"""
_UNBILLED_FEES = """
    SELECT f.id FROM fees f JOIN payment_settings s ON s.account_id = f.account_id AND s.coverage = f.coverage
    WHERE f.invoice_id IS NULL AND s.kind <> 'trial'
      AND f.period <= (SELECT max(period) FROM invoices i WHERE i.coverage = f.coverage)
"""
_UNBILLED_MONTHS = """
    SELECT coverage, period FROM runs WHERE job = 'monthly-invoices' AND state <> 'finished'
"""
_ATTEMPTS = "SELECT state, count(*) AS attempts FROM payment_attempts GROUP BY 1"


@dataclass
class Broken:
    """A promise that doesn't hold, and the payments in question."""

    what: str
    payments: list[UUID] = field(default_factory=list)


@dataclass(frozen=True)
class Verdict:
    """What came of it. Amounts are minor units by currency; differences are ledger minus receipts."""

    requests: int
    attempts: dict[str, int]
    payments: dict[str, int]
    captured_charges: int
    captured_minor: dict[str, int]
    receipts_minor: dict[str, int]
    double: int
    forgotten: int
    unsettled: int
    report: Report
    broken: list[Broken]

    @property
    def differences_minor(self) -> dict[str, int]:
        """Ledger minus receipts, for each currency."""
        currencies = sorted({*self.captured_minor, *self.receipts_minor})
        return {c: self.captured_minor.get(c, 0) - self.receipts_minor.get(c, 0) for c in currencies}

    @property
    def is_clean(self) -> bool:
        return not self.broken


def judge(scene: ChaosContext, left: dict[str, int], short: dict[str, int], stuck: str | None) -> Verdict:
    """Compare the books, look for what was forgotten, and audit everything."""
    company = scene.company
    with company.simulator(timeout_s=60) as simulator:
        ledger = simulator.ledger()
    broken: list[Broken] = []
    if left:
        broken.append(Broken(f"it didn't get quiet: {left}", _open_payments(company)))
    if stuck:
        broken.append(Broken(stuck, _open_payments(company)))
    if short:
        broken.append(Broken(f"these kinds of faults hit too rarely: {short}"))
    double = _double(ledger)
    if double:
        broken.append(Broken("charged more than once", double))
    if differing := _differing(company, ledger):
        broken.append(Broken("ledger and receipts differ", differing))
    forgotten = _forgotten(company, scene)
    broken.extend(forgotten)
    attempts = {row.state: row.attempts for row in company.rows(_ATTEMPTS)}
    unsettled = attempts.get("started", 0) + attempts.get("unknown", 0)
    report = _audit(company, scene)
    broken.extend(_breaks(report))
    return Verdict(
        requests=scene.armoury.requests(),
        attempts=attempts,
        payments=dict(Counter(row.state for row in company.rows(_PAYMENTS))),
        captured_charges=len(ledger),
        captured_minor=_sums((line.currency.upper(), line.amount) for line in ledger),
        receipts_minor=_sums((row.currency, int(row.amount_minor)) for row in company.rows(_RECEIPTS)),
        double=len(double),
        forgotten=sum(max(1, len(each.payments)) for each in forgotten),
        unsettled=unsettled,
        report=report,
        broken=broken,
    )


def _double(ledger: Sequence[LedgerLine]) -> list[UUID]:
    charges = Counter(line.metadata["duecourse_payment_id"] for line in ledger)
    return [UUID(payment_id) for payment_id, count in charges.items() if count > 1]


def _differing(company: Company, ledger: Sequence[LedgerLine]) -> list[UUID]:
    """Payments whose money in the ledger isn't that in our receipts, or isn't what they ask for."""
    theirs: dict[UUID, tuple[int, str]] = {}
    for line in ledger:
        payment_id = UUID(line.metadata["duecourse_payment_id"])
        before, _ = theirs.get(payment_id, (0, ""))
        theirs[payment_id] = (before + line.amount, line.currency.upper())
    ours = {row.payment_id: (int(row.amount_minor), row.currency) for row in company.rows(_RECEIPTS)}
    found = {payment_id for payment_id in theirs.keys() | ours if theirs.get(payment_id) != ours.get(payment_id)}
    for row in company.rows(_PAYMENTS):
        expected = (row.amount_minor, row.currency) if row.state == "paid" and row.amount_minor else None
        if ours.get(row.id) != expected:
            found.add(row.id)
    return sorted(found)


def _forgotten(company: Company, scene: ChaosContext) -> list[Broken]:
    """What neither waits for somebody nor for a day that is still to come."""
    now, at = scene.now(), machine_now()
    lost: list[UUID] = []
    with company.connect() as connection:
        for row in company.rows(_UNPAID):
            told = explain_payment(connection, company.stack.policy, row.id, now, at)
            waits_for_somebody = told.next_step.owner in (Owner.CUSTOMER, Owner.OPERATOR)
            waits_for_a_day = (
                told.next_step.at is not None and not told.next_step.is_machine_time and told.next_step.at > now
            )
            if not (waits_for_somebody or waits_for_a_day):
                lost.append(row.id)
    found = [Broken("forgotten: due, and nobody asks", lost)] if lost else []
    if fees := company.rows(_UNBILLED_FEES):
        found.append(Broken(f"forgotten: {len(fees)} fees of a billed month are on no invoice"))
    unbilled = company.rows(_UNBILLED_MONTHS)
    return [*found, *(Broken(f"forgotten: {run.coverage}'s month {run.period} isn't billed") for run in unbilled)]


def _audit(company: Company, scene: ChaosContext) -> Report:
    return verify(
        company.engine,
        Scope(now=scene.now(), machine_now=machine_now(), forgotten_after=FORGOTTEN_AFTER),
        gateways=company.runtime.gateways,
        coverages=company.stack.policy.coverages,
    )


def _breaks(report: Report) -> list[Broken]:
    found = []
    for result in report.results:
        if result.not_checked:
            found.append(Broken(f"verify {result.check.name}: not checked: {result.not_checked}"))
        if result.broken:
            ids = [UUID(one.ids["payment_id"]) for one in result.breaks if one.ids.get("payment_id")]
            what = "; ".join(one.what for one in result.breaks[:3])
            found.append(Broken(f"verify {result.check.name}: {result.broken} breaks: {what}", ids))
    return found


def _open_payments(company: Company) -> list[UUID]:
    rows = company.rows(
        "SELECT p.id FROM payments p WHERE (p.state IN ('due', 'retry_scheduled') AND p.held_until IS NULL"
        " AND p.next_attempt_at <= (SELECT now_at FROM business_clock))"
        " OR EXISTS (SELECT FROM payment_attempts a"
        " WHERE a.payment_id = p.id AND a.state IN ('started', 'unknown'))"
    )
    return [row.id for row in rows]


def _sums(lines: Any) -> dict[str, int]:
    total: Counter[str] = Counter()
    for currency, amount in lines:
        total[currency] += amount
    return dict(sorted(total.items()))
