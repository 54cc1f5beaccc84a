"""Summary of the two months for a business reader, and whether the promises were kept.

Amounts come from our tables; double charges and differences are checked against the simulator's own ledger.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rich.bar import Bar
from rich.console import Console
from rich.table import Table
from sqlalchemy import Connection, text

from shared.domain.money import format_minor
from simulator.client import LedgerLine


@dataclass(frozen=True)
class Promises:
    """Three counts that must be zero. `double` counts payments charged more than once."""

    double: int
    forgotten: int
    differences: int

    @property
    def are_kept(self) -> bool:
        return (self.double, self.forgotten, self.differences) == (0, 0, 0)


_COLLECTED = text("""
    SELECT p.currency,
           CASE WHEN a.trigger = 'card_registered' THEN 'by new card'
                WHEN p.decline_count = 0 THEN 'at first try'
                ELSE 'by retry' END AS how,
           count(*) AS payments, sum(p.amount_minor) AS amount_minor
    FROM payments p JOIN payment_attempts a ON a.payment_id = p.id AND a.state = 'succeeded'
    WHERE p.state = 'paid' GROUP BY 1, 2
""")
_INVOICED = text("SELECT currency, count(*) AS payments, sum(total_minor) AS amount_minor FROM invoices GROUP BY 1")
_OPEN = text("""
    SELECT currency, state, count(*) AS payments, sum(amount_minor) AS amount_minor FROM payments
    WHERE state <> 'paid' OR NOT EXISTS (SELECT FROM receipts WHERE payment_id = payments.id)
    GROUP BY 1, 2 ORDER BY 1, 2
""")
_RECOVERED_BY_DAY = text("""
    SELECT (p.paid_at AT TIME ZONE 'UTC')::date - (p.first_declined_at AT TIME ZONE 'UTC')::date AS day,
           count(*) AS payments
    FROM payments p JOIN payment_attempts a ON a.payment_id = p.id AND a.state = 'succeeded'
    WHERE p.state = 'paid' AND p.decline_count > 0 GROUP BY 1 ORDER BY 1
""")
_DECLINES = text("""
    SELECT coalesce(decline_code, code) AS code, count(*) AS declines, count(DISTINCT payment_id) AS payments
    FROM payment_attempts WHERE state = 'declined' GROUP BY 1 ORDER BY 2 DESC
""")
_MARKED = text("""
    SELECT count(DISTINCT account_id) FILTER (WHERE after ->> 'standing' = 'marked_for_suspension') AS ever,
           (SELECT count(*) FROM accounts WHERE standing = 'marked_for_suspension') AS now
    FROM billing_events WHERE type = 'standing_changed'
""")
#: Forgotten: a payment that is due but was not charged, an attempt left open, or a fee of a billed month that is on
#: no invoice although its account isn't on trial and owes enough to be charged.
_FORGOTTEN = text("""
    SELECT (SELECT count(*) FROM payments WHERE state IN ('due', 'retry_scheduled')
              AND next_attempt_at <= (SELECT now_at FROM business_clock) AND held_until IS NULL)
         + (SELECT count(*) FROM payment_attempts WHERE state IN ('started', 'unknown'))
         + (SELECT count(*) FROM fees f JOIN payment_settings s
              ON s.account_id = f.account_id AND s.coverage = f.coverage
            WHERE f.invoice_id IS NULL AND s.kind <> 'trial'
              AND (s.kind = 'bank_transfer' OR (  -- below Stripe's minimum fees wait for more
                  SELECT sum(g.amount_minor) FROM fees g
                  WHERE g.account_id = f.account_id AND g.coverage = f.coverage AND g.invoice_id IS NULL
              ) >= 50)
              AND f.period <= (SELECT max(period) FROM invoices i WHERE i.coverage = f.coverage))
