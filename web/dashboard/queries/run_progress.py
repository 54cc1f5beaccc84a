"""The progress of the current month's runs."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, select, tuple_

from shared.db.tables.system import runs
from shared.domain.calendar import Period
from shared.domain.states import RunState
from shared.invoicing.counts import Counts
from shared.invoicing.runs import read_cursor
from shared.messaging.jobs import MONTHLY_INVOICES
from shared.policy import Policy
from web.dashboard.queries.money_metrics import current_period

#: Below this share the rate isn't meaningful yet.
LEAST_SHARE = 0.01
#: Account ids are random, so the cursor of a run in id order tells its progress.
ALL_IDS = 2**128


@dataclass(frozen=True)
class RunProgress:
    """One coverage's monthly run; `run` is None while there is none.

    `share` of its accounts is done, `left` is the estimated time left at the rate so far; None if unknown.
    """

    coverage: str
    period: Period
    run: Row[Any] | None = None
    counts: Counts | None = None
    share: float | None = None
    left: timedelta | None = None


def gather_run_progress(connection: Connection, policy: Policy, now: datetime) -> tuple[RunProgress, ...]:
    """Read the current period's run of each coverage at business time `now`."""
    periods = {code: current_period(coverage, now) for code, coverage in policy.coverages.items()}
    keys = [(MONTHLY_INVOICES, str(period), code) for code, period in periods.items()]
    rows = connection.execute(select(runs).where(tuple_(runs.c.job, runs.c.period, runs.c.coverage).in_(keys)))
    found = {row.coverage: row for row in rows}
    return tuple(_progress(code, period, found.get(code), now) for code, period in periods.items())


def _progress(coverage: str, period: Period, run: Row[Any] | None, now: datetime) -> RunProgress:
    if run is None:
        return RunProgress(coverage, period)
    counts = Counts.read(run.counts)
    if run.state == RunState.FINISHED:
        return RunProgress(coverage, period, run, counts, share=1.0)
    share = share_before(read_cursor(run.cursor))
    elapsed = None if run.started_at is None else now - run.started_at
    left = None if run.trouble else time_left(share, elapsed)
    return RunProgress(coverage, period, run, counts, share, left)


def share_before(account_id: UUID) -> float:
    """Return the approximate share of accounts up to and including this one."""
    return account_id.int / ALL_IDS


def time_left(share: float, elapsed: timedelta | None) -> timedelta | None:
    """Return how long the rest takes at the rate so far; None if that would be a guess."""
    if elapsed is None or elapsed <= timedelta(0) or share < LEAST_SHARE:
        return None
    return elapsed * (1 - share) / share
