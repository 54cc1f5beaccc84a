"""The search field in the header: an id, number or name leads to its page."""

from starlette.responses import Response

from web.dashboard.queries.form_fields import FormFields
from web.dashboard.queries.global_search import SearchHit, search
from web.dashboard.request_context import RequestContext

#: Pages of what the search finds.
_PAGES = {"payment": "/payments/{}", "account": "/accounts/{}", "run": "/runs/{}"}


def show(context: RequestContext) -> Response:
    """Redirect to a single result; otherwise list the results, or what was searched for."""
    fields = FormFields(context.query.multi_items())
    wanted = fields.text("q")
    if wanted is None:
        return context.page(
            "search.html", 400 if fields.errors else 200, wanted="", results=None, error=fields.errors.get("q")
        )
    with context.read() as connection:
        results = search(connection, wanted, context.policy.coverages)
    if len(results.hits) == 1:
        return context.redirect(_page(results.hits[0]))
    return context.page(
        "search.html",
        wanted=wanted,
        results=results,
        error=None,
        links=[(hit, context.url(_page(hit))) for hit in results.hits],
    )


def _page(hit: SearchHit) -> str:
    return _PAGES[hit.kind].format(hit.id)
