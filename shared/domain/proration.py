"""What a service costs in one month: the rule in plain Python, which the SQL of month start repeats.

The database computes a hundred thousand lines at once (`shared/invoicing/bills.py`); tests compare the two.
Days are calendar days in the coverage's time zone, both ends included.
"""

from dataclasses import dataclass
from datetime import date
from enum import StrEnum

from shared.domain.calendar import Period


class Pricing(StrEnum):
    """What a service's price is for: one day of activity, or one whole month."""

    DAILY = "daily"
    MONTHLY = "monthly"


@dataclass(frozen=True)
class ActiveDays:
    """The days of one month on which a service was active; `until_on` is the last of them."""

    from_on: date
    until_on: date

    @property
    def count(self) -> int:
        return (self.until_on - self.from_on).days + 1


def active_days(starts_on: date, ends_on: date | None, period: Period) -> ActiveDays | None:
    """Return a service's active days within `period`, or None if it has none. `ends_on` is its last active day."""
    from_on = max(starts_on, period.first_day)
    until_on = min(ends_on or period.last_day, period.last_day)
    return ActiveDays(from_on, until_on) if from_on <= until_on else None


def service_amount_minor(pricing: Pricing, price_minor: int, days: int, period: Period) -> int:
    """Return what `days` active days cost, in minor units.

    A daily price counts days. A monthly price is divided by the days of its own month, so that a day of February
    costs more than a day of March and a whole month costs exactly its price. Half a minor unit is rounded up, with
    integers only: binary fractions would lose cents.
    """
    if pricing is Pricing.DAILY:
        return price_minor * days
    return (2 * price_minor * days + period.days) // (2 * period.days)
