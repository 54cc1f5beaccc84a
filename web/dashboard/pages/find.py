"""The field in the header: whatever is pasted into it leads to the page that is meant."""

from starlette.responses import Response

from web.dashboard.queries.filters import Reading
from web.dashboard.queries.find import Hit, find
from web.dashboard.request_context import RequestContext

#: Pages of what can be found.
_PAGES = {"payment": "/payments/{}", "account": "/accounts/{}", "run": "/runs/{}"}


def show(context: RequestContext) -> Response:
    """Go straight to the only thing found; else list what there is, or what was looked for in vain."""
    reading = Reading(context.query.multi_items())
    wanted = reading.text("q")
    if wanted is None:
        return context.page(
            "find.html", 400 if reading.errors else 200, wanted="", looked=None, trouble=reading.errors.get("q")
        )
    with context.read() as connection:
        looked = find(connection, wanted, context.policy.coverages)
    if len(looked.hits) == 1:
        return context.go(_page(looked.hits[0]))
    return context.page(
        "find.html",
        wanted=wanted,
        looked=looked,
        trouble=None,
        links=[(hit, context.url(_page(hit))) for hit in looked.hits],
    )


def _page(hit: Hit) -> str:
    return _PAGES[hit.kind].format(hit.id)
