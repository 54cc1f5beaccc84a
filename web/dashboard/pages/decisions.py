"""What an operator decides about one payment or account: a form on its page, an action here, a line in the book."""

from collections.abc import Callable
from datetime import date
from typing import Any
from uuid import UUID

from sqlalchemy import Connection
from starlette.responses import Response

from shared.accounts.suspension_marks import Stands, mark_account, unmark_account
from shared.domain.states import PaymentState
from shared.messaging.jobs import EndPayment, Job
from shared.operations.audit_log import Act
from shared.payments.cancellation import Ended
from shared.payments.operator.charge import Refused
from shared.payments.operator.decisions import (
    Held,
    Released,
    TakenBack,
    cancel_ending,
    hold_payment,
    release_payment,
    request_ending,
)
from web.dashboard.request_context import PageError, Visit

Answer = Held | Released | TakenBack | Ended | EndPayment | Stands | Refused
#: What is done: who, why, and when are the visit's.
Work = Callable[[Connection, UUID, str, str], Answer]

_SAID = {
    PaymentState.UNCOLLECTIBLE: "It is written off.",
    PaymentState.VOID: "It is void, and its invoice with it.",
}


def hold(visit: Visit) -> Response:
    """Hold a payment until a day, or until it is released."""
    until = day_said(visit, "until")
    return _decide(
        visit,
        Act.PAYMENT_HOLD,
        lambda c, payment_id, who, reason: hold_payment(c, visit.policy, payment_id, until, who, reason, visit.now),
        {"until": until.isoformat() if until else "released"},
    )


def release(visit: Visit) -> Response:
    """Release a held payment."""
    return _decide(
        visit,
        Act.PAYMENT_RELEASE,
        lambda c, payment_id, who, reason: release_payment(c, payment_id, who, reason, visit.now),
    )


def write_off(visit: Visit) -> Response:
    """Write a payment off, once its PaymentIntent is seen canceled."""
    return _end(visit, Act.PAYMENT_WRITE_OFF, PaymentState.UNCOLLECTIBLE)


def void(visit: Visit) -> Response:
    """Void a payment and its invoice, once its PaymentIntent is seen canceled."""
    return _end(visit, Act.PAYMENT_VOID, PaymentState.VOID)


def keep(visit: Visit) -> Response:
    """Take back that a payment is to be ended."""
    return _decide(
        visit,
        Act.PAYMENT_CANCEL_ENDING,
        lambda c, payment_id, who, reason: cancel_ending(c, payment_id, who, reason, visit.now),
    )


def mark(visit: Visit) -> Response:
    """Mark an account for suspension."""
    return _decide(
        visit,
        Act.ACCOUNT_MARK,
        lambda c, account_id, who, reason: mark_account(c, account_id, who, reason, visit.now),
    )


def unmark(visit: Visit) -> Response:
    """Take an account's mark for suspension away."""
    until = day_said(visit, "until")
    return _decide(
        visit,
        Act.ACCOUNT_UNMARK,
        lambda c, account_id, who, reason: unmark_account(
            c, visit.policy, account_id, until, who, reason, visit.now
        ),
        {"until": until.isoformat()} if until else {},
    )


def day_said(visit: Visit, name: str) -> date | None:
    """Read a day of a form, None where it is left empty; PageError 400 if it is no day."""
    said = visit.said(name, 20)
    if not said:
        return None
    try:
        return date.fromisoformat(said)
    except ValueError:
        raise PageError(400, f"“{said}” is no day.", "Write it as 2026-11-30, or leave it empty.") from None


def _end(visit: Visit, act: Act, as_: PaymentState) -> Response:
    return _decide(
        visit,
        act,
        lambda c, payment_id, who, reason: request_ending(c, visit.policy, payment_id, as_, who, reason, visit.now),
    )


def _decide(visit: Visit, act: Act, do: Work, seen: dict[str, Any] | None = None) -> Response:
    """Do it and write it down in one transaction; a refusal is written down too, and explained."""
    subject_id, reason = visit.uuid(), visit.reason()
    kind = "account" if act in (Act.ACCOUNT_MARK, Act.ACCOUNT_UNMARK) else "payment"

    def work(connection: Connection) -> Answer:
        answer = do(connection, subject_id, visit.who.actor, reason)
        is_refused = isinstance(answer, Refused)
        visit.write_down(
            connection,
            act,
            subject_kind=kind,
            subject=str(subject_id),
            reason=reason,
            outcome="refused" if is_refused else "done",
            seen=seen or {},
            result={"refused": answer.reason} if isinstance(answer, Refused) else {"result": _said(answer)},
        )
        return answer

    answer = visit.write(work)
    if isinstance(answer, Refused):
        raise PageError(409, f"Nothing was changed: {answer.reason}.", f"To do: {answer.what_to_do}.")
    job = _job(answer)
    if job is not None:
        visit.site.runtime.ring([job])
    return visit.go(f"/{kind}s/{subject_id}", _said(answer))


def _job(answer: Answer) -> Job | None:
    match answer:
        case EndPayment():
            return answer
        case Released(job=job) | TakenBack(job=job):
            return job
        case _:
            return None


def _said(answer: Answer) -> str:
    match answer:
        case Held(until=until) if until.year == 9999:
            return "It is held until somebody releases it."
        case Held(until=until):
            return f"It is held until {until:%Y-%m-%d %H:%M} UTC."
        case Released():
            return "It is released."
        case TakenBack():
            return "It is collected again."
        case Ended(as_=as_):
            return _SAID[as_]
        case EndPayment():
            return "Its PaymentIntent is canceled in a moment, and then it ends. It isn't charged any more."
        case Stands(standing=standing):
            return f"The account is {standing.replace('_', ' ')}."
        case Refused(reason=reason):
            return reason
