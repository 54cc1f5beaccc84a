"""One run: its details, counts, progress and events."""

from datetime import timedelta
from typing import Any

from sqlalchemy import Row, select
from starlette.responses import Response

from shared.db.tables.system import billing_events, runs
from shared.domain.states import RunState
from shared.invoicing.runs import read_cursor
from shared.messaging.jobs import MONTHLY_INVOICES
from web.dashboard.pages.runs import RERUN_JOBS, shown_counts, took
from web.dashboard.queries.run_progress import share_before, time_left
from web.dashboard.request_context import RequestContext

#: Events per page: a run has a handful, plus one for each skipped account.
PAGE = 100


def show(context: RequestContext) -> Response:
    """The run, its counts and its events, newest first."""
    run_id, after = context.uuid(), context.query_text("after", 20)
    own = select(billing_events).where(billing_events.c.run_id == run_id, billing_events.c.payment_id.is_(None))
    if after.isascii() and after.isdigit() and len(after) < 19:
        own = own.where(billing_events.c.id < int(after))
    with context.read() as connection:
        run = connection.execute(select(runs).where(runs.c.id == run_id)).one_or_none()
        if run is None:
            context.not_found("Run")
        found = list(connection.execute(own.order_by(billing_events.c.id.desc()).limit(PAGE + 1)))
    share, left = _progress(context, run)
    may_rerun = run.job in dict(RERUN_JOBS) and run.coverage in context.policy.coverages
    return context.page(
        "run.html",
        run=run,
        zone_of=run.coverage if run.coverage in context.policy.coverages else None,
        counts=shown_counts(context, run),
        took=took(context, run),
        share=share,
        left=left,
        events=found[:PAGE],
        older=context.here(after=found[PAGE - 1].id) if len(found) > PAGE else None,
        rerun=context.url("/runs/rerun", job=run.job, period=run.period, coverage=run.coverage)
        if may_rerun
        else None,
    )


def _progress(context: RequestContext, run: Row[Any]) -> tuple[float | None, timedelta | None]:
    """Return a running monthly run's share of accounts done, and its estimated time left."""
    if run.job != MONTHLY_INVOICES or run.state != RunState.RUNNING:
        return None, None
    share = share_before(read_cursor(run.cursor))
    return share, None if run.trouble else time_left(share, took(context, run))
