"""Operator actions on one account: mark it for suspension, and remove the mark."""

from starlette.responses import Response

from shared.accounts.suspension_marks import mark_account, unmark_account
from shared.operations.audit_log import AuditAction
from web.dashboard.pages.operator_actions import form_date, perform_action
from web.dashboard.request_context import RequestContext


def mark(context: RequestContext) -> Response:
    """Mark an account for suspension."""
    return perform_action(context, "account", AuditAction.ACCOUNT_MARK, mark_account)


def unmark(context: RequestContext) -> Response:
    """Remove an account's suspension mark."""
    until = form_date(context, "until")
    return perform_action(
        context,
        "account",
        AuditAction.ACCOUNT_UNMARK,
        lambda connection, account_id, cause: unmark_account(connection, context.policy, account_id, until, cause),
        {"until": until.isoformat()} if until else {},
    )
