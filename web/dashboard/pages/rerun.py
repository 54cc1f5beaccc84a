"""Running a month or a day again: first what it would do, then, with a reason and if it still is that, doing it."""

from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from sqlalchemy import Connection
from starlette.responses import Response

from shared.db.session import by_index_only
from shared.domain.calendar import Period
from shared.domain.schedule import RunKey
from shared.domain.states import RunState
from shared.invoicing.bills import MEANING, SkipReason
from shared.invoicing.month import Month
from shared.invoicing.preview import Preview, Sum, preview_month
from shared.messaging.jobs import DAILY_RETRIES, MONTHLY_INVOICES, job_of_run
from shared.operations.audit_log import AuditAction
from shared.payments.retry_preview import MEANING_OF_SKIP, RetryPreview, preview_retries
from shared.scheduling.rerun import NEVER, AskedAlreadyError, RunAsked, RunSnapshot, ask_again, read_run, tell
from shared.scheduling.runs import RunError, requested_run
from web.dashboard.formatting import count, money
from web.dashboard.pages.runs import AGAIN_JOBS
from web.dashboard.request_context import PageError, RequestContext

#: A million accounts are added up here, which takes longer than a page may elsewhere (s).
LONGEST_S = 120
#: Beyond these no calendar of ours goes.
FIRST_YEAR, LAST_YEAR = 2000, 2999
#: Examples named for a reason.
NAMED = 5

_ACTS = {
    None: AuditAction.RUN_START,
    RunState.AWAITING_CONFIRMATION: AuditAction.RUN_CONFIRM,
    RunState.FINISHED: AuditAction.RUN_AGAIN,
}
_ASK = {
    None: "Run it",
    RunState.AWAITING_CONFIRMATION: "Confirm it",
    RunState.FINISHED: "Run it again",
}


@dataclass(frozen=True)
class SkippedRows:
    """What isn't done for one reason; `examples` are names with their addresses."""

    rows: int
    meaning: str
    examples: list[tuple[str, str]]
    amount_minor: int = 0
    is_capped: bool = False


@dataclass(frozen=True)
class Plan:
    """What a run would do now, whichever job it is. `digest` is over ids and amounts."""

    rows: int
    amount_minor: int
    currency: str
    digest: str
    largest: list[tuple[str, str, int]]
    skipped: list[SkippedRows]
    sums: list[Sum]


def preview(context: RequestContext) -> Response:
    """Show what the run would do. Changes nothing, and the run may not even exist."""
    key = _key(context, context.asked)
    return _show(context, key, _plan(context, key, context.now))


def submit(context: RequestContext) -> Response:
    """Do it, if it would still do what the person saw; else show the preview anew and what changed."""
    key, reason = _key(context, context.said), context.reason()
    plan = _plan(context, key, context.now)
    snapshot = {"digest": context.said("digest"), "rows": plan.rows, "amount_minor": plan.amount_minor}
    cause = context.cause(reason)

    def work(connection: Connection) -> RunAsked:
        asked = ask_again(connection, context.policy, key, cause, _number(context, "event"))
        context.record_action(
            connection,
            _ACTS[asked.before],
            subject_kind="run",
            subject=str(asked.run_id),
            reason=reason,
            snapshot=snapshot,
            result={
                "job": key.job,
                "period": key.period,
                "coverage": key.coverage,
                "before": asked.before or "none",
            },
        )
        return asked

    try:
        if plan.digest != snapshot["digest"]:
            raise _ChangedError(_what_changed(context, plan))
        asked = context.write(work)
    except (_ChangedError, AskedAlreadyError) as error:
        _refuse(context, key, snapshot, reason, str(error))
        return _show(context, key, plan, changed=f"Nothing was done. {error}", status=409)
    except RunError as error:
        raise PageError(400, "That run can't be asked for.", f"{_sentence(error)}.") from None
    context.site.runtime.enqueue([job_of_run(key.job, asked.run_id)])
    return context.go(f"/runs/{asked.run_id}", "Asked for. A worker takes it up within seconds.")


class _ChangedError(Exception):
    """The run would do something else by now; the message says what."""


def _refuse(context: RequestContext, key: RunKey, snapshot: dict[str, Any], reason: str, why: str) -> None:
    """Keep in the book that somebody wanted it, and why it wasn't done."""

    def work(connection: Connection) -> None:
        found = read_run(connection, key)
        context.record_action(
            connection,
            AuditAction.RUN_START if found.run is None else AuditAction.RUN_AGAIN,
            subject_kind="run",
            subject=" ".join(key) if found.run is None else str(found.run.id),
            reason=reason,
            outcome="refused",
            snapshot=snapshot,
            result={"why": why},
        )

    context.write(work)


