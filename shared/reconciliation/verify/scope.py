"""Which rows verification checks, and the instants it checks them against."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from typing import Any

from shared.clock import FARTHEST_AHEAD

#: Due work is forgotten after this long (machine time) without an attempt and without a reason to wait.
FORGOTTEN_AFTER = timedelta(hours=1)


@dataclass(frozen=True)
class Scope:
    """All rows, or those of one coverage, or those of invoices issued and charges made between two days.

    `now` is business time. Both days are inclusive, in UTC. A payment without an invoice counts by its due date.
    """

    now: datetime
    machine_now: datetime
    coverage: str | None = None
    from_on: date | None = None
    to_on: date | None = None
    forgotten_after: timedelta = FORGOTTEN_AFTER

    @property
    def has_window(self) -> bool:
        return self.from_on is not None or self.to_on is not None

    @property
    def begins_at(self) -> datetime | None:
        """The first instant of the window; None if it is unbounded."""
        return None if self.from_on is None else datetime.combine(self.from_on, datetime.min.time(), UTC)

    @property
    def ends_at(self) -> datetime | None:
        """The first instant after the window; None if it is unbounded."""
        if self.to_on is None:
            return None
        return datetime.combine(self.to_on, datetime.min.time(), UTC) + timedelta(days=1)

    @cached_property
    def relations(self) -> Mapping[str, str]:
        """The SQL for `{payments}` and the like in a check: the table itself if the scope leaves out nothing."""
        if self.coverage is None and not self.has_window:
            return {**_TABLES, "accounts": "accounts"}
        mine = " AND ".join(["true"] + ([_OF_COVERAGE] if self.coverage else []))
        invoices = f"(SELECT * FROM invoices WHERE {mine}{self._days('issued_on')})"  # noqa: S608  # our constants
        payments = (
            f"(SELECT * FROM payments WHERE {mine}"  # noqa: S608
            + self._days("coalesce((SELECT i.issued_on FROM invoices i WHERE i.id = payments.invoice_id), due_on)")
            + ")"
        )
        settings = f"SELECT account_id FROM payment_settings WHERE {mine}"  # noqa: S608
        paid_for = f"payment_id IN (SELECT id FROM {payments} p)"  # noqa: S608
        return {
            "invoices": invoices,
            "payments": payments,
            "lines": f"(SELECT * FROM invoice_lines WHERE invoice_id IN (SELECT id FROM {invoices} i))",  # noqa: S608
            "fees": f"(SELECT * FROM fees WHERE {mine})",  # noqa: S608
            "attempts": f"(SELECT * FROM payment_attempts WHERE {paid_for})",  # noqa: S608
            "intents": f"(SELECT * FROM payment_intents WHERE {paid_for})",  # noqa: S608
            "receipts": f"(SELECT * FROM receipts WHERE {paid_for})",  # noqa: S608
            "runs": f"(SELECT * FROM runs WHERE {mine})",  # noqa: S608
            "stripe_events": f"(SELECT * FROM stripe_events WHERE {mine})",  # noqa: S608
            "charges": "processor_charges",
            "bulk_actions": "bulk_actions",  # of no coverage: a filter may span all of them
            "accounts": f"(SELECT * FROM accounts WHERE id IN ({settings}))",  # noqa: S608
        }

    @property
    def parameters(self) -> dict[str, Any]:
        """Bind parameters of all checks."""
        return {
            "now": self.now,
            "machine_now": self.machine_now,
            "too_far": self.machine_now + FARTHEST_AHEAD,
            "patience": self.forgotten_after,
            "coverage": self.coverage,
            "from_on": self.from_on,
            "to_on": self.to_on,
            "begins_at": self.begins_at,
            "ends_at": self.ends_at,
        }

    def _days(self, column: str) -> str:
        lower = f" AND {column} >= :from_on" if self.from_on is not None else ""
        upper = f" AND {column} <= :to_on" if self.to_on is not None else ""
        return lower + upper


_OF_COVERAGE = "coverage = :coverage"
_TABLES = {
    "invoices": "invoices",
    "payments": "payments",
    "lines": "invoice_lines",
    "fees": "fees",
    "attempts": "payment_attempts",
    "intents": "payment_intents",
    "receipts": "receipts",
    "runs": "runs",
    "stripe_events": "stripe_events",
    "charges": "processor_charges",
    "bulk_actions": "bulk_actions",
}
