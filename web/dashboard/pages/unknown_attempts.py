"""Unknown attempts: the list, and looking them up now."""

from functools import partial
from uuid import UUID

from sqlalchemy import Connection
from starlette.responses import Response

from shared.domain.refusals import Refused
from shared.explain.unknown_attempts import unknown_attempts
from shared.messaging.jobs import Job, SettleAttempt
from shared.operations.audit_log import AuditAction
from shared.payments.operator.charge import request_look_up
from web.dashboard.request_context import PageError, RequestContext

#: Attempts per page. They settle within minutes: more than this is an outage, and one page shows as much as ten.
PAGE = 100


def show(context: RequestContext) -> Response:
    """Oldest first."""
    with context.read() as connection:
        found = unknown_attempts(connection, context.machine_now, PAGE + 1)
    return context.page("unknown_attempts.html", found=found[:PAGE], has_more=len(found) > PAGE, page=PAGE)


def look_up(context: RequestContext) -> Response:
    """Look up the selected attempts, or all that were shown, now. Never charges."""
    reason, wanted = context.reason(), _wanted(context)
    jobs: list[Job] = []
    refused: list[Refused] = []
    for payment_id in wanted:  # a transaction each: locks of one payment at a time
        answer = context.write(partial(_request, context=context, payment_id=payment_id, reason=reason))
        if isinstance(answer, Refused):
            refused.append(answer)
        else:
            jobs.append(answer)
    is_enqueued = context.site.runtime.enqueue(jobs) if jobs else True
    messages = [f"Look-up requested for {len(jobs)} attempt{'' if len(jobs) == 1 else 's'}."] if jobs else []
    if not is_enqueued:
        messages.append("Redis doesn’t respond, so it takes until the next sweep.")
    if refused:
        messages.append(f"{len(refused)} not looked up: {refused[0].reason}. To do: {refused[0].what_to_do}.")
    return context.redirect("/unknown", " ".join(messages))


def _request(
    connection: Connection, context: RequestContext, payment_id: UUID, reason: str
) -> SettleAttempt | Refused:
    answer = request_look_up(connection, payment_id, context.cause(reason), context.machine_now)
    is_refused = isinstance(answer, Refused)
    context.record_action(
        connection,
        AuditAction.PAYMENT_LOOK_UP,
        subject_kind="payment",
        subject=str(payment_id),
        reason=reason,
        outcome="refused" if is_refused else "done",
        result={"why": answer.reason} if isinstance(answer, Refused) else {"attempt": str(answer.attempt_id)},
    )
    return answer


def _wanted(context: RequestContext) -> list[UUID]:
    if context.form_text("what") == "all":
        ids = context.form_text("shown", 40 * PAGE).split()
    else:
        ids = [one for one in context.form.getlist("payment") if isinstance(one, str)]
    try:
        wanted = list(dict.fromkeys(map(UUID, ids)))[:PAGE]
    except ValueError:
        raise PageError(400, "Invalid payment ID", "Reload the page and select attempts there.") from None
    if not wanted:
        raise PageError(400, "No attempts selected", "Go back and select at least one.")
    return wanted
