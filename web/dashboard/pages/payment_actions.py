"""Operator actions on one payment: hold, release, write off, void, and cancel a pending close."""

from starlette.responses import Response

from shared.domain.states import PaymentState
from shared.operations.audit_log import AuditAction
from shared.payments.operator.close import request_close, withdraw_close
from shared.payments.operator.hold import hold_payment, release_payment
from web.dashboard.pages.operator_actions import form_date, perform_action
from web.dashboard.request_context import RequestContext


def hold(context: RequestContext) -> Response:
    """Hold a payment until a day, or until it is released."""
    until = form_date(context, "until")
    return perform_action(
        context,
        "payment",
        AuditAction.PAYMENT_HOLD,
        lambda connection, payment_id, cause: hold_payment(connection, context.policy, payment_id, until, cause),
        {"until": until.isoformat() if until else "released"},
    )


def release(context: RequestContext) -> Response:
    """Release a held payment."""
    return perform_action(context, "payment", AuditAction.PAYMENT_RELEASE, release_payment)


def write_off(context: RequestContext) -> Response:
    """Write a payment off, once its PaymentIntent is confirmed canceled."""
    return _close(context, AuditAction.PAYMENT_WRITE_OFF, PaymentState.UNCOLLECTIBLE)


def void(context: RequestContext) -> Response:
    """Void a payment and its invoice, once its PaymentIntent is confirmed canceled."""
    return _close(context, AuditAction.PAYMENT_VOID, PaymentState.VOID)


def withdraw(context: RequestContext) -> Response:
    """Cancel a pending void or write-off."""
    return perform_action(context, "payment", AuditAction.PAYMENT_WITHDRAW_CLOSE, withdraw_close)


def _close(context: RequestContext, action: AuditAction, as_: PaymentState) -> Response:
    return perform_action(
        context,
        "payment",
        action,
        lambda connection, payment_id, cause: request_close(connection, context.policy, payment_id, as_, cause),
    )
