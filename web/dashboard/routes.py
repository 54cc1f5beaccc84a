"""Every page of the dashboard in one table: method, path, handler, and the role it needs."""

from functools import partial

from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from shared.domain.roles import Role
from web.dashboard.auth import Guard, Page
from web.dashboard.pages import (
    account,
    account_actions,
    accounts,
    audit_log,
    bulk,
    findings,
    overview,
    payment,
    payment_actions,
    payments,
    plots,
    profile,
    queues,
    rerun,
    run,
    runs,
    search,
    sign_in,
    stripe_events,
    unknown_attempts,
    users,
)
from web.dashboard.request_context import ROOT, RequestContext
from web.dashboard.site import Site
from web.dashboard.static import serve

VIEWER, OPERATOR, ADMIN = Role.VIEWER, Role.OPERATOR, Role.ADMIN

CURRENT_PAGES = (
    Page("GET", "", overview.show, VIEWER),
    Page("GET", "/plots/{name}.svg", plots.draw, VIEWER),
    Page("GET", "/runs", runs.show, VIEWER),
    Page("GET", "/runs/rerun", rerun.preview, OPERATOR),
    Page("POST", "/runs/rerun", rerun.submit, OPERATOR),
    Page("GET", "/runs/{id}", run.show, VIEWER),
    Page("GET", "/sign-in", sign_in.show, None),
    Page("POST", "/sign-in", sign_in.submit, None),
    Page("POST", "/sign-out", sign_in.sign_out, VIEWER),
    Page("GET", "/profile", profile.show, VIEWER),
    Page("POST", "/profile/zone", profile.change_zone, VIEWER),
    Page("POST", "/profile/password", profile.change_password, VIEWER),
    Page("POST", "/profile/sign-out-everywhere", profile.sign_out_everywhere, VIEWER),
    Page("GET", "/audit-log", audit_log.show, VIEWER),
    Page("GET", "/audit-log.csv", audit_log.export, OPERATOR),
    Page("GET", "/search", search.show, VIEWER),
    Page("GET", "/payments", payments.show, VIEWER),
    Page("GET", "/payments.csv", payments.export, OPERATOR),
    Page("GET", "/payments/{id}", payment.show, VIEWER),
    Page("GET", "/payments/{id}/charge", payment.show_charge, OPERATOR),
    Page("POST", "/payments/{id}/charge", payment.charge, OPERATOR),
    Page("POST", "/payments/{id}/look-up", payment.look_up, OPERATOR),
    Page("POST", "/payments/{id}/hold", payment_actions.hold, OPERATOR),
    Page("POST", "/payments/{id}/release", payment_actions.release, OPERATOR),
    Page("POST", "/payments/{id}/write-off", payment_actions.write_off, OPERATOR),
    Page("POST", "/payments/{id}/void", payment_actions.void, OPERATOR),
    Page("POST", "/payments/{id}/withdraw-close", payment_actions.withdraw, OPERATOR),
    Page("GET", "/bulk", bulk.show, VIEWER),
    Page("GET", "/bulk/new", bulk.show_new, OPERATOR),
    Page("POST", "/bulk/new", bulk.submit, OPERATOR),
    Page("GET", "/bulk/{id}", bulk.show_one, VIEWER),
    Page("POST", "/bulk/{id}/stop", bulk.stop_one, OPERATOR),
    Page("POST", "/bulk/{id}/resume", bulk.resume_one, OPERATOR),
    Page("GET", "/accounts", accounts.show, VIEWER),
    Page("GET", "/accounts/{id}", account.show, VIEWER),
    Page("POST", "/accounts/{id}/mark", account_actions.mark, OPERATOR),
    Page("POST", "/accounts/{id}/unmark", account_actions.unmark, OPERATOR),
    Page("GET", "/users", users.show, ADMIN),
    Page("POST", "/users/add", users.add, ADMIN),
    Page("POST", "/users/{id}/role", users.change_role, ADMIN),
    Page("POST", "/users/{id}/lock", users.change_lock, ADMIN),
    Page("POST", "/users/{id}/password", users.reset_password, ADMIN),
    Page("GET", "/queues", queues.show, VIEWER),
    Page("POST", "/queues/{queue}/pause", queues.pause, OPERATOR),
    Page("POST", "/queues/{queue}/resume", queues.resume, OPERATOR),
    Page("GET", "/queues/{queue}/dead-letters", queues.dead_letters, VIEWER),
    Page("GET", "/queues/{queue}/dead-letters/all", queues.all_dead_letters, OPERATOR),
    Page("POST", "/queues/{queue}/dead-letters", queues.resolve_dead_letters, OPERATOR),
    Page("GET", "/stripe-events", stripe_events.show, VIEWER),
    Page("GET", "/stripe-events/{coverage}/{id}", stripe_events.show_one, VIEWER),
    Page("POST", "/stripe-events/{coverage}/{id}/read", stripe_events.read, OPERATOR),
    Page("POST", "/stripe-events/{coverage}/{id}/apply", stripe_events.apply_again, OPERATOR),
    Page("GET", "/findings", findings.show, VIEWER),
    Page("POST", "/findings/{id}/resolve", findings.resolve, OPERATOR),
    Page("GET", "/unknown", unknown_attempts.show, VIEWER),
    Page("POST", "/unknown/look-up", unknown_attempts.look_up, OPERATOR),
)

#: Paths of earlier releases and their new names. Bookmarks are redirected, forms that were open are accepted.
RENAMED_PATHS = (
    ("/audit", "/audit-log"),
    ("/audit.csv", "/audit-log.csv"),
    ("/find", "/search"),
    ("/people", "/users"),
    ("/people/add", "/users/add"),
    ("/people/{id}/role", "/users/{id}/role"),
    ("/people/{id}/lock", "/users/{id}/lock"),
    ("/people/{id}/password", "/users/{id}/password"),
    ("/runs/again", "/runs/rerun"),
    ("/you", "/profile"),
    ("/you/zone", "/profile/zone"),
    ("/you/password", "/profile/password"),
    ("/you/sign-out-everywhere", "/profile/sign-out-everywhere"),
    ("/payments/{id}/cancel-ending", "/payments/{id}/withdraw-close"),
)


def _redirect_to(path: str, context: RequestContext) -> Response:
    query = context.request.url.query
    return RedirectResponse(f"{ROOT}{path}" + (f"?{query}" if query else ""), 308)


def _renamed_pages() -> list[Page]:
    """Return a page for each old path: GET redirects, POST does the same as at the new path."""
    pages = []
    for old, new in RENAMED_PATHS:
        for page in CURRENT_PAGES:
            if page.path != new:
                continue
            handler = page.handler if page.method == "POST" else partial(_redirect_to, new)
            pages.append(Page(page.method, old, handler, page.role))
    return pages


#: Renamed pages come first: /runs/again must not be read as /runs/{id}.
PAGES = (*_renamed_pages(), *CURRENT_PAGES)

#: Any other path below the dashboard.
NOWHERE = Page("GET", "/{rest:path}", lambda context: context.not_found("Page"), VIEWER)


def dashboard_routes(site: Site) -> list[BaseRoute]:
    """Return the routes of all pages and static files."""
    guard = Guard(site)
    return [
        Route(f"{ROOT}/static/{{version}}/{{name}}", serve, methods=["GET"]),
        *(Route(f"{ROOT}{page.path}", guard(page), methods=[page.method]) for page in (*PAGES, NOWHERE)),
    ]