""")


def check_promises(connection: Connection, ledger: Iterable[LedgerLine]) -> Promises:
    """Compare the processor's ledger with our receipts, payment by payment."""
    charged: Counter[str] = Counter()
    amounts: dict[str, int] = {}
    for line in ledger:
        payment_id = line.metadata.get("duecourse_payment_id", line.charge)
        charged[payment_id] += 1
        amounts[payment_id] = line.amount
    ours = {
        str(row.id): row.amount_minor
        for row in connection.execute(
            text("SELECT p.id, p.amount_minor FROM payments p JOIN receipts r ON r.payment_id = p.id")
        )
    }
    return Promises(
        double=sum(1 for count in charged.values() if count > 1),
        forgotten=int(connection.scalar(_FORGOTTEN) or 0),
        differences=sum(
            1 for payment_id in amounts.keys() | ours if amounts.get(payment_id) != ours.get(payment_id)
        ),
    )


def print_summary(console: Console, connection: Connection, ledger: Iterable[LedgerLine]) -> Promises:
    """Print the summary and return whether the promises were kept."""
    _print_money(console, connection)
    _print_recovery(console, connection)
    _print_declines(console, connection)
    marked = connection.execute(_MARKED).one()
    console.print(f"Marked for suspension: [bold]{marked.ever}[/] accounts, {marked.now} of them still are.\n")
    promises = check_promises(connection, ledger)
    colour = "green" if promises.are_kept else "red"
    if promises.differences:
        console.print(f"[red]receipts differ from the processor's ledger in {promises.differences} payments[/]")
    console.print(f"[bold {colour}]double charges: {promises.double} · forgotten: {promises.forgotten}[/]")
    return promises


def _print_money(console: Console, connection: Connection) -> None:
    table = Table(title="Two months", title_justify="left", show_edge=False, pad_edge=False)
    for heading in ("", "payments", "amount", "share"):
        table.add_column(heading, justify="left" if not heading else "right")
    invoiced = {row.currency: row for row in connection.execute(_INVOICED)}
    collected = connection.execute(_COLLECTED).all()
    still_open = connection.execute(_OPEN).all()
    for currency, total in sorted(invoiced.items()):
        _add(table, "invoiced", total, total)
        for how in ("at first try", "by retry", "by new card"):
            for row in collected:
                if (row.currency, row.how) == (currency, how):
                    _add(table, f"  collected {how}" if how == "at first try" else f"  recovered {how}", row, total)
        for row in still_open:
            if row.currency == currency:
                what = "nothing to pay" if row.state == "paid" else row.state.replace("_", " ")
                _add(table, f"  {what}", row, total)
        table.add_section()
    console.print(table, "\n")


def _add(table: Table, what: str, row: Any, total: Any) -> None:
    share = row.amount_minor / total.amount_minor
    table.add_row(what, f"{row.payments:,}", format_minor(int(row.amount_minor), total.currency), f"{share:.1%}")


def _print_recovery(console: Console, connection: Connection) -> None:
    days = {row.day: row.payments for row in connection.execute(_RECOVERED_BY_DAY)}
    if not days:
        return
    table = Table(
        title="Recovered, by days since the first decline", title_justify="left", box=None, pad_edge=False
    )
    table.add_column("day", justify="right")
    table.add_column("payments", justify="right")
    table.add_column("", width=40)
    spans = [(day, day) for day in range(8)] + [(8, 14), (15, 21), (22, 999)]
    counts = [sum(count for day, count in days.items() if first <= day <= last) for first, last in spans]
    for (first, last), count in zip(spans, counts, strict=True):
        label = str(first) if first == last else f"{first} to {last}" if last < 999 else f"{first} and more"
        table.add_row(label, str(count) if count else "", Bar(max(counts), 0, count, width=40, color="green"))
    console.print(table, "\n")


def _print_declines(console: Console, connection: Connection) -> None:
    table = Table(title="Declines by code", title_justify="left", show_edge=False, pad_edge=False)
    table.add_column("code")
    table.add_column("declines", justify="right")
    table.add_column("payments", justify="right")
    for row in connection.execute(_DECLINES):
        table.add_row(row.code, str(row.declines), str(row.payments))
    console.print(table, "\n")
