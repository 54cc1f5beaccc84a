"""One payment: its next step, its timeline, charging it now, and looking up its attempt."""

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

#: Digits of the numbers in our forms.
_DIGITS = 19


def show(context: RequestContext) -> Response:
    """The whole page, or the part that refreshes itself."""
    payment_id = context.uuid()
    with context.read() as connection:
        try:
            explanation = explain_payment(connection, context.policy, payment_id, context.now, context.machine_now)
        except LookupError:
            context.not_found("Payment")
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
    is_unknown = attempt is not None and (
        attempt.state == AttemptState.UNKNOWN or attempt.lease_expires_at <= context.machine_now
    )
    return context.page(
        "payment_live.html" if context.is_fragment else "payment.html",
        explanation=explanation,
        payment=payment,
        customer=customer,
        lines=lines,
        attempt=attempt,
        is_unknown=is_unknown,
        has_ended=PaymentState(payment.state) in ENDED,
        processor=processor_url(context),
        kind_of=kind_of,
        changes=changes,
        with_buttons=with_buttons,
    )


def processor_url(context: RequestContext) -> str:
    """Return the base URL of Stripe's dashboard, in test or live mode."""
    return "https://dashboard.stripe.com" + ("/test" if context.site.is_test_mode else "")


def show_charge(context: RequestContext) -> Response:
    """Preview a charge, or say why it isn't possible."""
    return _preview(context, context.uuid())


def charge(context: RequestContext) -> Response:
    """Charge if the preview is still current; otherwise show what changed."""
    payment_id, reason, snapshot = context.uuid(), context.reason(), _snapshot(context)

    def work(connection: Connection) -> Job | Refused:
        answer = request_charge(connection, payment_id, context.cause(reason), context.machine_now, snapshot)
        _record(connection, context, AuditAction.PAYMENT_CHARGE, payment_id, reason, answer, snapshot)
        return answer

    answer = context.write(work)
    if isinstance(answer, Refused):
        return _preview(context, payment_id, answer)
    return _enqueue_and_redirect(
        context, payment_id, answer, "Charge requested: a worker charges the card within seconds."
    )


def look_up(context: RequestContext) -> Response:
    """Look up an attempt with unknown outcome at the processor now."""
    payment_id, reason = context.uuid(), context.reason()

    def work(connection: Connection) -> Job | Refused:
        answer = request_look_up(connection, payment_id, context.cause(reason), context.machine_now)
        _record(connection, context, AuditAction.PAYMENT_LOOK_UP, payment_id, reason, answer)
        return answer

    answer = context.write(work)
    if isinstance(answer, Refused):
        raise PageError(409, f"No look-up: {answer.reason}.", _to_do(answer))
    return _enqueue_and_redirect(
        context, payment_id, answer, "Look-up requested: a worker asks the processor within seconds."
    )


def _preview(context: RequestContext, payment_id: UUID, refused: Refused | None = None) -> Response:
    """Preview a charge; `refused` is why the confirmed charge wasn't made."""
    with context.read() as connection:
        payment = connection.execute(select(payments).where(payments.c.id == payment_id)).one_or_none()
        if payment is None:
            context.not_found("Payment")
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
    """Read the preview that the user confirmed."""
    numbers = [context.form_text(name, _DIGITS) for name in ("amount_minor", "card_revision", "attempts")]
    currency, card = context.form_text("currency", 3), context.form_text("card", 36)
    try:
        card_id = UUID(card)
    except ValueError:
        card_id = None
    if card_id is None or currency not in EXPONENTS or not all(n.isascii() and n.isdigit() for n in numbers):
        raise PageError(400, "The form is incomplete", "Nothing was changed. Open the payment and try again.")
    amount_minor, revision, attempts = map(int, numbers)
    return ChargeSnapshot(amount_minor, currency, card_id, revision, attempts)


def _to_do(refused: Refused) -> str:
    text = with_buttons(refused.what_to_do)
    return f"{text[0].upper()}{text[1:]}."


def _record(
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


def _enqueue_and_redirect(context: RequestContext, payment_id: UUID, job: Job, message: str) -> Response:
    is_enqueued = context.site.runtime.enqueue([job])
    later = "" if is_enqueued else " Redis doesn't respond, so it may take a few seconds longer."
    return context.redirect(f"/payments/{payment_id}", message + later)
