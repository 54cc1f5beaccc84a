"""Accounts: by how their number, name or address begins, and by standing."""

from starlette.responses import Response

from shared.domain.states import Standing
from web.dashboard.queries.accounts import MOST_ACCOUNTS, find_accounts, is_too_broad
from web.dashboard.queries.filters import Reading
from web.dashboard.queries.paging import Found, Paging, parse_place
from web.dashboard.request_context import RequestContext


def show(context: RequestContext) -> Response:
    """Newest first; those in trouble by since when they are."""
    reading = Reading(context.query.multi_items())
    words, standing = reading.text("text") or "", reading.one_of("standing", Standing)
    paging = Paging(parse_place(context.asked("after")), parse_place(context.asked("before")))
    found = Found((), None, None)
    with context.read() as connection:
        if words and is_too_broad(connection, words):
            reading.errors["text"] = (
                f"begins more than {MOST_ACCOUNTS:,} numbers, names or addresses: write more of it"
            )
        if not reading.errors:
            found = find_accounts(connection, words, standing, paging)
    query = {"text": words, "standing": standing}
    return context.page(
        "accounts.html",
        400 if reading.errors else 200,
        said=reading.said,
        errors=reading.errors,
        standings=list(Standing),
        found=found,
        newer=found.newer and context.url("/accounts", **query, before=str(found.newer)),
        older=found.older and context.url("/accounts", **query, after=str(found.older)),
    )
