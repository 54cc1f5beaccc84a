"""One payment: what comes next, everything that happened, and what a person can do about it."""

from dataclasses import asdict
from uuid import UUID

from sqlalchemy import Connection, select
from starlette.responses import Response

from shared.db.tables.accounts import payment_settings
from shared.db.tables.invoices import invoice_lines
from shared.db.tables.payments import payments
from shared.domain.money import EXPONENTS, format_minor
from shared.domain.refusals import Refused
from shared.domain.states import ENDED, AttemptState, PaymentState
from shared.explain.explanation import explain_payment
from shared.messaging.jobs import Job
from shared.operations.audit_log import AuditAction
from shared.payments.operator.charge import (
    ChargeSnapshot,
    WouldCharge,
    preview_charge,
    request_charge,
    request_look_up,
)
from shared.payments.state_changes import open_attempt
from web.dashboard.pages.payment_formatting import changes, kind_of, with_buttons
from web.dashboard.request_context import PageError, RequestContext

#: Digits of the numbers that a form of ours carries.
_DIGITS = 19


def show(context: RequestContext) -> Response:
    """The whole page, or the part of it that changes by itself."""
    payment_id = context.uuid()
    with context.read() as connection:
        try:
            explanation = explain_payment(connection, context.policy, payment_id, context.now, context.machine_now)
        except LookupError:
            context.missing("such payment")
        payment = connection.execute(select(payments).where(payments.c.id == payment_id)).one()
        customer = connection.scalar(
            select(payment_settings.c.stripe_customer_id).where(payment_settings.c.id == payment.settings_id)
        )
        lines = connection.execute(
            select(invoice_lines)
            .where(invoice_lines.c.invoice_id == payment.invoice_id)
            .order_by(invoice_lines.c.position)
        ).all()
        attempt = open_attempt(connection, payment_id)
    is_in_doubt = attempt is not None and (
        attempt.state == AttemptState.UNKNOWN or attempt.lease_expires_at <= context.machine_now
    )
    return context.page(
        "payment_live.html" if context.is_fragment else "payment.html",
        explanation=explanation,
        payment=payment,
        customer=customer,
        lines=lines,
        attempt=attempt,
        is_in_doubt=is_in_doubt,
        has_ended=PaymentState(payment.state) in ENDED,
        processor=processor_url(context),
        kind_of=kind_of,
        changes=changes,
        with_buttons=with_buttons,
    )


def processor_url(context: RequestContext) -> str:
    """Where the processor's own pages are, for its test data or for real money."""
    return "https://dashboard.stripe.com" + ("/test" if context.site.is_test_mode else "")


def show_charge(context: RequestContext) -> Response:
    """What a charge would do at this moment, or why it isn't possible."""
    return _preview(context, context.uuid())


def charge(context: RequestContext) -> Response:
    """Do what was shown, if it is still that; else show what changed."""
    payment_id, reason, snapshot = context.uuid(), context.reason(), _snapshot(context)

    def work(connection: Connection) -> Job | Refused:
        answer = request_charge(connection, payment_id, context.cause(reason), context.machine_now, snapshot)
        _write_down(connection, context, AuditAction.PAYMENT_CHARGE, payment_id, reason, answer, snapshot)
        return answer

    answer = context.write(work)
    if isinstance(answer, Refused):
        return _preview(context, payment_id, answer)
    return _go_back(context, payment_id, answer, "It is due now: a worker asks the card in a moment.")


def look_up(context: RequestContext) -> Response:
    """Have an attempt in doubt looked up at the processor now."""
    payment_id, reason = context.uuid(), context.reason()

    def work(connection: Connection) -> Job | Refused:
        answer = request_look_up(connection, payment_id, context.cause(reason), context.machine_now)
        _write_down(connection, context, AuditAction.PAYMENT_LOOK_UP, payment_id, reason, answer)
        return answer

    answer = context.write(work)
    if isinstance(answer, Refused):
        raise PageError(409, f"Nothing was looked up: {answer.reason}.", _to_do(answer))
    return _go_back(context, payment_id, answer, "It is being looked up at the processor.")


def _preview(context: RequestContext, payment_id: UUID, refused: Refused | None = None) -> Response:
    """Show what a charge would do; `refused` is why what was confirmed just now wasn't done."""
    with context.read() as connection:
        payment = connection.execute(select(payments).where(payments.c.id == payment_id)).one_or_none()
        if payment is None:
            context.missing("such payment")
        would = preview_charge(connection, payment_id, context.now, context.machine_now)
    return context.page(
        "payment_charge.html",
        200 if refused is None else 409,
        payment=payment,
        would=would if isinstance(would, WouldCharge) else None,
        refused=refused or (would if isinstance(would, Refused) else None),
        to_do=_to_do,
    )


def _snapshot(context: RequestContext) -> ChargeSnapshot:
    """Read what the person had before them when they confirmed."""
    numbers = [context.said(name, _DIGITS) for name in ("amount_minor", "card_revision", "attempts")]
    currency, card = context.said("currency", 3), context.said("card", 36)
    try:
        card_id = UUID(card)
    except ValueError:
        card_id = None
    if card_id is None or currency not in EXPONENTS or not all(n.isascii() and n.isdigit() for n in numbers):
        raise PageError(
            400, "The form doesn't say what you saw.", "Nothing was changed. Open the payment and try again there."
        )
    amount_minor, revision, attempts = map(int, numbers)
    return ChargeSnapshot(amount_minor, currency, card_id, revision, attempts)


def _to_do(refused: Refused) -> str:
    said = with_buttons(refused.what_to_do)
    return f"{said[0].upper()}{said[1:]}."


def _write_down(
    connection: Connection,
    context: RequestContext,
    action: AuditAction,
    payment_id: UUID,
    reason: str,
    answer: Job | Refused,
    snapshot: ChargeSnapshot | None = None,
) -> None:
    is_refused = isinstance(answer, Refused)
    shown = {}
    if snapshot is not None:
        shown = {
            "amount": format_minor(snapshot.amount_minor, snapshot.currency),
            **{name: value for name, value in asdict(snapshot).items() if name not in ("amount_minor", "currency")},
            "card_id": str(snapshot.card_id),
        }
    context.record_action(
        connection,
        action,
        subject_kind="payment",
        subject=str(payment_id),
        reason=reason,
        outcome="refused" if is_refused else "done",
        snapshot=shown,
        result={"refused": answer.reason} if isinstance(answer, Refused) else {},
    )


def _go_back(context: RequestContext, payment_id: UUID, job: Job, said: str) -> Response:
    is_enqueued = context.site.runtime.enqueue([job])
    later = "" if is_enqueued else " Redis doesn't answer, so it may take a few seconds longer."
    return context.go(f"/payments/{payment_id}", said + later)
