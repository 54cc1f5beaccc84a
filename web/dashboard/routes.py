"""Every page of the dashboard on one screen: method, path, handler, and the role it needs."""

from starlette.routing import BaseRoute, Route

from shared.domain.roles import Role
from web.dashboard.auth import Guard, Page
from web.dashboard.pages import (
    account,
    accounts,
    bulk,
    decisions,
    find,
    findings,
    overview,
    payment,
    payments,
    plots,
    queues,
    run,
    runs,
    sign_in,
    stripe_events,
)
from web.dashboard.pages import audit_log as book
from web.dashboard.pages import profile as you
from web.dashboard.pages import rerun as run_again
from web.dashboard.pages import unknown_attempts as unknown
from web.dashboard.pages import users as users
from web.dashboard.request_context import ROOT
from web.dashboard.site import Site
from web.dashboard.static import serve

VIEWER, OPERATOR, ADMIN = Role.VIEWER, Role.OPERATOR, Role.ADMIN

PAGES = (
    Page("GET", "", overview.show, VIEWER),
    Page("GET", "/plots/{name}.svg", plots.draw, VIEWER),
    Page("GET", "/runs", runs.show, VIEWER),
    Page("GET", "/runs/again", run_again.preview, OPERATOR),
    Page("POST", "/runs/again", run_again.submit, OPERATOR),
    Page("GET", "/runs/{id}", run.show, VIEWER),
    Page("GET", "/sign-in", sign_in.show, None),
    Page("POST", "/sign-in", sign_in.submit, None),
    Page("POST", "/sign-out", sign_in.sign_out, VIEWER),
    Page("GET", "/you", you.show, VIEWER),
    Page("POST", "/you/zone", you.change_zone, VIEWER),
    Page("POST", "/you/password", you.change_password, VIEWER),
    Page("POST", "/you/sign-out-everywhere", you.sign_out_everywhere, VIEWER),
    Page("GET", "/audit", book.show, VIEWER),
    Page("GET", "/audit.csv", book.export, OPERATOR),
    Page("GET", "/find", find.show, VIEWER),
    Page("GET", "/payments", payments.show, VIEWER),
    Page("GET", "/payments.csv", payments.export, OPERATOR),
    Page("GET", "/payments/{id}", payment.show, VIEWER),
    Page("GET", "/payments/{id}/charge", payment.show_charge, OPERATOR),
    Page("POST", "/payments/{id}/charge", payment.charge, OPERATOR),
    Page("POST", "/payments/{id}/look-up", payment.look_up, OPERATOR),
    Page("POST", "/payments/{id}/hold", decisions.hold, OPERATOR),
    Page("POST", "/payments/{id}/release", decisions.release, OPERATOR),
    Page("POST", "/payments/{id}/write-off", decisions.write_off, OPERATOR),
    Page("POST", "/payments/{id}/void", decisions.void, OPERATOR),
    Page("POST", "/payments/{id}/withdraw-close", decisions.keep, OPERATOR),
    Page("GET", "/bulk", bulk.show, VIEWER),
    Page("GET", "/bulk/new", bulk.show_new, OPERATOR),
    Page("POST", "/bulk/new", bulk.submit, OPERATOR),
    Page("GET", "/bulk/{id}", bulk.show_one, VIEWER),
    Page("POST", "/bulk/{id}/stop", bulk.stop_one, OPERATOR),
    Page("POST", "/bulk/{id}/resume", bulk.resume_one, OPERATOR),
    Page("GET", "/accounts", accounts.show, VIEWER),
    Page("GET", "/accounts/{id}", account.show, VIEWER),
    Page("POST", "/accounts/{id}/mark", decisions.mark, OPERATOR),
    Page("POST", "/accounts/{id}/unmark", decisions.unmark, OPERATOR),
    Page("GET", "/people", users.show, ADMIN),
    Page("POST", "/people/add", users.add, ADMIN),
    Page("POST", "/people/{id}/role", users.change_role, ADMIN),
    Page("POST", "/people/{id}/lock", users.change_lock, ADMIN),
    Page("POST", "/people/{id}/password", users.give_password, ADMIN),
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
    Page("GET", "/unknown", unknown.show, VIEWER),
    Page("POST", "/unknown/look-up", unknown.look_up, OPERATOR),
)

#: Any other address under the dashboard.
NOWHERE = Page("GET", "/{rest:path}", lambda context: context.missing("such page"), VIEWER)


def dashboard_routes(site: Site) -> list[BaseRoute]:
    """Return the routes of all pages, and of style and scripts."""
    guard = Guard(site)
    return [
        Route(f"{ROOT}/static/{{version}}/{{name}}", serve, methods=["GET"]),
        *(Route(f"{ROOT}{page.path}", guard(page), methods=[page.method]) for page in (*PAGES, NOWHERE)),
    ]
