"""A real company's 7,043 subscribers: imported, invoiced and collected by the real processes, also while some die.

    python -m benchmarks.telco PATH/telco-customers.csv [--kill]

The file is the public Telco customer churn data set (IBM), with columns customerID, PaymentMethod, MonthlyCharges.
"""

import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.company import Company, running_company, wait_for_events
from shared.domain.money import format_minor
from shared.scheduling.virtual_clock import advance_clock

CARD = ("Credit card (automatic)", "Electronic check")
TRANSFER = ("Mailed check", "Bank transfer (automatic)")
#: Shorter than the default 5 minutes, so that the killed workers' attempts are settled while one watches.
IMPATIENT = {"STRIPE_READ_TIMEOUT_S": "5", "STRIPE_CONNECT_TIMEOUT_S": "2", "DUECOURSE_LEASE_S": "20"}


def main(path: Path, *, kill: bool) -> None:
    with running_company(datetime(2026, 10, 31, tzinfo=UTC), IMPATIENT) as company:
        began = time.monotonic()
        values = [f"payment_method:{words}=card" for words in CARD]
        values += [f"payment_method:{words}=bank_transfer" for words in TRANSFER]
        company.duecourse(
            "import", "accounts", str(path), "--columns", "account=customerID,payment_method=PaymentMethod",
            *(part for value in values for part in ("--value", value)), "--set", "coverage=global",
        )  # fmt: skip
        fees = ("import", "fees", str(path), "--columns", "account=customerID,amount=MonthlyCharges",
                "--set", "coverage=global", "--period", "2026-10")  # fmt: skip
        company.duecourse(*fees)
        company.duecourse("customers", "create")
        cards = company.register_cards()
        wait_for_events(company, cards)
        print(f"imported and {cards:,} cards registered in {time.monotonic() - began:.0f} s")
        killer = threading.Thread(target=_kill_three_times, args=(company,), daemon=True)
        if kill:
            killer.start()
        began = time.monotonic()
        advance_clock(company.engine, company.stack.policy, datetime(2026, 11, 1, 12, tzinfo=UTC))
        print(f"invoiced and collected in {time.monotonic() - began:.0f} s")
        if kill:
            killer.join(5)
        before = company.scalar("SELECT count(*) FROM invoices")
        company.duecourse(*fees)
        company.duecourse("invoices", "run", "--period", "2026-10", "--coverage", "global", "--reason", "again")
        time.sleep(3)
        print(f"second run: {company.scalar('SELECT count(*) FROM invoices') - before} new")
        _report(company)


def _report(company: Company) -> None:
    invoices = company.scalar("SELECT count(*) FROM invoices")
    total = company.scalar("SELECT sum(total_minor) FROM invoices")
    paid = company.scalar("SELECT sum(amount_minor) FROM payments WHERE state = 'paid'")
    cards = company.scalar(
        "SELECT count(*) FROM payments p JOIN payment_settings s ON s.id = p.settings_id WHERE s.kind = 'card'"
    )
    paid_cards = company.scalar("SELECT count(*) FROM payments WHERE state = 'paid'")
    with company.simulator() as simulator:
        ledger = simulator.ledger()
    print(f"invoices {invoices:,}, sum {format_minor(total, 'USD')}")
    print(f"card payments {cards:,}, paid {paid_cards:,}, our sum {format_minor(paid, 'USD')}")
    print(
        f"simulator's ledger: {len(ledger):,} charges, {format_minor(sum(line.amount for line in ledger), 'USD')}"
    )
    print(f"charged twice: {len(ledger) - len({line.metadata['duecourse_payment_id'] for line in ledger})}")
    for name in ("worker-batch", "scheduler"):
        print(f"{name} started again {company.supervisor.restarts(name)} times")
    print(company.duecourse("verify"))


def _kill_three_times(company: Company) -> None:
    """The invoicing worker in the middle of its run, a charging worker in mid-charge, then the scheduler."""
    _wait(company, "SELECT count(*) FROM invoices", 500)
    company.kill("worker-batch")
    print(f"killed the invoicing worker at {company.scalar('SELECT count(*) FROM invoices'):,} invoices")
    _wait(company, "SELECT count(*) FROM payments WHERE state = 'paid'", 800)
    company.kill("worker-batch")
    print(
        f"killed a charging worker at {company.scalar('SELECT count(*) FROM receipts'):,} receipts, with "
        f"{company.scalar(OPEN)} attempts open"
    )
    _wait(company, "SELECT count(*) FROM payments WHERE state = 'paid'", 2_000)
    company.kill("scheduler")
    print(f"killed the scheduler at {company.scalar('SELECT count(*) FROM receipts'):,} receipts")


OPEN = "SELECT count(*) FROM payment_attempts WHERE state = 'started'"


def _wait(company: Company, sql: str, at_least: int) -> None:
    while company.scalar(sql) < at_least:
        time.sleep(0.002)


if __name__ == "__main__":
    main(Path(sys.argv[1]), kill="--kill" in sys.argv[2:])
