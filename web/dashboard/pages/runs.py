"""Runs: which there were, how they went, and a way to one more."""

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
from web.dashboard.queries.money_metrics import present_period
from web.dashboard.queries.paging import PAGE, Paging, found, parse_place
from web.dashboard.request_context import RequestContext

#: What a person may ask for again.
AGAIN_JOBS = ((MONTHLY_INVOICES, "Monthly invoices"), (DAILY_RETRIES, "Daily retries"))


#: Counts of a monthly run by their place.
_ORDER = {name: place for place, name in enumerate(vars(Counts()))}


def show(context: RequestContext) -> Response:
    """Newest first."""
    paging = Paging(parse_place(context.asked("after")), parse_place(context.asked("before")))
    place = (runs.c.created_at, runs.c.id)
    query = _filtered(context).where(*paging.where(*place)).order_by(*paging.order(*place)).limit(PAGE + 1)
    with context.read() as connection:
        page = found(paging, connection.execute(query).all(), "created_at")
    first = next(iter(context.policy.coverages.values()))
    return context.page(
        "runs.html",
        rows=[(run, counts_in_words(context, run), took(context, run)) for run in page.rows],
        jobs=JOBS,
        states=list(RunState),
        again_jobs=AGAIN_JOBS,
        an_example=str(present_period(first, context.now)),
        newer=page.newer and context.here(before=page.newer, after=None),
        older=page.older and context.here(after=page.older, before=None),
    )


def took(context: RequestContext, run: Row[Any]) -> timedelta | None:
    """How long a run took, or takes already, in business time; None if it never began."""
    if run.started_at is None:
        return None
    length: timedelta = (run.finished_at or context.now) - run.started_at
    return max(timedelta(0), length)


def counts_in_words(context: RequestContext, run: Row[Any]) -> list[tuple[str, str]]:
    """What a run counted, by name, without what is zero; sums as money of the coverage."""
    coverage = context.policy.coverages.get(run.coverage)
    return _counted(run.counts, coverage.currency if coverage else None)


def _counted(counts: Mapping[str, Any], currency: str | None, of: str = "") -> list[tuple[str, str]]:
    said: list[tuple[str, str]] = []
    for name, value in sorted(counts.items(), key=_place):
        if isinstance(value, Mapping):
            said += _counted(value, currency, f"{words(name)}: ")
        elif isinstance(value, int) and value:
            is_money = name.endswith("_minor") and currency is not None
            shown = money(value, currency) if is_money and currency else count(value)
            said.append((of + words(name.removesuffix("_minor") if is_money else name), shown))
    return said


def _place(counted: tuple[str, Any]) -> tuple[bool, int, str]:
    """Counts of a month in the order in which they come to be, which JSONB forgets; what is nested comes last."""
    name, value = counted
    return isinstance(value, Mapping), _ORDER.get(name, len(_ORDER)), name


def _filtered(context: RequestContext) -> Select[Any]:
    query = select(runs)
    for name in ("job", "period", "coverage", "state"):
        value = context.asked(name)
        if value:
            query = query.where(runs.c[name] == value)
    return query
