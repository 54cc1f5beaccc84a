"""Rerun a month or a day: preview it, then start it with a reason if the preview is still current."""

from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from sqlalchemy import Connection
from starlette.responses import Response

from shared.db.session import by_index_only
from shared.domain.calendar import Period
from shared.domain.schedule import RunKey
from shared.domain.states import RunState
from shared.invoicing.bills import DESCRIPTION, SkipReason
from shared.invoicing.month import Month
from shared.invoicing.preview import Preview, Sum, preview_month
from shared.messaging.jobs import DAILY_RETRIES, MONTHLY_INVOICES, job_of_run
from shared.operations.audit_log import AuditAction
from shared.scheduling.rerun import (
    NEVER,
    AlreadyRequestedError,
    RerunRequested,
    RunSnapshot,
    describe_run,
    read_run,
    request_rerun,
)
from shared.scheduling.retry_preview import MEANING_OF_SKIP, RetryPreview, preview_retries
from shared.scheduling.runs import RunError, requested_run
from web.dashboard.formatting import count, money
from web.dashboard.pages.runs import RERUN_JOBS
from web.dashboard.request_context import PageError, RequestContext

#: The preview sums up to a million accounts, which takes longer than other pages may (s).
LONGEST_S = 120
#: Accepted years.
FIRST_YEAR, LAST_YEAR = 2000, 2999
#: Examples shown per reason.
NAMED = 5

_AUDIT_ACTIONS = {
    None: AuditAction.RUN_START,
    RunState.AWAITING_CONFIRMATION: AuditAction.RUN_CONFIRM,
    RunState.FINISHED: AuditAction.RUN_AGAIN,
}
_SUBMIT_LABELS = {
    None: "Start run",
    RunState.AWAITING_CONFIRMATION: "Confirm run",
    RunState.FINISHED: "Rerun",
}


@dataclass(frozen=True)
class SkippedRows:
    """What is skipped for one reason; `examples` are names with their URLs."""

    rows: int
    meaning: str
    examples: list[tuple[str, str]]
    amount_minor: int = 0
    is_capped: bool = False


@dataclass(frozen=True)
class Plan:
    """What a run would do now, for either job. `digest` covers ids and amounts."""

    rows: int
    amount_minor: int
    currency: str
    digest: str
    largest: list[tuple[str, str, int]]
    skipped: list[SkippedRows]
    sums: list[Sum]


def preview(context: RequestContext) -> Response:
    """Preview the run. Changes nothing; the run doesn't have to exist."""
    key = _key(context, context.query_text)
    return _show(context, key, _plan(context, key, context.now))


def submit(context: RequestContext) -> Response:
    """Start the run if the preview is still current; otherwise show the new preview and what changed."""
    key, reason = _key(context, context.form_text), context.reason()
    plan = _plan(context, key, context.now)
    snapshot = {"digest": context.form_text("digest"), "rows": plan.rows, "amount_minor": plan.amount_minor}
    cause = context.cause(reason)

    def work(connection: Connection) -> RerunRequested:
        requested = request_rerun(connection, context.policy, key, cause, _number(context, "event"))
        context.record_action(
            connection,
            _AUDIT_ACTIONS[requested.before],
            subject_kind="run",
            subject=str(requested.run_id),
            reason=reason,
            snapshot=snapshot,
            result={
                "job": key.job,
                "period": key.period,
                "coverage": key.coverage,
                "before": requested.before or "none",
            },
        )
        return requested

    try:
        if plan.digest != snapshot["digest"]:
            raise _ChangedError(_what_changed(context, plan))
        requested = context.write(work)
    except (_ChangedError, AlreadyRequestedError) as error:
        _refuse(context, key, snapshot, reason, str(error))
        return _show(context, key, plan, changed=f"Not started. {error}", status=409)
    except RunError as error:
        raise PageError(400, "This run can't be started", f"{_sentence(error)}.") from None
    context.site.runtime.enqueue([job_of_run(key.job, requested.run_id)])
    return context.redirect(f"/runs/{requested.run_id}", "Run requested: a worker starts it within seconds.")


class _ChangedError(Exception):
    """The preview has changed; the message says how."""


def _refuse(context: RequestContext, key: RunKey, snapshot: dict[str, Any], reason: str, why: str) -> None:
    """Record the refused request and its reason in the audit log."""

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
    title = dict(RERUN_JOBS)[key.job]
    return context.page(
        "run_preview.html",
        status,
        title=f"{title} {key.period} {key.coverage}: preview",
        job=key.job,
        period=key.period,
        coverage=key.coverage,
        plan=plan,
        snapshot=snapshot,
        stands=describe_run(snapshot),
        refused=_why_not(context, key, snapshot),
        changed=changed,
        submit_label=_SUBMIT_LABELS.get(state, "Start run"),
    )


def _why_not(context: RequestContext, key: RunKey, snapshot: RunSnapshot) -> str:
    """Return why the run can't be started now; empty if it can."""
    try:
        requested_run(context.policy, key, context.now)
    except RunError as error:
        return f"{_sentence(error)}."
    return "The run is already in progress." if snapshot.is_in_progress else ""


def _plan(context: RequestContext, key: RunKey, now: datetime) -> Plan:
    if key.job == MONTHLY_INVOICES:
        month = Month.of(context.policy, key.coverage, key.period)
        return _plan_of_month(context, preview_month(context.site.engine, month, limit_s=LONGEST_S))
    with context.read() as connection:
        # Thousands of payments and their cards, each by index: never a full table scan.
        by_index_only(connection, limit_s=LONGEST_S)
        coverage = context.policy.coverage(key.coverage)
        return _plan_of_day(context, preview_retries(connection, coverage, now, context.machine_now))


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
                DESCRIPTION[SkipReason(reason)],
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
    before = f"{count(rows)} with a total of {money(amount, plan.currency)}"
    now = f"{count(plan.rows)} with a total of {money(plan.amount_minor, plan.currency)}"
    if before == now:
        return f"The preview has changed: still {now}, but with other items or amounts."
    return f"The preview has changed: it was {before} and is now {now}."


def _key(context: RequestContext, read: Any) -> RunKey:
    job, period, coverage = read("job", 40), read("period", 10), read("coverage", 40)
    if job not in (MONTHLY_INVOICES, DAILY_RETRIES):
        raise PageError(400, "Unknown job", "Choose monthly invoices or daily retries on the runs page.")
    if coverage not in context.policy.coverages:
        raise PageError(400, "Unknown coverage", f"Coverages: {', '.join(sorted(context.policy.coverages))}.")
    try:
        return RunKey(job, _canonical_period(job, period), coverage)
    except ValueError:
        what = "a month like 2026-10" if job == MONTHLY_INVOICES else "a day like 2026-11-04"
        raise PageError(400, "Invalid month or day", f"Go back and enter {what}.") from None


def _canonical_period(job: str, period: str) -> str:
    """Return the period as run rows store it; ValueError if it is invalid."""
    day = Period.parse(period).first_day if job == MONTHLY_INVOICES else date.fromisoformat(period)
    if not FIRST_YEAR <= day.year <= LAST_YEAR:
        raise ValueError("year out of range")
    return str(Period.of(day)) if job == MONTHLY_INVOICES else str(day)


def _number(context: RequestContext, name: str) -> int:
    """Return a number of our form; NEVER if it isn't one."""
    text = context.form_text(name, 40)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 25 else NEVER


def _short(payment_id: str) -> str:
    """Shorten an id; its link has the whole one."""
    return f"{payment_id[:8]}…"


def _sentence(error: Exception) -> str:
    text = str(error)
    return text[:1].upper() + text[1:]
