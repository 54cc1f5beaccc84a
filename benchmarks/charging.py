"""Charges per second through the whole stack, the simulator answering at once, with each process's CPU beside it.

python -m benchmarks.charging [ACCOUNTS=2000]
"""

import csv
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.company import Company, running_company, wait_for_events
from shared.scheduling.virtual_clock import advance_clock


def main(accounts: int) -> None:
    with running_company(datetime(2026, 10, 31, tzinfo=UTC)) as company, TemporaryDirectory() as folder:
        import_accounts(company, accounts, Path(folder))
        before, began = company.cpu_s(), time.monotonic()
        advance_clock(company.engine, company.stack.policy, datetime(2026, 11, 1, 0, 0, 1, tzinfo=UTC))
        took = time.monotonic() - began
        used = {name: cpu - before.get(name, 0.0) for name, cpu in company.cpu_s().items()}
        paid = company.scalar("SELECT count(*) FROM payments WHERE state = 'paid'")
        with company.simulator() as simulator:
            charged = len(simulator.ledger())
        print(
            f"{paid:,} payments paid, {charged:,} charges in the ledger, {took:.1f} s: "
            f"{charged / took:.0f} charges/s"
        )
        for name, cpu in sorted(used.items(), key=lambda item: -item[1]):
            print(
                f"  {name:20} {cpu:6.1f} s CPU  {cpu / took:5.0%} of a core  "
                f"{1000 * cpu / charged:5.2f} ms per charge"
            )


def import_accounts(company: Company, accounts: int, folder: Path) -> None:
    """Import accounts with one fee each, and register a good card for every one."""
    for name, header, row in (
        ("accounts", ("account", "coverage", "payment_method"), lambda n: (f"A-{n}", "global", "card")),
        ("fees", ("account", "coverage", "amount"), lambda n: (f"A-{n}", "global", f"{10 + n % 90}.00")),
    ):
        path = folder / f"{name}.csv"
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(header)
            writer.writerows(row(number) for number in range(accounts))
        company.duecourse("import", name, str(path), *(("--period", "2026-10") if name == "fees" else ()))
    company.duecourse("customers", "create")
    wait_for_events(company, company.register_cards())


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2_000)
