"""Runs: the list, with filters, and a form to preview a rerun."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import Row, Select, select
from starlette.responses import Response

from shared.db.tables.system import runs
from shared.domain.states import RunState
from shared.invoicing.counts import Counts
from shared.messaging.jobs import DAILY_RETRIES, MONTHLY_INVOICES
from shared.scheduling.runs import JOBS
from web.dashboard.formatting import count, money, words
from web.dashboard.queries.money_metrics import current_period
from web.dashboard.queries.paging import PAGE, Paging, make_page, parse_cursor
from web.dashboard.request_context import RequestContext

#: Jobs that an operator may rerun.
RERUN_JOBS = ((MONTHLY_INVOICES, "Monthly invoices"), (DAILY_RETRIES, "Daily retries"))


#: The order of a monthly run's counts.
_ORDER = {name: key for key, name in enumerate(vars(Counts()))}


def show(context: RequestContext) -> Response:
    """Newest first."""
    paging = Paging(parse_cursor(context.query_text("after")), parse_cursor(context.query_text("before")))
    key = (runs.c.created_at, runs.c.id)
    query = _filtered(context).where(*paging.where(*key)).order_by(*paging.order(*key)).limit(PAGE + 1)
    with context.read() as connection:
        page = make_page(paging, connection.execute(query).all(), "created_at")
    first = next(iter(context.policy.coverages.values()))
    return context.page(
        "runs.html",
        rows=[(run, shown_counts(context, run), took(context, run)) for run in page.rows],
        jobs=JOBS,
        states=list(RunState),
        rerun_jobs=RERUN_JOBS,
        example_period=str(current_period(first, context.now)),
        newer=page.newer and context.here(before=page.newer, after=None),
        older=page.older and context.here(after=page.older, before=None),
    )


def took(context: RequestContext, run: Row[Any]) -> timedelta | None:
    """Return a run's duration so far in business time; None if it hasn't started."""
    if run.started_at is None:
        return None
    length: timedelta = (run.finished_at or context.now) - run.started_at
    return max(timedelta(0), length)


def shown_counts(context: RequestContext, run: Row[Any]) -> list[tuple[str, str]]:
    """Return a run's counts by name without zeros; amounts as money of the coverage."""
    coverage = context.policy.coverages.get(run.coverage)
    return _counted(run.counts, coverage.currency if coverage else None)


def _counted(counts: Mapping[str, Any], currency: str | None, of: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in sorted(counts.items(), key=_sort_key):
        if isinstance(value, Mapping):
            rows += _counted(value, currency, f"{words(name)}: ")
        elif isinstance(value, int) and value:
            is_money = name.endswith("_minor") and currency is not None
            shown = money(value, currency) if is_money and currency else count(value)
            rows.append((of + words(name.removesuffix("_minor") if is_money else name), shown))
    return rows


def _sort_key(counted: tuple[str, Any]) -> tuple[bool, int, str]:
    """Sort a month's counts in their order of creation, which JSONB loses; nested counts come last."""
    name, value = counted
    return isinstance(value, Mapping), _ORDER.get(name, len(_ORDER)), name


def _filtered(context: RequestContext) -> Select[Any]:
    query = select(runs)
    for name in ("job", "period", "coverage", "state"):
        value = context.query_text(name)
        if value:
            query = query.where(runs.c[name] == value)
    return query
