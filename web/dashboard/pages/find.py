"""The field in the header: whatever is pasted into it leads to the page that is meant."""

from starlette.responses import Response

from web.dashboard.queries.filters import Reading
from web.dashboard.queries.find import Hit, find
from web.dashboard.request_context import Visit

#: Pages of what can be found.
_PAGES = {"payment": "/payments/{}", "account": "/accounts/{}", "run": "/runs/{}"}


def show(visit: Visit) -> Response:
    """Go straight to the only thing found; else list what there is, or what was looked for in vain."""
    reading = Reading(visit.query.multi_items())
    wanted = reading.text("q")
    if wanted is None:
        return visit.page(
            "find.html", 400 if reading.errors else 200, wanted="", looked=None, trouble=reading.errors.get("q")
        )
    with visit.read() as connection:
        looked = find(connection, wanted, visit.policy.coverages)
    if len(looked.hits) == 1:
        return visit.go(_page(looked.hits[0]))
    return visit.page(
        "find.html",
        wanted=wanted,
        looked=looked,
        trouble=None,
        links=[(hit, visit.url(_page(hit))) for hit in looked.hits],
    )


def _page(hit: Hit) -> str:
    return _PAGES[hit.kind].format(hit.id)
