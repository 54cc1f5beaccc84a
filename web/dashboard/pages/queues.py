"""Queues: how full each lane is, who works, pauses, and dead letters with what can be done about them."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import redis
import structlog
from dramatiq.brokers.redis import RedisBroker
from sqlalchemy import Connection
from starlette.responses import Response

from shared.messaging.dead_letters import (
    DeadLetter,
    Place,
    dead_letters_up_to,
    discard_dead_letters,
    find_dead_letters,
    list_dead_letters,
    place_of,
    requeue_dead_letters,
)
from shared.messaging.jobs import QUEUES
from shared.messaging.queue_depths import message_depths
from shared.messaging.queue_pauses import Pause, pause_queue, paused_queues, resume_queue
from shared.operations.audit_log import AuditAction
from shared.operations.heartbeats import processes_alive
from web.dashboard.queries.queue_metrics import gather_lanes
from web.dashboard.request_context import PageError, RequestContext

log = structlog.get_logger()

Result = TypeVar("Result")

#: Letters of a page.
PAGE = 50
#: Ids that a line of the book names; the count is there in any case.
IDS_IN_BOOK = 100
#: What can be done about letters, and what the book calls it.
ACTS = {"requeue": AuditAction.DEAD_LETTER_REQUEUE, "discard": AuditAction.DEAD_LETTER_DISCARD}
#: What each lane is for, in the order of the page.
MEANING = {
    "interactive": "somebody waits: clicks, cards just registered, Stripe's events",
    "batch": "charges by the thousand: month start and daily retries",
    "runs": "monthly and daily runs, a chunk at a time",
    "settlement": "looks at attempts of which nobody knows whether they moved money",
    "reconciliation": "nightly reconciliation, after everything else",
}


def show(context: RequestContext) -> Response:
    """Every lane and every process, as of now."""
    with context.read() as connection:
        lanes = gather_lanes(connection, context.now, context.machine_now)
        pauses = paused_queues(connection)
        alive = processes_alive(connection, context.machine_now)
    try:
        depths = message_depths(_broker(context))
    except (redis.RedisError, PageError) as error:
        log.warning("dashboard.redis_away", error=type(error).__name__)
        depths = None
    return context.page(
        "queues_now.html" if context.is_fragment else "queues.html",
        lanes={lane.queue: lane for lane in lanes},
        queues=QUEUES,
        meaning=MEANING,
        depths=depths,
        pauses=pauses,
        alive=alive,
    )


def pause(context: RequestContext) -> Response:
    """Stop the workers from taking this lane's messages, until somebody resumes it."""
    queue, cause = _queue(context), context.cause(context.reason())

    def work(connection: Connection) -> Pause | None:
        known = paused_queues(connection).get(queue)
        is_new = pause_queue(connection, queue, cause)
        context.record_action(
            connection,
            AuditAction.QUEUE_PAUSE,
            subject_kind="lane",
            subject=queue,
            reason=cause.reason,
            outcome="done" if is_new else "refused",
            result={} if is_new or known is None else {"paused_already_by": known.paused_by},
        )
        return None if is_new else known

    known = context.write(work)
    if known is not None:
        return context.go("/queues", f"{queue} is paused already, by {known.paused_by}: {known.reason}")
    return context.go(
        "/queues", f"{queue} is paused. Workers begin nothing of it within 3 s; what is in flight ends."
    )


def resume(context: RequestContext) -> Response:
    """Let the workers take this lane's messages again."""
    queue, cause = _queue(context), context.cause(context.reason())

    def work(connection: Connection) -> Pause | None:
        ended = resume_queue(connection, queue, cause)
        context.record_action(
            connection,
            AuditAction.QUEUE_RESUME,
            subject_kind="lane",
            subject=queue,
            reason=cause.reason,
            outcome="refused" if ended is None else "done",
            result={"was": "not paused"} if ended is None else {"paused_by": ended.paused_by, "why": ended.reason},
        )
        return ended

    if context.write(work) is None:
        return context.go("/queues", f"{queue} was not paused: somebody else has resumed it.")
    return context.go("/queues", f"{queue} goes on within 3 s.")


def dead_letters(context: RequestContext) -> Response:
    """A lane's dead letters, newest first."""
    queue, job = _queue(context), context.asked("job")
    found, rest = _ask(
        lambda: list_dead_letters(
            _broker(context), queue, job=job, older_than=_place(context.asked("older_than")), limit=PAGE
        )
    )
    return context.page(
        "dead_letters.html",
        queue=queue,
        job=job,
        dead_letters=found,
        older=context.here(older_than=_written(rest)) if rest else None,
        is_first=not context.asked("older_than"),
    )


