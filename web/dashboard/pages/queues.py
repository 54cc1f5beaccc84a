"""Queues: depths, processes, pauses, and dead letters to requeue or discard."""

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
from shared.operations.heartbeats import live_processes
from web.dashboard.queries.queue_metrics import gather_queue_metrics
from web.dashboard.request_context import PageError, RequestContext

log = structlog.get_logger()

Result = TypeVar("Result")

#: Dead letters per page.
PAGE = 50
#: Ids listed in an audit log entry; the count is always there.
IDS_IN_AUDIT_LOG = 100
#: Actions on dead letters, and their names in the audit log.
ACTIONS = {"requeue": AuditAction.DEAD_LETTER_REQUEUE, "discard": AuditAction.DEAD_LETTER_DISCARD}
#: What each queue is for, in the order of the page.
DESCRIPTIONS = {
    "interactive": "urgent work: operator actions, newly registered cards, Stripe events",
    "batch": "bulk charging: month start and daily retries",
    "runs": "monthly and daily runs, in chunks",
    "settlement": "looks up attempts with unknown outcome",
    "reconciliation": "nightly reconciliation, lowest priority",
}


def show(context: RequestContext) -> Response:
    """Every queue and every process, as of now."""
    with context.read() as connection:
        metrics = gather_queue_metrics(connection, context.now, context.machine_now)
        pauses = paused_queues(connection)
        alive = live_processes(connection, context.machine_now)
    try:
        depths = message_depths(_broker(context))
    except (redis.RedisError, PageError) as error:
        log.warning("dashboard.redis_away", error=type(error).__name__)
        depths = None
    return context.page(
        "queues_now.html" if context.is_fragment else "queues.html",
        queue_metrics={each.queue: each for each in metrics},
        queues=QUEUES,
        descriptions=DESCRIPTIONS,
        depths=depths,
        pauses=pauses,
        alive=alive,
    )


def pause(context: RequestContext) -> Response:
    """Stop the workers from taking this queue's messages until it is resumed."""
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
        return context.redirect("/queues", f"{queue} is already paused by {known.paused_by}: {known.reason}")
    return context.redirect(
        "/queues", f"{queue} paused. Workers stop taking its messages within 3 s; work in flight completes."
    )


def resume(context: RequestContext) -> Response:
    """Let the workers take this queue's messages again."""
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
        return context.redirect("/queues", f"{queue} is not paused: another user has resumed it.")
    return context.redirect("/queues", f"{queue} resumes within 3 s.")


def dead_letters(context: RequestContext) -> Response:
    """A queue's dead letters, newest first."""
    queue, job = _queue(context), context.query_text("job")
    found, rest = _or_redis_error(
        lambda: list_dead_letters(
            _broker(context), queue, job=job, older_than=_place(context.query_text("older_than")), limit=PAGE
        )
    )
    return context.page(
        "dead_letters.html",
        queue=queue,
        job=job,
        dead_letters=found,
        older=context.here(older_than=_place_text(rest)) if rest else None,
        is_first=not context.query_text("older_than"),
    )


def all_dead_letters(context: RequestContext) -> Response:
    """Preview requeueing or discarding all dead letters of a filter."""
    queue, job = _queue(context), context.query_text("job")
    newest, _ = _or_redis_error(lambda: list_dead_letters(_broker(context), queue, job=job, limit=1))
    found = (
        _or_redis_error(lambda: dead_letters_up_to(_broker(context), queue, job, place_of(newest[0])))
        if newest
        else []
    )
    jobs: dict[str, int] = {}
    for dead_letter in found:
        jobs[dead_letter.job or "unreadable"] = jobs.get(dead_letter.job or "unreadable", 0) + 1
    return context.page(
        "dead_letters_all.html",
        queue=queue,
        job=job,
        count=len(found),
        jobs=jobs,
        unreadable=sum(dead_letter.fresh is None for dead_letter in found),
        up_to=_place_text(place_of(newest[0])) if newest else "",
    )


