"""One coverage's month, as all statements of month start see it."""

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Any
from uuid import UUID

from shared.domain.calendar import Period, instant, local_date
from shared.domain.states import SettingsKind
from shared.policy import Coverage, Policy

#: Before every account in keyset order: where a run starts.
BEFORE_ALL = UUID(int=0)


@dataclass(frozen=True)
class Month:
    """A billing month of one coverage. Amounts are minor units of the coverage's currency."""

    coverage: Coverage
    period: Period
    due_in_days: dict[SettingsKind, int]

    @classmethod
    def of(cls, policy: Policy, coverage: str, period: str) -> "Month":
        """PolicyError for a coverage that billing.toml doesn't have, ValueError for a period that isn't one."""
        return cls(policy.coverage(coverage), Period.parse(period), dict(policy.due_in_days))

    @property
    def ends_at(self) -> datetime:
        """The instant (UTC) at which the month is over where the coverage lives."""
        return instant(self.period.next.first_day, time(0), self.coverage.zone)

    def is_over(self, now: datetime) -> bool:
        return now >= self.ends_at

    def parameters(self) -> dict[str, Any]:
        """What `bills.py` needs to know, whether it is previewed or issued."""
        return {
            "coverage": self.coverage.code,
            "currency": self.coverage.currency,
            "minimum_minor": self.coverage.minimum_charge_minor,
            "first_day": self.period.first_day,
            "last_day": self.period.last_day,
            "month_days": self.period.days,
        }

    def issued_on(self, now: datetime) -> date:
        """The day an invoice issued at `now` bears: the real one, so that a late run dates nothing back."""
        return local_date(now, self.coverage.zone)

    def due_on(self, kind: SettingsKind, issued_on: date) -> date:
        return issued_on + timedelta(days=self.due_in_days[kind])
