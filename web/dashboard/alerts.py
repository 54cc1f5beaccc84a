"""Alarms in words: what is wrong, what to do about it, and where."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta

from shared.domain.states import RunState
from shared.explain.descriptions import MEANING_OF_FINDING
from shared.messaging.queue_depths import Depth
from web.dashboard.formatting import count, span, words
from web.dashboard.queries.alerts import COUNT_UP_TO, Troubles
from web.dashboard.request_context import Visit


@dataclass(frozen=True)
class Alarm:
    """What is wrong and what to do; `link` is an address of ours with the words that lead there."""

    title: str
    what_to_do: str
    link: tuple[str, str] | None = None


def alarms_of(
    visit: Visit, troubles: Troubles, depths: Mapping[str, Depth] | None, *, has_doorbell: bool
) -> list[Alarm]:
    """Return what needs somebody, the worst first."""
    return [
        *_processes(troubles),
        *_doorbell(visit, depths, has_doorbell=has_doorbell),
        *_unknown(visit, troubles),
        *_due(visit, troubles),
        *_runs(visit, troubles),
        *_pauses(visit, troubles),
        *_findings(visit, troubles),
        *_calls(visit, troubles),
    ]


def _processes(troubles: Troubles) -> Iterator[Alarm]:
    if not troubles.is_scheduler_alive:
        yield Alarm(
            "No scheduler leads: nothing becomes due by itself.",
            "Start the Procfile’s scheduler, or look into its log. What was due meanwhile is made up for.",
        )
    if not troubles.has_worker:
        yield Alarm(
            "No worker was heard of in the last 30 seconds: nobody is charged.",
            "Start the Procfile’s workers, or look into their log. What is due waits for them.",
        )


def _doorbell(visit: Visit, depths: Mapping[str, Depth] | None, *, has_doorbell: bool) -> Iterator[Alarm]:
    if has_doorbell and depths is None:
        yield Alarm(
            "Redis doesn't answer: workers aren't rung for.",
            "Start it again. Nothing is lost: the rows know what is due, and the scheduler rings anew.",
        )
    dead = {queue: depth.dead for queue, depth in (depths or {}).items() if depth.dead}
    if dead:
        where = ", ".join(f"{count(number)} in {queue}" for queue, number in dead.items())
        yield Alarm(
            f"Dead letters: {where}.",
            "Read their tracebacks. The rows come back by themselves; a letter that returns is a defect.",
            (visit.url("/queues"), "Queues"),
        )


def _unknown(visit: Visit, troubles: Troubles) -> Iterator[Alarm]:
    if troubles.unknown_too_long:
        yield Alarm(
            f"{_many(troubles.unknown_too_long)} of unknown outcome for more than 15 minutes "
            f"(the oldest for {_long(troubles.unknown.oldest)}).",
            "Settlement asks the processor again and again. See what it is told, and whether it is answered.",
            (visit.url("/unknown"), "Unknown attempts"),
        )


def _due(visit: Visit, troubles: Troubles) -> Iterator[Alarm]:
    due = troubles.due_too_long
    if due.rows:
        yield Alarm(
            f"{_many(due.rows, 'payment')} due for more than 15 minutes (the oldest for {_long(due.oldest)}).",
            "Normal while a month start is worked through. Otherwise see whether workers run, lanes are paused, "
            "or the processor doesn't answer.",
            (visit.url("/payments", state="due"), "Due payments"),
        )


def _runs(visit: Visit, troubles: Troubles) -> Iterator[Alarm]:
    for run in troubles.runs:
        name = f"{run.job} {run.period} {run.coverage}"
        there = (visit.url(f"/runs/{run.id}"), "The run")
        if run.state == RunState.AWAITING_CONFIRMATION:
            yield Alarm(f"{name} was late and awaits confirmation.", "Look at its preview and confirm it.", there)
        else:
            yield Alarm(
                f"{name} can't get on: {run.trouble}.", "It tries again by itself; mend what it names.", there
            )


def _pauses(visit: Visit, troubles: Troubles) -> Iterator[Alarm]:
    for pause in troubles.pauses:
        yield Alarm(
            f"The lane {pause.queue} is paused by {pause.paused_by}: {pause.reason}.",
            "Resume it once the reason is gone; until then its work waits.",
            (visit.url("/queues"), "Queues"),
        )


def _findings(visit: Visit, troubles: Troubles) -> Iterator[Alarm]:
    for row in troubles.findings:
        meaning = MEANING_OF_FINDING.get(row.kind)
        yield Alarm(
            f"{_many(row.findings, 'open finding')}: {words(row.kind)}{f' – {meaning.means}' if meaning else ''}.",
            f"{_sentence(meaning.to_do)}." if meaning else "Look at it and resolve it with a reason.",
            (visit.url("/findings", kind=row.kind), "Findings"),
        )


def _calls(visit: Visit, troubles: Troubles) -> Iterator[Alarm]:
    for call in troubles.calls:
        payment = next((each for each in reversed(call.payments) if each is not None), None)
        yield Alarm(
            f"{_many(call.calls, 'call')} for attention in the last 24 hours: {call.reason}.",
            "Look at the payment: is it the card, or our request?",
            None if payment is None else (visit.url(f"/payments/{payment}"), "A payment it is about"),
        )


def _many(number: int, what: str = "attempt") -> str:
    more = "+" if number >= COUNT_UP_TO else ""
    return f"{count(number)}{more} {what}{'' if number == 1 else 's'}"


def _long(length: timedelta | None) -> str:
    return "a while" if length is None else span(length)


def _sentence(said: str) -> str:
    return said[:1].upper() + said[1:]
