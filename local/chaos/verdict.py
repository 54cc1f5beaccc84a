"""The verdict on a run: its counts, and every broken promise with the payments concerned.

Money is read from the processor's own ledger; verify then runs all its checks.
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

#: After the drain nothing may be overdue; one second covers the duration of verify.
FORGOTTEN_AFTER = timedelta(seconds=1)
#: How many payments are explained; more of them usually have the same cause.
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
      AND (s.kind = 'bank_transfer' OR (  -- fees below Stripe's minimum (50 in both currencies) wait for more
          SELECT sum(g.amount_minor) FROM fees g
          WHERE g.account_id = f.account_id AND g.coverage = f.coverage AND g.invoice_id IS NULL
      ) >= 50)
      AND f.period <= (SELECT max(period) FROM invoices i WHERE i.coverage = f.coverage)
"""
_UNBILLED_MONTHS = """
    SELECT coverage, period FROM runs WHERE job = 'monthly-invoices' AND state <> 'finished'
"""
_TOLD = """
    SELECT f.kind, f.subject, EXISTS (
        SELECT FROM billing_events e WHERE e.payment_id = f.payment_id AND e.type = f.kind
    ) AS has_event
    FROM findings f WHERE f.kind IN ('charge_refunded', 'charge_disputed')
"""
_NOT_LISTED = """
    SELECT CAST(details ->> 'events_from' AS timestamptz) AS since,
           CAST(details ->> 'events_until' AS timestamptz) AS until
    FROM findings WHERE kind = 'stripe_events_not_listed'
"""
_EVENTS_ABOUT = "SELECT type, state, trouble FROM stripe_events WHERE stripe_object_id = :subject"
_OTHER_ACCOUNTS = "SELECT coverage FROM stripe_accounts WHERE stripe_account_id <> 'acct_sim_' || coverage"
_ATTEMPTS = "SELECT state, count(*) AS attempts FROM payment_attempts GROUP BY 1"


@dataclass
class Broken:
    """A broken promise, and the payments concerned."""

    what: str
    payments: list[UUID] = field(default_factory=list)


@dataclass(frozen=True)
class Verdict:
    """The counts of a run. Amounts are minor units by currency; differences are ledger minus receipts."""

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


def assess(context: ChaosContext, left: dict[str, int], short: dict[str, int], stuck: str | None) -> Verdict:
    """Compare ledger and receipts, look for forgotten payments, and run verify.

    `left` is work that stayed open, `short` the hits that kinds lack, `stuck` why the clock couldn't be advanced.
    """
    company = context.company
    with company.simulator(timeout_s=60) as simulator:
        ledger = simulator.ledger()
    broken: list[Broken] = []
    if left:
        broken.append(Broken(f"work stayed open: {left}", _open_payments(company)))
    if stuck:
        broken.append(Broken(stuck, _open_payments(company)))
    if short:
        broken.append(Broken(f"these kinds of faults hit too rarely: {short}"))
    double = _double(ledger)
    if double:
        broken.append(Broken("charged more than once", double))
    if differing := _differing(company, ledger):
        broken.append(Broken("ledger and receipts differ", differing))
    forgotten = _forgotten(company, context)
    broken.extend(forgotten)
    broken.extend(_untold(context))
    attempts = {row.state: row.attempts for row in company.rows(_ATTEMPTS)}
    unsettled = attempts.get("started", 0) + attempts.get("unknown", 0)
    report = _verify(company, context)
    broken.extend(_breaks(report))
    return Verdict(
        requests=context.fault_queue.requests(),
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
    """Return payments whose amount differs between ledger and receipts, or from the amount due."""
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


def _forgotten(company: Company, context: ChaosContext) -> list[Broken]:
    """Find payments without an owner and without a future date, and unbilled fees and months."""
    now, at = context.now(), machine_now()
    lost: list[UUID] = []
    with company.connect() as connection:
        for row in company.rows(_UNPAID):
            next_step = explain_payment(connection, company.stack.policy, row.id, now, at).next_step
            waits_for_a_human = next_step.owner in (Owner.CUSTOMER, Owner.OPERATOR)
            waits_for_a_day = next_step.at is not None and not next_step.is_machine_time and next_step.at > now
            if not (waits_for_a_human or waits_for_a_day):
                lost.append(row.id)
    found = [Broken("forgotten: due, but never charged", lost)] if lost else []
    if fees := company.rows(_UNBILLED_FEES):
        found.append(Broken(f"forgotten: {len(fees)} fees of a billed month are on no invoice"))
    unbilled = company.rows(_UNBILLED_MONTHS)
    return [*found, *(Broken(f"forgotten: {run.coverage}'s month {run.period} isn't billed") for run in unbilled)]


def _untold(context: ChaosContext) -> list[Broken]:
    """Find refunds and disputes at the processor that no finding and no billing event tells of.

    Virtual months pass in minutes, so a nightly run may come after the 30 days for which events are kept. Then the
    finding that names the time for which none are listed is what tells an operator.
    """
    company = context.company
    told = {(row.kind, row.subject) for row in company.rows(_TOLD) if row.has_event}
    gaps = company.rows(_NOT_LISTED)
    found = []
    for kind, caused in (("charge_refunded", context.refunded), ("charge_disputed", context.disputed)):
        missing = sorted(
            subject
            for subject, at in caused.items()
            if (kind, subject) not in told
            and not any((gap.since is None or gap.since <= at) and at <= gap.until for gap in gaps)
        )
        if missing:
            events = [tuple(row) for each in missing[:SHOWN] for row in company.rows(_EVENTS_ABOUT, subject=each)]
            found.append(
                Broken(f"{kind}: not told of {len(missing)} of {len(caused)}: {missing[:SHOWN]}, {events}")
            )
    if others := context.company.rows(_OTHER_ACCOUNTS):
        found.append(Broken(f"pinned to another Stripe account: {[row.coverage for row in others]}"))
    return found


def _verify(company: Company, context: ChaosContext) -> Report:
    return verify(
        company.engine,
        Scope(now=context.now(), machine_now=machine_now(), forgotten_after=FORGOTTEN_AFTER),
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
