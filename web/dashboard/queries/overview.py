"""The overview's cached metrics, gathered in one transaction."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection

from shared.db.session import by_index_only
from shared.domain.schedule import ScheduleEntry, next_moments
from shared.messaging.jobs import BATCH
from shared.policy import Policy
from shared.scheduling.runs import schedule_of
from web.dashboard.queries.attempt_metrics import AttemptMetrics, gather_attempt_metrics
from web.dashboard.queries.money_metrics import MoneyMetrics, gather_money_metrics
from web.dashboard.queries.queue_metrics import RATE_PERIOD, QueueMetrics, gather_queue_metrics
from web.dashboard.queries.run_progress import RunProgress, gather_run_progress

#: Longer than other pages may take: millions of payments are summed (s).
LONGEST_S = 20


@dataclass(frozen=True)
class Overview:
    """The metrics as of business time `as_of`."""

    as_of: datetime
    money: MoneyMetrics
    attempts: AttemptMetrics
    queues: tuple[QueueMetrics, ...]
    runs: tuple[RunProgress, ...]
    next_ticks: tuple[tuple[ScheduleEntry, datetime], ...]

    @property
    def not_attempted(self) -> int:
        """Due payments of the current and the last month that wait for their attempt."""
        return sum(month.not_attempted.payments for month in self.money.months)

    @property
    def time_to_attempt(self) -> timedelta | None:
        """How long those take at the rate of the last minutes; None if it isn't known."""
        done = sum(each.last_5_minutes for each in self.queues if each.queue == BATCH)
        return RATE_PERIOD * self.not_attempted / done if done else None


def gather_overview(connection: Connection, policy: Policy, now: datetime, machine_now: datetime) -> Overview:
    """Gather the metrics in the caller's read-only transaction."""
    # A month is a large part of a year's table, but its index has a fifth of the pages: never read the table whole.
    by_index_only(connection, limit_s=LONGEST_S)
    return Overview(
        as_of=now,
        money=gather_money_metrics(connection, policy, now),
        attempts=gather_attempt_metrics(connection, policy, now),
        queues=gather_queue_metrics(connection, now, machine_now),
        runs=gather_run_progress(connection, policy, now),
        next_ticks=tuple(next_moments(schedule_of(policy), now)),
    )
