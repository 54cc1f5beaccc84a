"""One account: standing, payment methods, balance, payments and events."""

from starlette.responses import Response

from shared.payments.network_budgets import free_dates
from web.dashboard.pages.payment import processor_url
from web.dashboard.queries.account_details import events_of_account, read_account
from web.dashboard.queries.paging import PAGE, Paging, parse_cursor
from web.dashboard.queries.payments import PaymentFilter, find_page
from web.dashboard.request_context import RequestContext


def show(context: RequestContext) -> Response:
    """The account's payments and its events are paged independently."""
    account_id = context.uuid()
    paging = Paging(parse_cursor(context.query_text("after")), parse_cursor(context.query_text("before")))
    event_id = _number(context.query_text("events_before"))
    with context.read() as connection:
        try:
            snapshot = read_account(connection, account_id)
        except LookupError:
            context.not_found("Account")
        of_account = PaymentFilter(context.now, account=snapshot.account.external_id)
        page = find_page(connection, of_account, paging)
        free = free_dates(connection, [row.id for row in page.rows], context.now)
        events = events_of_account(connection, account_id, event_id)
    older_events = context.here(events_before=events[PAGE - 1].id) if len(events) > PAGE else None
    return context.page(
        "account.html",
        snapshot=snapshot,
        account=snapshot.account,
        page=page,
        free_dates=free,
        events=events[:PAGE],
        older_events=older_events,
        newest_events=context.here(events_before=None) if event_id is not None else None,
        newer=page.newer and context.here(before=str(page.newer), after=None),
        older=page.older and context.here(after=str(page.older), before=None),
        all_payments=context.url("/payments", **of_account.to_query()),
        processor=processor_url(context),
    )


def _number(text: str) -> int | None:
    """Read an id from the URL; None if it isn't a number that fits the column."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None
