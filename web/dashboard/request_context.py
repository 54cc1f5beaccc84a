"""One request to the dashboard as a page sees it: user, parameters, database access and responses."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from functools import cache, cached_property
from typing import Any, NoReturn, TypeVar
from urllib.parse import quote, unquote, urlencode
from uuid import UUID
from zoneinfo import ZoneInfo, available_timezones

from sqlalchemy import Connection, Row, Select, text
from starlette.datastructures import FormData, QueryParams
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from shared.db.billing_events import Cause
from shared.db.session import in_transaction
from shared.domain.roles import Role
from shared.operations.audit_log import AuditAction, AuditEntry, record_action
from shared.operations.sessions import SignedIn, form_token
from shared.operations.users import User
from shared.policy import Policy
from web.dashboard.site import Site

Result = TypeVar("Result")

#: Where the dashboard lives.
ROOT = "/dashboard"
#: The browser's time zone, set by `app.js`; only a name, checked before use.
ZONE_COOKIE = "duecourse_zone"
#: The result of an action, shown once on the next page.
FLASH_COOKIE = "duecourse_said"
FLASH_MAX_AGE_S = 30
LONGEST_FLASH = 500
#: A reason is a sentence or two.
LONGEST_REASON = 500
#: An export of a million rows takes some 20 s of it.
LONGEST_EXPORT_S = 600


#: Only our own resources, nothing inline; no other site may frame our pages or receive our forms.
PAGE_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
PAGE_HEADERS = {
    "Content-Security-Policy": PAGE_CSP,
    # Not "no-referrer": with it browsers send forms with `Origin: null`, and a good form looks like a foreign one.
    "Referrer-Policy": "same-origin",
}
#: The navigation: path, name, and the role that sees it.
NAVIGATION = (
    ("", "Overview", Role.VIEWER),
    ("/runs", "Runs", Role.VIEWER),
    ("/payments", "Payments", Role.VIEWER),
    ("/accounts", "Accounts", Role.VIEWER),
    ("/bulk", "Bulk actions", Role.VIEWER),
    ("/queues", "Queues", Role.VIEWER),
    ("/stripe-events", "Stripe events", Role.VIEWER),
    ("/findings", "Findings", Role.VIEWER),
    ("/unknown", "Unknown attempts", Role.VIEWER),
    ("/audit-log", "Audit log", Role.VIEWER),
    ("/users", "Users", Role.ADMIN),
)


@cache
def _known_zones() -> frozenset[str]:
    """Cached: reading them opens hundreds of files."""
    return frozenset(available_timezones())


class PageError(Exception):
    """Ends the request with an error page: its title, and what to do."""

    def __init__(self, status: int, title: str, what_to_do: str) -> None:
        super().__init__(title)
        self.status, self.title, self.what_to_do = status, title, what_to_do


@dataclass
class RequestContext:
    """One request. Handlers are plain functions `(context) -> Response` and run in a thread."""

    request: Request
    site: Site
    signed_in: SignedIn | None = None
    user: User | None = None
    address: str = ""
    is_https: bool = False
    form: FormData = field(default_factory=FormData)
    #: A session created by this request, to be set as a cookie.
    new_session: str | None = None

    # Parameters.

    @property
    def path(self) -> str:
        return self.request.url.path

    @property
    def query(self) -> QueryParams:
        return self.request.query_params

    @property
    def is_fragment(self) -> bool:
        """Whether htmx requests only a part of the page."""
        return self.request.headers.get("hx-request") == "true"

    def uuid(self, name: str = "id") -> UUID:
        """Return an id from the path; PageError 404 if it isn't one."""
        return self._uuid(self.request.path_params[name])

    def form_text(self, name: str, longest: int = 200) -> str:
        """Return a form field, stripped; PageError 400 if it is too long or isn't text."""
        value = self.form.get(name, "")
        if not isinstance(value, str) or "\x00" in value:
            raise PageError(400, f"Field “{name}” must be text.", "Go back and correct it.")
        if len(value) > longest:
            raise PageError(400, f"Field “{name}” is too long.", f"It may have at most {longest} characters.")
        return value.strip()

    def reason(self) -> str:
        """Return the form's reason; PageError 400 without one."""
        reason = self.form_text("reason", LONGEST_REASON)
        if not reason:
            raise PageError(
                400,
                "A reason is required",
                "Go back and enter a reason. It is recorded permanently in the audit log.",
            )
        return reason

    def query_text(self, name: str, longest: int = 200) -> str:
        """Return a query parameter, stripped and cut to `longest` characters."""
        return self.query.get(name, "").replace("\x00", "")[:longest].strip()

    # The user and the time.

    @property
    def who(self) -> User:
        if self.user is None:
            raise PageError(401, "You are not signed in", "Sign in first.")
        return self.user

    def may(self, role: str) -> bool:
        """Whether the user has this role; templates hide what needs it otherwise."""
        return self.user is not None and self.user.role.may(Role(role))

    @property
    def now(self) -> datetime:
        """Business time."""
        return self.site.now()

    @property
    def machine_now(self) -> datetime:
        return self.site.machine_now()

    @property
    def policy(self) -> Policy:
        return self.site.policy

    @cached_property
    def zone(self) -> tzinfo:
        """The zone of displayed times: the user's setting, else the browser's zone, else UTC."""
        if self.user is not None and self.user.zone is not None:
            return self.user.zone
        name = self.request.cookies.get(ZONE_COOKIE, "")
        return ZoneInfo(name if name in _known_zones() else "UTC")

    @property
    def site_map(self) -> list[tuple[str, str]]:
        """The navigation's pages, path and name, that the user may see."""
        return [(path, name) for path, name, role in NAVIGATION if self.may(role)]

    def cause(self, reason: str) -> Cause:
        return Cause(self.who.actor, self.now, reason)

    # Reading and writing.

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a read-only transaction: a page that only shows can't change anything by mistake."""
        with self.site.engine.connect() as connection:
            connection.execution_options(postgresql_readonly=True)
            with connection.begin():
                yield connection

    def stream(self, query: Select[Any]) -> Iterator[Row[Any]]:
        """Stream the rows of a query on a connection of its own; for exports.

        The rows are a snapshot of one moment. A slow reader keeps nothing locked.
        """
        with self.site.engine.connect() as connection:
            connection.execution_options(postgresql_readonly=True, isolation_level="REPEATABLE READ")
            with connection.begin():
                connection.execute(text(f"SET LOCAL statement_timeout = '{LONGEST_EXPORT_S}s'"))
                connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = '60s'"))
                yield from connection.execute(query.execution_options(stream_results=True, max_row_buffer=1_000))

    def write(self, work: Callable[[Connection], Result]) -> Result:
        """Run `work` in one transaction, again after a deadlock; it must check the state before it acts."""
        return in_transaction(self.site.engine, work)

    def record_action(self, connection: Connection, action: AuditAction, **facts: Any) -> None:
        """Add an entry to the audit log, with the user and the IP address."""
        who = self.who
        record_action(
            connection,
            AuditEntry(action=action, actor=who.actor, role=who.role, address=self.address, at=self.now, **facts),
        )

    # Responses.

    def page(self, template: str, status: int = 200, **data: Any) -> Response:
        """Render a page."""
        html = self.site.templates.get_template(template).render(context=self, **data)
        response = HTMLResponse(html, status, PAGE_HEADERS)
        if FLASH_COOKIE in self.request.cookies and not self.is_fragment:
            response.delete_cookie(FLASH_COOKIE, path=ROOT)
        return response

    def redirect(self, path: str, flash: str | None = None, **query: str) -> Response:
        """Redirect to a page of the dashboard after a POST; `flash` is a message shown there once.

        The message travels in a cookie, not in the URL: a link must not be able to set it.
        """
        response = RedirectResponse(f"{ROOT}{path}" + (f"?{urlencode(query)}" if query else ""), 303)
        if flash:
            response.set_cookie(
                FLASH_COOKIE,
                quote(flash[:LONGEST_FLASH]),
                max_age=FLASH_MAX_AGE_S,
                path=ROOT,
                secure=self.is_https,
                httponly=True,
                samesite="strict",
            )
        return response

    @property
    def flash_message(self) -> str:
        """The message of the action that redirected to this page."""
        return unquote(self.request.cookies.get(FLASH_COOKIE, ""))[:LONGEST_FLASH]

    def not_found(self, what: str) -> NoReturn:
        raise PageError(404, f"{what} not found", "Check the URL, or use the search.")

    def token(self, action: str) -> str:
        """Return the CSRF token of a form to `action` (a whole path)."""
        if self.signed_in is None:
            raise AssertionError("forms need a signed-in user")
        return form_token(self.signed_in.csrf_key, action)

    def url(self, path: str = "", **query: Any) -> str:
        """Return a path of the dashboard with query parameters; None and empty ones are omitted."""
        given = {name: value for name, value in query.items() if value not in (None, "")}
        return f"{ROOT}{path}" + (f"?{urlencode(given, doseq=True)}" if given else "")

    def here(self, **changes: Any) -> str:
        """Return this page's own URL with changed query parameters."""
        query: Mapping[str, Any] = {**dict(self.query), **changes}
        return self.url(self.path.removeprefix(ROOT), **query)

    @staticmethod
    def _uuid(text: str) -> UUID:
        try:
            return UUID(text)
        except ValueError:
            raise PageError(404, "Invalid ID", "Check the URL, or use the search.") from None
