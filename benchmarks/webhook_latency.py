"""How long a customer waits: from the webhook of a registered card to the confirm request at the processor.

    python -m benchmarks.webhook_latency [TIMES=1000]

The system is idle but for this. Each time a payment waits for a card and its owner registers one. The clock starts
before the registration reaches the processor, so the webhook's own way is included, and stops when the simulator
notes the arrival of the confirm. Then the idle system's CPU is measured, since polling is what buys the speed.
"""

import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import text

from benchmarks.charging import import_accounts
from benchmarks.company import Company, quantile, running_company
from shared.scheduling.virtual_clock import advance_clock

IDLE_S = 30.0


def main(times: int) -> None:
    with running_company(datetime(2026, 10, 31, tzinfo=UTC)) as company, TemporaryDirectory() as folder:
        import_accounts(company, 1, Path(folder))
        advance_clock(company.engine, company.stack.policy, datetime(2026, 11, 1, 0, 0, 1, tzinfo=UTC))
        waits_ms = [measure_once(company) for _ in range(times)]
        print(
            f"webhook to confirm, {times:,} times: median {quantile(waits_ms, 0.5):.0f} ms, "
            f"p99 {quantile(waits_ms, 0.99):.0f} ms, longest {max(waits_ms):.0f} ms"
        )
        before = company.cpu_s()
        time.sleep(IDLE_S)
        print(f"idle for {IDLE_S:g} s:")
        total = 0.0
        for name, cpu in sorted(company.cpu_s().items()):
            share = (cpu - before.get(name, 0.0)) / IDLE_S
            total += share
            print(f"  {name:20} {share:6.2%} of a core")
        print(f"  {'all':20} {total:6.2%} of a core")


def measure_once(company: Company) -> float:
    """Make one payment wait for a card, register it, and return the milliseconds until its confirm arrived."""
    with company.engine.begin() as connection:
        # The last payment again, as a new one: cheaper than a month, and the same to the code under test.
        row = connection.execute(
            text(
                "INSERT INTO payments (kind, account_id, settings_id, coverage, currency, amount_minor, state,"
                " state_reason, lane, trigger, waiting_for_revision_after, due_on)"
                " SELECT 'monthly', p.account_id, p.settings_id, p.coverage, p.currency, 500,"
                " 'needs_payment_method', 'benchmark', 'batch', 'month_start', s.card_revision, p.due_on"
                " FROM payments p JOIN payment_settings s ON s.id = p.settings_id WHERE p.invoice_id IS NOT NULL"
                " RETURNING id, settings_id"
            )
        ).one()
        settings = connection.execute(
            text("SELECT id, stripe_customer_id FROM payment_settings WHERE id = :id"), {"id": row.settings_id}
        ).one()
    with company.simulator() as simulator:
        metadata = {"duecourse_settings_id": str(settings.id), "duecourse_intent": "replace"}
        card = simulator.make_card("global").token  # a new one: the networks' budgets are per card
        sent_ns = time.time_ns()
        simulator.register_card("global", settings.stripe_customer_id, card, metadata)
        while company.scalar("SELECT count(*) FROM payments WHERE id = :id AND state = 'paid'", id=row.id) == 0:
            time.sleep(0.002)
        confirm = [
            snapshot for snapshot in simulator.requests("/confirm", limit=5) if "payment_intents" in snapshot.path
        ][-1]
    return (confirm.arrived_ns - sent_ns) / 1e6


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000)