def all_dead_letters(context: RequestContext) -> Response:
    """What requeueing or discarding every letter of a filter would do."""
    queue, job = _queue(context), context.asked("job")
    newest, _ = _ask(lambda: list_dead_letters(_broker(context), queue, job=job, limit=1))
    found = _ask(lambda: dead_letters_up_to(_broker(context), queue, job, place_of(newest[0]))) if newest else []
    jobs: dict[str, int] = {}
    for dead_letter in found:
        jobs[dead_letter.job or "can’t be read"] = jobs.get(dead_letter.job or "can’t be read", 0) + 1
    return context.page(
        "dead_letters_all.html",
        queue=queue,
        job=job,
        count=len(found),
        jobs=jobs,
        unreadable=sum(dead_letter.fresh is None for dead_letter in found),
        up_to=_written(place_of(newest[0])) if newest else "",
    )


def resolve_dead_letters(context: RequestContext) -> Response:
    """Requeue or discard the letters that were chosen, or all of a filter up to the newest that was seen."""
    queue, what, reason = _queue(context), context.said("what"), context.reason()
    if what not in ACTS:
        raise PageError(400, "Requeue or discard?", "Go back and press one of the two buttons.")
    up_to, job = _place(context.said("up_to")), context.said("job")
    snapshot: dict[str, Any] = {"queue": queue, "letters": context.said("count", 12)}
    if up_to is not None:
        found = _ask(lambda: dead_letters_up_to(_broker(context), queue, job, up_to))
        snapshot |= {"filter": job or "all", "up_to": _written(up_to)}
    else:
        ids = [one for one in context.form.getlist("letter") if isinstance(one, str)][: 2 * PAGE]
        if not ids:
            raise PageError(400, "No letter was chosen.", "Go back and tick at least one.")
        found, snapshot["letters"] = _ask(lambda: find_dead_letters(_broker(context), queue, ids)), len(ids)
    done = _settle(context, queue, what, reason, found, snapshot)
    return context.go(f"/queues/{queue}/dead-letters", _told(what, len(done), int_of(snapshot["letters"])))


def _settle(
    context: RequestContext,
    queue: str,
    what: str,
    reason: str,
    found: Sequence[DeadLetter],
    snapshot: dict[str, Any],
) -> list[str]:
    """Do it between two lines of the book: Redis can't be part of a transaction, and nothing is done unwritten."""
    ids = [dead_letter.id for dead_letter in found]
    _write_down(context, what, queue, reason, "started", snapshot, ids)
    try:
        if what == "requeue":
            done = requeue_dead_letters(_broker(context), queue, found)
        else:
            done = discard_dead_letters(_broker(context), queue, ids)
    except redis.RedisError as error:
        _write_down(context, what, queue, reason, "refused", {"trouble": type(error).__name__}, [])
        raise _redis_away(error) from None
    _write_down(context, what, queue, reason, "finished", {}, done)
    return done


def _write_down(
    context: RequestContext,
    what: str,
    queue: str,
    reason: str,
    outcome: str,
    snapshot: dict[str, Any],
    ids: Sequence[str],
) -> None:
    context.write(
        lambda connection: context.record_action(
            connection,
            ACTS[what],
            subject_kind="lane",
            subject=queue,
            reason=reason,
            outcome=outcome,
            snapshot=snapshot,
            result={"count": len(ids), "ids": list(ids[:IDS_IN_BOOK])},
        )
    )


def _told(what: str, done: int, wanted: int) -> str:
    did = "requeued" if what == "requeue" else "discarded"
    if done == 0:
        return f"Nothing was {did}: somebody else was faster, or they can’t be read. What is gone here was settled."
    gone = f" {wanted - done} were gone already, or can’t be read." if done < wanted else ""
    return f"{done} {'letter was' if done == 1 else 'letters were'} {did}.{gone}"


def int_of(said: object) -> int:
    """A number that a form carried; 0 for anything else."""
    text = str(said)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def _queue(context: RequestContext) -> str:
    queue = str(context.request.path_params["queue"])
    if queue not in QUEUES:
        context.missing("such queue")
    return queue


def _broker(context: RequestContext) -> RedisBroker:
    if context.site.broker is None:
        raise PageError(503, "This server has no Redis.", "Start it with REDIS_URL set.")
    return context.site.broker


def _ask(ask: Callable[[], Result]) -> Result:
    try:
        return ask()
    except redis.RedisError as error:
        raise _redis_away(error) from None


def _redis_away(error: redis.RedisError) -> PageError:
    log.warning("dashboard.redis_away", error=type(error).__name__)
    return PageError(
        503,
        "Redis doesn’t answer.",
        "Nothing is lost: rows are due in the database, and work goes on when it is back. Dead letters are in it, "
        "so they can’t be shown now. Look at the server, or run `duecourse doctor`.",
    )


def _written(place: Place) -> str:
    return f"{place.died_ms}-{place.id}"


def _place(said: str) -> Place | None:
    died, _, redis_id = said.partition("-")
    return Place(int(died), redis_id) if died.isascii() and died.isdigit() and len(died) < 16 else None
