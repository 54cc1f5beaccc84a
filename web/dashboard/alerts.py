"""Alerts as text: what is wrong, what to do about it, and a link to it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta

from shared.domain.states import RunState
from shared.explain.descriptions import FINDING_DESCRIPTIONS
from shared.messaging.queue_depths import Depth
from web.dashboard.formatting import count, span, words
from web.dashboard.queries.alerts import COUNT_UP_TO, AlertFacts
from web.dashboard.request_context import RequestContext


@dataclass(frozen=True)
class Alert:
    """What is wrong and what to do; `link` is a path of the dashboard and its label."""

    title: str
    what_to_do: str
    link: tuple[str, str] | None = None


def alerts_of(
    context: RequestContext, facts: AlertFacts, depths: Mapping[str, Depth] | None, *, has_doorbell: bool
) -> list[Alert]:
    """Return the alerts, the most severe first."""
    return [
        *_processes(facts),
        *_doorbell(context, depths, has_doorbell=has_doorbell),
        *_unknown(context, facts),
        *_due(context, facts),
        *_stripe_events(context, facts),
        *_runs(context, facts),
        *_pauses(context, facts),
        *_findings(context, facts),
        *_calls(context, facts),
    ]


def _processes(facts: AlertFacts) -> Iterator[Alert]:
    if not facts.is_scheduler_alive:
        yield Alert(
            "No leading scheduler: no runs are created.",
            "Start the Procfile’s scheduler, or check its log. Missed runs are caught up.",
        )
    if not facts.has_worker:
        yield Alert(
            "No worker heartbeat in the last 30 seconds: no card is charged.",
            "Start the Procfile’s workers, or check their log. Due work waits for them.",
        )


def _doorbell(
    context: RequestContext, depths: Mapping[str, Depth] | None, *, has_doorbell: bool
) -> Iterator[Alert]:
    if has_doorbell and depths is None:
        yield Alert(
            "Redis doesn't respond: workers aren't woken.",
            "Restart Redis. Nothing is lost: due work is in the database, and the scheduler enqueues it again.",
        )
    dead = {queue: depth.dead for queue, depth in (depths or {}).items() if depth.dead}
    if dead:
        where = ", ".join(f"{count(number)} in {queue}" for queue, number in dead.items())
        yield Alert(
            f"Dead letters: {where}.",
            "Read their tracebacks. Their rows are retried automatically; a dead letter that returns is a defect.",
            (context.url("/queues"), "Queues"),
        )


def _unknown(context: RequestContext, facts: AlertFacts) -> Iterator[Alert]:
    if facts.unknown_too_long:
        yield Alert(
            f"{_counted(facts.unknown_too_long)} with unknown outcome for more than 15 minutes "
            f"(oldest: {_age(facts.unknown.oldest)}).",
            "They are looked up repeatedly. Check the reasons, and whether the processor responds.",
            (context.url("/unknown"), "Unknown attempts"),
        )


def _due(context: RequestContext, facts: AlertFacts) -> Iterator[Alert]:
    due = facts.due_too_long
    if due.rows:
        yield Alert(
            f"{_counted(due.rows, 'payment')} due for more than 15 minutes (oldest: {_age(due.oldest)}).",
            "Normal while a month start is processed. Otherwise check whether workers run, queues are paused, "
            "or the processor doesn't respond.",
            (context.url("/payments", state="due"), "Due payments"),
        )


def _stripe_events(context: RequestContext, facts: AlertFacts) -> Iterator[Alert]:
    trouble, parked, late = facts.stripe_events.trouble, facts.stripe_events.parked, facts.stripe_events.late
    if trouble.rows:
        what = _counted(trouble.rows, "Stripe event")
        are = "is" if parked == 1 else "are"
        given_up = f"; {count(parked)} of them {are} not retried any more" if parked else ""
        yield Alert(
            f"{what} could not be applied (oldest: {_age(trouble.oldest)}){given_up}.",
            "Read the reason of each and fix the cause: often a wrong Stripe key. Then they are applied by "
            "themselves; those that aren't retried any more need “apply again”.",
            (context.url("/stripe-events", state="trouble"), "Stripe events"),
        )
    if late.rows:
        yield Alert(
            f"{_counted(late.rows, 'Stripe event')} received more than 15 minutes ago and not applied "
            f"(oldest: {_age(late.oldest)}).",
            "Check whether workers run, the queue interactive is paused, or Stripe doesn't respond.",
            (context.url("/stripe-events", state="received"), "Stripe events"),
        )


def _runs(context: RequestContext, facts: AlertFacts) -> Iterator[Alert]:
    for run in facts.runs:
        name = f"{run.job} {run.period} {run.coverage}"
        link = (context.url(f"/runs/{run.id}"), "Show run")
        if run.state == RunState.AWAITING_CONFIRMATION:
            yield Alert(f"{name} is late and awaits confirmation.", "Check its preview and confirm it.", link)
        else:
            yield Alert(f"{name} is stalled: {run.trouble}.", "It is retried automatically; fix the cause.", link)


def _pauses(context: RequestContext, facts: AlertFacts) -> Iterator[Alert]:
    for pause in facts.pauses:
        yield Alert(
            f"Queue {pause.queue} is paused by {pause.paused_by}: {pause.reason}.",
            "Resume it once the reason is resolved; until then its work waits.",
            (context.url("/queues"), "Queues"),
        )


def _findings(context: RequestContext, facts: AlertFacts) -> Iterator[Alert]:
    for row in facts.findings:
        description = FINDING_DESCRIPTIONS.get(row.kind)
        yield Alert(
            f"{_counted(row.findings, 'open finding')}: {words(row.kind)}"
            f"{f' – {description.meaning}' if description else ''}.",
            f"{_sentence(description.what_to_do)}." if description else "Check it and resolve it with a reason.",
            (context.url("/findings", kind=row.kind), "Findings"),
        )


def _calls(context: RequestContext, facts: AlertFacts) -> Iterator[Alert]:
    for call in facts.calls:
        payment = next((each for each in reversed(call.payments) if each is not None), None)
        if call.is_defect:
            yield Alert(
                f"{_counted(call.calls, 'outcome')} not recorded in the last 24 hours: {call.reason}.",
                "This is a defect: report the error. Nothing else is charged for these payments until it is fixed.",
                None if payment is None else (context.url(f"/payments/{payment}"), "Example payment"),
            )
            continue
        yield Alert(
            f"{_counted(call.calls, 'processor error')} in the last 24 hours: {call.reason}.",
            "Check the payment: is the card the cause, or our request?",
            None if payment is None else (context.url(f"/payments/{payment}"), "Example payment"),
        )


def _counted(number: int, what: str = "attempt") -> str:
    more = "+" if number >= COUNT_UP_TO else ""
    return f"{count(number)}{more} {what}{'' if number == 1 else 's'}"


def _age(length: timedelta | None) -> str:
    return "a while" if length is None else span(length)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
