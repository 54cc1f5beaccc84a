"""One account: standing, how it pays, what it owes, its payments and its trail."""

from starlette.responses import Response

from web.dashboard.pages.payment import processor_url
from web.dashboard.queries.one_account import events_of_account, look_at_account
from web.dashboard.queries.paging import PAGE, Paging, parse_place
from web.dashboard.queries.payments import PaymentFilter, find_page
from web.dashboard.request_context import RequestContext


def show(context: RequestContext) -> Response:
    """The account's payments and its trail are paged each by itself."""
    account_id = context.uuid()
    paging = Paging(parse_place(context.asked("after")), parse_place(context.asked("before")))
    event_id = _number(context.asked("events_before"))
    with context.read() as connection:
        try:
            snapshot = look_at_account(connection, account_id)
        except LookupError:
            context.missing("such account")
        of_account = PaymentFilter(context.now, account=snapshot.account.external_id)
        found = find_page(connection, of_account, paging)
        events = events_of_account(connection, account_id, event_id)
    older_events = context.here(events_before=events[PAGE - 1].id) if len(events) > PAGE else None
    return context.page(
        "account.html",
        snapshot=snapshot,
        account=snapshot.account,
        found=found,
        events=events[:PAGE],
        older_events=older_events,
        newest_events=context.here(events_before=None) if event_id is not None else None,
        newer=found.newer and context.here(before=str(found.newer), after=None),
        older=found.older and context.here(after=str(found.older), before=None),
        all_payments=context.url("/payments", **of_account.to_query()),
        processor=processor_url(context),
    )


def _number(said: str) -> int | None:
    """An id out of the address; a number too large for the column is nobody's."""
    return int(said) if said.isascii() and said.isdigit() and len(said) < 19 else None