def resolve_dead_letters(context: RequestContext) -> Response:
    """Requeue or discard the selected dead letters, or all of a filter up to the newest one shown."""
    queue, what, reason = _queue(context), context.form_text("what"), context.reason()
    if what not in ACTIONS:
        raise PageError(400, "Unknown action", "Go back and choose requeue or discard.")
    up_to, job = _place(context.form_text("up_to")), context.form_text("job")
    snapshot: dict[str, Any] = {"queue": queue, "letters": context.form_text("count", 12)}
    if up_to is not None:
        found = _or_redis_error(lambda: dead_letters_up_to(_broker(context), queue, job, up_to))
        snapshot |= {"filter": job or "all", "up_to": _place_text(up_to)}
    else:
        ids = [one for one in context.form.getlist("letter") if isinstance(one, str)][: 2 * PAGE]
        if not ids:
            raise PageError(400, "No dead letters selected", "Go back and select at least one.")
        found, snapshot["letters"] = (
            _or_redis_error(lambda: find_dead_letters(_broker(context), queue, ids)),
            len(ids),
        )
    done = _resolve(context, queue, what, reason, found, snapshot)
    return context.redirect(
        f"/queues/{queue}/dead-letters", _message(what, len(done), _integer(snapshot["letters"]))
    )


def _resolve(
    context: RequestContext,
    queue: str,
    what: str,
    reason: str,
    found: Sequence[DeadLetter],
    snapshot: dict[str, Any],
) -> list[str]:
    """Act between two audit log entries, because Redis can't be part of the transaction."""
    ids = [dead_letter.id for dead_letter in found]
    _record(context, what, queue, reason, "started", snapshot, ids)
    try:
        if what == "requeue":
            done = requeue_dead_letters(_broker(context), queue, found)
        else:
            done = discard_dead_letters(_broker(context), queue, ids)
    except redis.RedisError as error:
        _record(context, what, queue, reason, "refused", {"error": type(error).__name__}, [])
        raise _redis_away(error) from None
    _record(context, what, queue, reason, "finished", {}, done)
    return done


def _record(
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
            ACTIONS[what],
            subject_kind="lane",
            subject=queue,
            reason=reason,
            outcome=outcome,
            snapshot=snapshot,
            result={"count": len(ids), "ids": list(ids[:IDS_IN_AUDIT_LOG])},
        )
    )


def _message(what: str, done: int, wanted: int) -> str:
    verb = "requeued" if what == "requeue" else "discarded"
    if done == 0:
        return f"No dead letters {verb}: another user resolved them, or they are unreadable."
    gone = f" {wanted - done} were already resolved or are unreadable." if done < wanted else ""
    return f"{done} dead {'letter' if done == 1 else 'letters'} {verb}.{gone}"


def _integer(value: object) -> int:
    """Return a number of the form; 0 for anything else."""
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def _queue(context: RequestContext) -> str:
    queue = str(context.request.path_params["queue"])
    if queue not in QUEUES:
        context.not_found("Queue")
    return queue


def _broker(context: RequestContext) -> RedisBroker:
    if context.site.broker is None:
        raise PageError(503, "Redis is not configured", "Start the web process with REDIS_URL set.")
    return context.site.broker


def _or_redis_error(read: Callable[[], Result]) -> Result:
    try:
        return read()
    except redis.RedisError as error:
        raise _redis_away(error) from None


def _redis_away(error: redis.RedisError) -> PageError:
    log.warning("dashboard.redis_away", error=type(error).__name__)
    return PageError(
        503,
        "Redis doesn’t respond",
        "Nothing is lost: rows are due in the database, and work continues once Redis is back. Dead letters are in "
        "Redis and can’t be shown now. Check the Redis server, or run `duecourse doctor`.",
    )


def _place_text(place: Place) -> str:
    return f"{place.died_ms}-{place.id}"


def _place(text: str) -> Place | None:
    died, _, redis_id = text.partition("-")
    return Place(int(died), redis_id) if died.isascii() and died.isdigit() and len(died) < 16 else None
