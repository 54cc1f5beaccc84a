"""The period that a reconciliation compares. Business time; at a real processor that is real time."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

#: Charges are listed from this long before the window: a list may lag, and an attempt may have been open in the
#: last run. The first run of all starts this far back too.
BEFORE = timedelta(days=1)
#: And until this long after it: the processor's clock may be ahead of ours, so a charge may be later than its
#: receipt.
AFTER = timedelta(hours=1)
#: PaymentIntents are listed from longer ago: one without a charge is left alone for a day (`intents.py`), and no
#: run may miss it, even after a day of 25 hours.
BEFORE_FOR_INTENTS = timedelta(hours=50)


@dataclass(frozen=True)
class Window:
    """From `begins_at` (inclusive) to `ends_at` (exclusive): records of this period are compared."""

    begins_at: datetime
    ends_at: datetime

    @property
    def of_charges(self) -> tuple[datetime, datetime]:
        """The instants, by the processor's clock, between which charges are listed."""
        return self.begins_at - BEFORE, self.ends_at + AFTER

    @property
    def of_intents(self) -> tuple[datetime, datetime]:
        """The instants, by the processor's clock, between which PaymentIntents are listed."""
        return self.begins_at - BEFORE_FOR_INTENTS, self.ends_at + AFTER


def window_of_night(scheduled_for_at: datetime, last_ended_at: datetime | None) -> Window:
    """From the end of the last reconciliation's window, however long ago, to this run's scheduled instant.

    So a run also covers the nights when the scheduler was down.
    """
    begins_at = scheduled_for_at - BEFORE if last_ended_at is None else min(last_ended_at, scheduled_for_at)
    return Window(begins_at, scheduled_for_at)


def window_of_days(first: date, last: date, now: datetime) -> Window:
    """From the first day (UTC) to the end of the last, or to now. ValueError if it is empty or in the future."""
    begins_at = datetime.combine(first, datetime.min.time(), UTC)
    ends_at = min(datetime.combine(last, datetime.min.time(), UTC) + timedelta(days=1), now)
    if last < first:
        raise ValueError(f"{last} is before {first}")
    if ends_at <= begins_at:
        raise ValueError(f"{first} is in the future: it is {now:%Y-%m-%d %H:%M} UTC")
    return Window(begins_at, ends_at)
