"""Which time a reconciliation looks at. Business time, which at a real processor is real time."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

#: How far before the window charges are listed: a list may lag, and an attempt may have been open last night. It is
#: also how far the first night of all looks back.
BEFORE = timedelta(days=1)
#: How far after it: the processor's clock may be ahead of ours, and so a charge later than its receipt.
AFTER = timedelta(hours=1)
#: PaymentIntents are listed from longer ago, since one without a charge is left alone for a day (`intents.py`), and
#: no night may miss it; a day of 25 hours included.
BEFORE_FOR_INTENTS = timedelta(hours=50)


@dataclass(frozen=True)
class Window:
    """From `begins_at` on, until before `ends_at`: what we hold open or paid in this time is compared."""

    begins_at: datetime
    ends_at: datetime

    @property
    def of_charges(self) -> tuple[datetime, datetime]:
        """Between which instants (by the processor's clock) charges are listed."""
        return self.begins_at - BEFORE, self.ends_at + AFTER

    @property
    def of_intents(self) -> tuple[datetime, datetime]:
        """Between which instants (by the processor's clock) PaymentIntents are listed."""
        return self.begins_at - BEFORE_FOR_INTENTS, self.ends_at + AFTER


def window_of_night(scheduled_for_at: datetime, last_ended_at: datetime | None) -> Window:
    """From where the last reconciliation ended, however long ago, to this night's moment.

    So nights in which the scheduler was away are caught up by the next one.
    """
    begins_at = scheduled_for_at - BEFORE if last_ended_at is None else min(last_ended_at, scheduled_for_at)
    return Window(begins_at, scheduled_for_at)


def window_of_days(first: date, last: date, now: datetime) -> Window:
    """From the first day (UTC) to the end of the last, or to now; ValueError if that is no time that has passed."""
    begins_at = datetime.combine(first, datetime.min.time(), UTC)
    ends_at = min(datetime.combine(last, datetime.min.time(), UTC) + timedelta(days=1), now)
    if last < first:
        raise ValueError(f"{last} is before {first}")
    if ends_at <= begins_at:
        raise ValueError(f"{first} has not begun: it is {now:%Y-%m-%d %H:%M} UTC")
    return Window(begins_at, ends_at)
