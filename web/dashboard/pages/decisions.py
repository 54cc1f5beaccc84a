"""What an operator decides about one payment or account: a form on its page, an action here, a line in the book."""

from collections.abc import Callable
from datetime import date
from typing import Any
from uuid import UUID

from sqlalchemy import Connection
from starlette.responses import Response

from shared.accounts.suspension_marks import Stands, mark_account, unmark_account
from shared.db.billing_events import Cause
from shared.domain.calendar import waits_for_operator
from shared.domain.refusals import Refused
from shared.domain.states import PaymentState
from shared.messaging.jobs import ClosePayment, Job
from shared.operations.audit_log import AuditAction
from shared.payments.cancellation import Closed
from shared.payments.operator.close import CloseWithdrawn, request_close, withdraw_close
from shared.payments.operator.hold import Held, Released, hold_payment, release_payment
from web.dashboard.request_context import PageError, RequestContext

Answer = Held | Released | CloseWithdrawn | Closed | ClosePayment | Stands | Refused
#: What is done: who, why, and when are the visit's.
Work = Callable[[Connection, UUID, Cause], Answer]

_SAID = {
    PaymentState.UNCOLLECTIBLE: "It is written off.",
    PaymentState.VOID: "It is void, and its invoice with it.",
}


def hold(context: RequestContext) -> Response:
    """Hold a payment until a day, or until it is released."""
    until = day_said(context, "until")
    return _decide(
        context,
        AuditAction.PAYMENT_HOLD,
        lambda c, payment_id, cause: hold_payment(c, context.policy, payment_id, until, cause),
        {"until": until.isoformat() if until else "released"},
    )


def release(context: RequestContext) -> Response:
    """Release a held payment."""
    return _decide(
        context,
        AuditAction.PAYMENT_RELEASE,
        lambda c, payment_id, cause: release_payment(c, payment_id, cause),
    )


def write_off(context: RequestContext) -> Response:
    """Write a payment off, once its PaymentIntent is seen canceled."""
    return _end(context, AuditAction.PAYMENT_WRITE_OFF, PaymentState.UNCOLLECTIBLE)


def void(context: RequestContext) -> Response:
    """Void a payment and its invoice, once its PaymentIntent is seen canceled."""
    return _end(context, AuditAction.PAYMENT_VOID, PaymentState.VOID)


def keep(context: RequestContext) -> Response:
    """Take back that a payment is to be ended."""
    return _decide(
        context,
        AuditAction.PAYMENT_WITHDRAW_CLOSE,
        lambda c, payment_id, cause: withdraw_close(c, payment_id, cause),
    )


def mark(context: RequestContext) -> Response:
    """Mark an account for suspension."""
    return _decide(
        context,
        AuditAction.ACCOUNT_MARK,
        lambda c, account_id, cause: mark_account(c, account_id, cause),
    )


def unmark(context: RequestContext) -> Response:
    """Take an account's mark for suspension away."""
    until = day_said(context, "until")
    return _decide(
        context,
        AuditAction.ACCOUNT_UNMARK,
        lambda c, account_id, cause: unmark_account(c, context.policy, account_id, until, cause),
        {"until": until.isoformat()} if until else {},
    )


def day_said(context: RequestContext, name: str) -> date | None:
    """Read a day of a form, None where it is left empty; PageError 400 if it is no day."""
    said = context.said(name, 20)
    if not said:
        return None
    try:
        return date.fromisoformat(said)
    except ValueError:
        raise PageError(400, f"“{said}” is no day.", "Write it as 2026-11-30, or leave it empty.") from None


def _end(context: RequestContext, act: AuditAction, as_: PaymentState) -> Response:
    return _decide(
        context,
        act,
        lambda c, payment_id, cause: request_close(c, context.policy, payment_id, as_, cause),
    )


def _decide(
    context: RequestContext, act: AuditAction, do: Work, snapshot: dict[str, Any] | None = None
) -> Response:
    """Do it and write it down in one transaction; a refusal is written down too, and explained."""
    subject_id, reason = context.uuid(), context.reason()
    kind = "account" if act in (AuditAction.ACCOUNT_MARK, AuditAction.ACCOUNT_UNMARK) else "payment"

    def work(connection: Connection) -> Answer:
        answer = do(connection, subject_id, context.cause(reason))
        is_refused = isinstance(answer, Refused)
        context.record_action(
            connection,
            act,
            subject_kind=kind,
            subject=str(subject_id),
            reason=reason,
            outcome="refused" if is_refused else "done",
            snapshot=snapshot or {},
            result={"refused": answer.reason} if isinstance(answer, Refused) else {"result": _said(answer)},
        )
        return answer

    answer = context.write(work)
    if isinstance(answer, Refused):
        raise PageError(409, f"Nothing was changed: {answer.reason}.", f"To do: {answer.what_to_do}.")
    job = _job(answer)
    if job is not None:
        context.site.runtime.enqueue([job])
    return context.go(f"/{kind}s/{subject_id}", _said(answer))


def _job(answer: Answer) -> Job | None:
    match answer:
        case ClosePayment():
            return answer
        case Released(job=job) | CloseWithdrawn(job=job):
            return job
        case _:
            return None


def _said(answer: Answer) -> str:
    match answer:
        case Held(until=until) if waits_for_operator(until):
            return "It is held until somebody releases it."
        case Held(until=until):
            return f"It is held until {until:%Y-%m-%d %H:%M} UTC."
        case Released():
            return "It is released."
        case CloseWithdrawn():
            return "It is collected again."
        case Closed(as_=as_):
            return _SAID[as_]
        case ClosePayment():
            return "Its PaymentIntent is canceled in a moment, and then it ends. It isn't charged any more."
        case Stands(standing=standing):
            return f"The account is {standing.replace('_', ' ')}."
        case Refused(reason=reason):
            return reason
