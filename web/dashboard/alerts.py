"""Alarms in words: what is wrong, what to do about it, and where."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta

from shared.domain.states import RunState
from shared.explain.descriptions import FINDING_DESCRIPTIONS
from shared.messaging.queue_depths import Depth
from web.dashboard.formatting import count, span, words
from web.dashboard.queries.alerts import COUNT_UP_TO, AlertFigures
from web.dashboard.request_context import RequestContext


@dataclass(frozen=True)
class Alert:
    """What is wrong and what to do; `link` is an address of ours with the words that lead there."""

    title: str
    what_to_do: str
    link: tuple[str, str] | None = None


def alerts_of(
    context: RequestContext, figures: AlertFigures, depths: Mapping[str, Depth] | None, *, has_doorbell: bool
) -> list[Alert]:
    """Return what needs somebody, the worst first."""
    return [
        *_processes(figures),
        *_doorbell(context, depths, has_doorbell=has_doorbell),
        *_unknown(context, figures),
        *_due(context, figures),
        *_runs(context, figures),
        *_pauses(context, figures),
        *_findings(context, figures),
        *_calls(context, figures),
    ]


def _processes(figures: AlertFigures) -> Iterator[Alert]:
    if not figures.is_scheduler_alive:
        yield Alert(
            "No scheduler leads: nothing becomes due by itself.",
            "Start the Procfile’s scheduler, or look into its log. What was due meanwhile is made up for.",
        )
    if not figures.has_worker:
        yield Alert(
            "No worker was heard of in the last 30 seconds: nobody is charged.",
            "Start the Procfile’s workers, or look into their log. What is due waits for them.",
        )


def _doorbell(
    context: RequestContext, depths: Mapping[str, Depth] | None, *, has_doorbell: bool
) -> Iterator[Alert]:
    if has_doorbell and depths is None:
        yield Alert(
            "Redis doesn't answer: workers aren't rung for.",
            "Start it again. Nothing is lost: the rows know what is due, and the scheduler rings anew.",
        )
    dead = {queue: depth.dead for queue, depth in (depths or {}).items() if depth.dead}
    if dead:
        where = ", ".join(f"{count(number)} in {queue}" for queue, number in dead.items())
        yield Alert(
            f"Dead letters: {where}.",
            "Read their tracebacks. The rows come back by themselves; a letter that returns is a defect.",
            (context.url("/queues"), "Queues"),
        )


def _unknown(context: RequestContext, figures: AlertFigures) -> Iterator[Alert]:
    if figures.unknown_too_long:
        yield Alert(
            f"{_many(figures.unknown_too_long)} of unknown outcome for more than 15 minutes "
            f"(the oldest for {_long(figures.unknown.oldest)}).",
            "Settlement asks the processor again and again. See what it is told, and whether it is answered.",
            (context.url("/unknown"), "Unknown attempts"),
        )


def _due(context: RequestContext, figures: AlertFigures) -> Iterator[Alert]:
    due = figures.due_too_long
    if due.rows:
        yield Alert(
            f"{_many(due.rows, 'payment')} due for more than 15 minutes (the oldest for {_long(due.oldest)}).",
            "Normal while a month start is worked through. Otherwise see whether workers run, lanes are paused, "
            "or the processor doesn't answer.",
            (context.url("/payments", state="due"), "Due payments"),
        )


def _runs(context: RequestContext, figures: AlertFigures) -> Iterator[Alert]:
    for run in figures.runs:
        name = f"{run.job} {run.period} {run.coverage}"
        there = (context.url(f"/runs/{run.id}"), "The run")
        if run.state == RunState.AWAITING_CONFIRMATION:
            yield Alert(f"{name} was late and awaits confirmation.", "Look at its preview and confirm it.", there)
        else:
            yield Alert(
                f"{name} can't get on: {run.trouble}.", "It tries again by itself; mend what it names.", there
            )


def _pauses(context: RequestContext, figures: AlertFigures) -> Iterator[Alert]:
    for pause in figures.pauses:
        yield Alert(
            f"The lane {pause.queue} is paused by {pause.paused_by}: {pause.reason}.",
            "Resume it once the reason is gone; until then its work waits.",
            (context.url("/queues"), "Queues"),
        )


def _findings(context: RequestContext, figures: AlertFigures) -> Iterator[Alert]:
    for row in figures.findings:
        description = FINDING_DESCRIPTIONS.get(row.kind)
        yield Alert(
            f"{_many(row.findings, 'open finding')}: {words(row.kind)}"
            f"{f' – {description.meaning}' if description else ''}.",
            f"{_sentence(description.what_to_do)}." if description else "Look at it and resolve it with a reason.",
            (context.url("/findings", kind=row.kind), "Findings"),
        )


def _calls(context: RequestContext, figures: AlertFigures) -> Iterator[Alert]:
    for call in figures.calls:
        payment = next((each for each in reversed(call.payments) if each is not None), None)
        yield Alert(
            f"{_many(call.calls, 'call')} for attention in the last 24 hours: {call.reason}.",
            "Look at the payment: is it the card, or our request?",
            None if payment is None else (context.url(f"/payments/{payment}"), "A payment it is about"),
        )


def _many(number: int, what: str = "attempt") -> str:
    more = "+" if number >= COUNT_UP_TO else ""
    return f"{count(number)}{more} {what}{'' if number == 1 else 's'}"


def _long(length: timedelta | None) -> str:
    return "a while" if length is None else span(length)


def _sentence(said: str) -> str:
    return said[:1].upper() + said[1:]
