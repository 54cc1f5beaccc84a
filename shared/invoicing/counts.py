"""What a run has done so far: stored on its row, shown while it runs, and equal to the preview's counts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shared.domain.states import PaymentState
from shared.invoicing.bills import SkipReason

#: The states in which month start leaves a payment, and the count of each.
COUNTED_AS: dict[PaymentState, str] = {
    PaymentState.DUE: "due",
    PaymentState.AWAITING_TRANSFER: "awaiting_transfer",
    PaymentState.PAID: "zero_paid",
    PaymentState.CARRIED_FORWARD: "carried_forward",
}


@dataclass
class Counts:
    """Numbers of accounts, invoices and lines; amounts in minor units of the coverage's currency.

    `total_minor` is the sum of all invoices; of it, `carried_forward_minor` is billed again next month.
    """

    accounts_seen: int = 0
    invoices: int = 0
    lines: int = 0
    total_minor: int = 0
    carried_forward_minor: int = 0
    due: int = 0
    awaiting_transfer: int = 0
    zero_paid: int = 0
    carried_forward: int = 0
    skipped: dict[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, stored: Mapping[str, Any]) -> "Counts":
        """Read a run row's counts; a run that hasn't started has none."""
        counts = cls(**{name: value for name, value in stored.items() if name != "skipped"})
        counts.skipped = dict(stored.get("skipped", {}))
        return counts

    def stored(self) -> dict[str, Any]:
        """As JSON for the run row and its billing events."""
        return {**vars(self), "skipped": dict(sorted(self.skipped.items()))}

    def add_invoices(self, state: PaymentState, invoices: int, lines: int, total_minor: int) -> None:
        self.accounts_seen += invoices
        self.invoices += invoices
        self.lines += lines
        self.total_minor += total_minor
        name = COUNTED_AS[state]
        setattr(self, name, getattr(self, name) + invoices)
        if state is PaymentState.CARRIED_FORWARD:
            self.carried_forward_minor += total_minor

    def add_skipped(self, reason: SkipReason, accounts: int) -> None:
        if accounts:
            self.skipped[reason] = self.skipped.get(reason, 0) + accounts
        if reason is not SkipReason.NO_PAYMENT_SETTINGS:  # those have no settings row, so the run doesn't read them
            self.accounts_seen += accounts

    def add(self, other: "Counts") -> None:
        """Add another chunk's counts."""
        for name, value in vars(other).items():
            if name != "skipped":
                setattr(self, name, getattr(self, name) + value)
        for reason, accounts in other.skipped.items():
            self.skipped[reason] = self.skipped.get(reason, 0) + accounts
