"""Accounts, filtered by the start of their number, name or email, and by standing."""

from starlette.responses import Response

from shared.domain.states import Standing
from web.dashboard.queries.accounts import MOST_ACCOUNTS, find_accounts, is_too_broad
from web.dashboard.queries.form_fields import FormFields
from web.dashboard.queries.paging import Paging, ResultPage, parse_cursor
from web.dashboard.request_context import RequestContext


def show(context: RequestContext) -> Response:
    """Newest first; past-due and marked accounts by when they entered that standing."""
    fields = FormFields(context.query.multi_items())
    text, standing = fields.text("text") or "", fields.one_of("standing", Standing)
    paging = Paging(parse_cursor(context.query_text("after")), parse_cursor(context.query_text("before")))
    page = ResultPage((), None, None)
    with context.read() as connection:
        if text and is_too_broad(connection, text):
            fields.errors["text"] = f"matches more than {MOST_ACCOUNTS:,} accounts: enter a longer text"
        if not fields.errors:
            page = find_accounts(connection, text, standing, paging)
    query = {"text": text, "standing": standing}
    return context.page(
        "accounts.html",
        400 if fields.errors else 200,
        raw=fields.raw,
        errors=fields.errors,
        standings=list(Standing),
        page=page,
        newer=page.newer and context.url("/accounts", **query, before=str(page.newer)),
        older=page.older and context.url("/accounts", **query, after=str(page.older)),
    )
