"""Everything on the overview that may be some seconds old, gathered in one go."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection

from shared.db.session import by_index_only
from shared.domain.schedule import ScheduleEntry, next_moments
from shared.messaging.jobs import BATCH
from shared.policy import Policy
from shared.scheduling.runs import schedule_of
from web.dashboard.queries.attempt_metrics import AttemptFigures, gather_attempts
from web.dashboard.queries.money_metrics import MoneyFigures, gather_money
from web.dashboard.queries.queue_metrics import PACE_OVER, LaneFigures, gather_lanes
from web.dashboard.queries.run_progress import RunProgress, gather_progress

#: Beyond what a page waits for elsewhere: millions of payments are summed up here (s).
LONGEST_S = 20


@dataclass(frozen=True)
class Overview:
    """The figures as of business time `as_of`."""

    as_of: datetime
    money: MoneyFigures
    attempts: AttemptFigures
    lanes: tuple[LaneFigures, ...]
    runs: tuple[RunProgress, ...]
    next_ticks: tuple[tuple[ScheduleEntry, datetime], ...]

    @property
    def still_to_ask(self) -> int:
        """Payments of the present and the last month that wait for their turn."""
        return sum(month.not_yet_asked.payments for month in self.money.months)

    @property
    def asked_in(self) -> timedelta | None:
        """How long those take at the last minutes' pace; None: nobody knows."""
        done = sum(lane.last_5_minutes for lane in self.lanes if lane.queue == BATCH)
        return PACE_OVER * self.still_to_ask / done if done else None


def gather_overview(connection: Connection, policy: Policy, now: datetime, machine_now: datetime) -> Overview:
    """Gather the figures in the caller's transaction, which only reads."""
    # A month is a large part of a year's table, but its index has a fifth of the pages: never read the table whole.
    by_index_only(connection, limit_s=LONGEST_S)
    return Overview(
        as_of=now,
        money=gather_money(connection, policy, now),
        attempts=gather_attempts(connection, policy, now),
        lanes=gather_lanes(connection, now, machine_now),
        runs=gather_progress(connection, policy, now),
        next_ticks=tuple(next_moments(schedule_of(policy), now)),
    )
