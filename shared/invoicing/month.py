"""One coverage's month, as the statements of month start use it."""

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Any
from uuid import UUID

from shared.domain.calendar import Period, instant, local_date
from shared.domain.money import MAX_CHARGE_MINOR
from shared.domain.states import SettingsKind
from shared.policy import Coverage, Policy

#: Sorts before every account: where a run starts.
BEFORE_ALL = UUID(int=0)


@dataclass(frozen=True)
class Month:
    """A billing month of one coverage. Amounts are minor units of the coverage's currency."""

    coverage: Coverage
    period: Period
    due_in_days: dict[SettingsKind, int]

    @classmethod
    def of(cls, policy: Policy, coverage: str, period: str) -> "Month":
        """PolicyError for a coverage that billing.toml doesn't have, ValueError for an invalid period."""
        return cls(policy.coverage(coverage), Period.parse(period), dict(policy.due_in_days))

    @property
    def ends_at(self) -> datetime:
        """The instant (UTC) at which the month ends in the coverage's time zone."""
        return instant(self.period.next.first_day, time(0), self.coverage.zone)

    def is_over(self, now: datetime) -> bool:
        return now >= self.ends_at

    def parameters(self) -> dict[str, Any]:
        """Bind parameters of `bills.py`, for the preview and the real run."""
        return {
            "coverage": self.coverage.code,
            "currency": self.coverage.currency,
            "minimum_minor": self.coverage.minimum_charge_minor,
            "maximum_minor": MAX_CHARGE_MINOR,
            "first_day": self.period.first_day,
            "last_day": self.period.last_day,
            "month_days": self.period.days,
        }

    def issued_on(self, now: datetime) -> date:
        """The issue date of an invoice issued at `now`: the actual day, so a late run backdates nothing."""
        return local_date(now, self.coverage.zone)

    def due_on(self, kind: SettingsKind, issued_on: date) -> date:
        return issued_on + timedelta(days=self.due_in_days[kind])