def _show(context: RequestContext, key: RunKey, plan: Plan, changed: str = "", status: int = 200) -> Response:
    with context.read() as connection:
        snapshot = read_run(connection, key)
    state = None if snapshot.run is None else RunState(snapshot.run.state)
    title = dict(AGAIN_JOBS)[key.job]
    return context.page(
        "run_preview.html",
        status,
        title=f"{title} {key.period} {key.coverage}: what a run would do",
        job=key.job,
        period=key.period,
        coverage=key.coverage,
        plan=plan,
        snapshot=snapshot,
        stands=tell(snapshot),
        refused=_why_not(context, key, snapshot),
        changed=changed,
        ask_title=_ASK.get(state, "Run it"),
    )


def _why_not(context: RequestContext, key: RunKey, snapshot: RunSnapshot) -> str:
    """Why it can't be asked for at this moment; empty if it can."""
    try:
        requested_run(context.policy, key, context.now)
    except RunError as error:
        return f"{_sentence(error)}."
    return "It is under way: there is nothing to confirm." if snapshot.is_under_way else ""


def _plan(context: RequestContext, key: RunKey, now: datetime) -> Plan:
    if key.job == MONTHLY_INVOICES:
        month = Month.of(context.policy, key.coverage, key.period)
        return _plan_of_month(context, preview_month(context.site.engine, month, limit_s=LONGEST_S))
    with context.read() as connection:
        # Thousands of payments and their cards, each by its index: never the tables from end to end.
        by_index_only(connection, limit_s=LONGEST_S)
        return _plan_of_day(context, preview_retries(connection, context.policy.coverage(key.coverage), now))


def _plan_of_month(context: RequestContext, found: Preview) -> Plan:
    def link(external_id: str) -> str:
        return context.url("/accounts", text=external_id)

    return Plan(
        rows=found.counts.invoices,
        amount_minor=found.counts.total_minor,
        currency=found.month.coverage.currency,
        digest=found.digest,
        largest=[
            (row.account_external_id, link(row.account_external_id), row.total_minor) for row in found.largest
        ],
        skipped=[
            SkippedRows(
                accounts,
                MEANING[SkipReason(reason)],
                [(name, link(name)) for name in found.skipped[SkipReason(reason)][:NAMED]],
            )
            for reason, accounts in sorted(found.counts.skipped.items())
        ],
        sums=found.sums,
    )


def _plan_of_day(context: RequestContext, found: RetryPreview) -> Plan:
    def link(payment_id: str) -> str:
        return context.url(f"/payments/{payment_id}")

    return Plan(
        rows=found.payments,
        amount_minor=found.amount_minor,
        currency=found.currency,
        digest=found.digest,
        largest=[(_short(payment_id), link(payment_id), amount) for payment_id, amount in found.largest],
        skipped=[
            SkippedRows(
                row.payments,
                MEANING_OF_SKIP[row.reason],
                [(_short(payment_id), link(payment_id)) for payment_id in row.examples[:NAMED]],
                row.amount_minor,
                row.is_capped,
            )
            for row in found.skipped
        ],
        sums=[],
    )


def _what_changed(context: RequestContext, plan: Plan) -> str:
    rows, amount = _number(context, "rows"), _number(context, "amount")
    before = f"{count(rows)} over {money(amount, plan.currency)}"
    now = f"{count(plan.rows)} over {money(plan.amount_minor, plan.currency)}"
    if before == now:
        return f"What you saw has changed: it still is {now}, but not of the same ones or not in the same amounts."
    return f"What you saw has changed: it was {before}, and now it would be {now}."


def _key(context: RequestContext, read: Any) -> RunKey:
    job, period, coverage = read("job", 40), read("period", 10), read("coverage", 40)
    if job not in (MONTHLY_INVOICES, DAILY_RETRIES):
        raise PageError(400, "Which job?", "Choose monthly invoices or daily retries on the page of runs.")
    if coverage not in context.policy.coverages:
        raise PageError(400, "Which coverage?", f"There are {', '.join(sorted(context.policy.coverages))}.")
    try:
        return RunKey(job, _as_written_by_us(job, period), coverage)
    except ValueError:
        what = "a month like 2026-10" if job == MONTHLY_INVOICES else "a day like 2026-11-04"
        raise PageError(400, "Which month or day?", f"Go back and write {what}.") from None


def _as_written_by_us(job: str, period: str) -> str:
    """A period in the one way in which run rows carry it; ValueError for what is none."""
    day = Period.parse(period).first_day if job == MONTHLY_INVOICES else date.fromisoformat(period)
    if not FIRST_YEAR <= day.year <= LAST_YEAR:
        raise ValueError("there were no invoices then")
    return str(Period.of(day)) if job == MONTHLY_INVOICES else str(day)


def _number(context: RequestContext, name: str) -> int:
    """A number that our own form carries; what isn't one is no number of ours."""
    said = context.said(name, 40)
    return int(said) if said.isascii() and said.isdigit() and len(said) < 25 else NEVER


def _short(payment_id: str) -> str:
    """Enough of an id to tell a few apart; the whole one is behind it."""
    return f"{payment_id[:8]}…"


def _sentence(error: Exception) -> str:
    said = str(error)
    return said[:1].upper() + said[1:]
