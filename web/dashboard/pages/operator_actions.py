"""Run one operator action: perform it, record it in the audit log and redirect, or explain the refusal."""

from collections.abc import Callable
from datetime import date
from typing import Any
from uuid import UUID

from sqlalchemy import Connection
from starlette.responses import Response

from shared.accounts.suspension_marks import Stands
from shared.db.billing_events import Cause
from shared.domain.calendar import waits_for_operator
from shared.domain.refusals import Refused
from shared.domain.states import PaymentState
from shared.messaging.jobs import ClosePayment, Job
from shared.operations.audit_log import AuditAction
from shared.payments.cancellation import Closed
from shared.payments.operator.close import CloseWithdrawn
from shared.payments.operator.hold import Held, Released
from web.dashboard.request_context import PageError, RequestContext

Answer = Held | Released | CloseWithdrawn | Closed | ClosePayment | Stands | Refused
#: The action on one payment or account, with its cause.
Work = Callable[[Connection, UUID, Cause], Answer]

_CLOSED_MESSAGES = {
    PaymentState.UNCOLLECTIBLE: "Payment written off.",
    PaymentState.VOID: "Payment and invoice voided.",
}


def perform_action(
    context: RequestContext,
    subject_kind: str,
    action: AuditAction,
    work: Work,
    snapshot: dict[str, Any] | None = None,
) -> Response:
    """Run `work` on the URL's payment or account and record it in one transaction; refusals are recorded too."""
    subject_id, reason = context.uuid(), context.reason()

    def work_and_record(connection: Connection) -> Answer:
        answer = work(connection, subject_id, context.cause(reason))
        is_refused = isinstance(answer, Refused)
        context.record_action(
            connection,
            action,
            subject_kind=subject_kind,
            subject=str(subject_id),
            reason=reason,
            outcome="refused" if is_refused else "done",
            snapshot=snapshot or {},
            result={"refused": answer.reason} if isinstance(answer, Refused) else {"result": _message(answer)},
        )
        return answer

    answer = context.write(work_and_record)
    if isinstance(answer, Refused):
        raise PageError(409, f"Nothing was changed: {answer.reason}.", f"To do: {answer.what_to_do}.")
    job = _job(answer)
    if job is not None:
        context.site.runtime.enqueue([job])
    return context.redirect(f"/{subject_kind}s/{subject_id}", _message(answer))


def form_date(context: RequestContext, name: str) -> date | None:
    """Return a date of the form, None if the field is empty; PageError 400 if it isn't a date."""
    text = context.form_text(name, 20)
    if not text:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise PageError(
            400, f"“{text}” is not a date", "Enter a date like 2026-11-30, or leave the field empty."
        ) from None


def _job(answer: Answer) -> Job | None:
    match answer:
        case ClosePayment():
            return answer
        case Released(job=job) | CloseWithdrawn(job=job):
            return job
        case _:
            return None


def _message(answer: Answer) -> str:
    match answer:
        case Held(until=until) if waits_for_operator(until):
            return "Payment held until an operator releases it."
        case Held(until=until):
            return f"Payment held until {until:%Y-%m-%d %H:%M} UTC."
        case Released():
            return "Hold released."
        case CloseWithdrawn():
            return "Pending close canceled; collection continues."
        case Closed(as_=as_):
            return _CLOSED_MESSAGES[as_]
        case ClosePayment():
            return "Its PaymentIntent is being canceled; then the payment is closed. It isn't charged again."
        case Stands(standing=standing):
            return f"The account's standing is {standing.replace('_', ' ')}."
        case Refused(reason=reason):
            return reason
