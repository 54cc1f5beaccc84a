"""One request to the dashboard, as a page sees it: who asks, for what, and how to read, write and answer."""

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
#: The browser's own zone, which `app.js` puts there; only a name, checked before it is used.
ZONE_COOKIE = "duecourse_zone"
#: What an action says to the next page, once.
SAID_COOKIE = "duecourse_said"
SAID_FOR_S = 30
LONGEST_SAID = 500
#: A reason is a sentence or two; a novel isn't read by anybody.
LONGEST_REASON = 500
#: An export of a million rows takes some 20 s of it.
LONGEST_EXPORT_S = 600


#: Nothing of anybody else's, nothing inline, and no other site may show us in a frame or take our forms.
POLICY_OF_PAGES = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS_OF_PAGES = {
    "Content-Security-Policy": POLICY_OF_PAGES,
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
    ("/audit", "Audit", Role.VIEWER),
    ("/people", "People", Role.ADMIN),
)


@cache
def _known_zones() -> frozenset[str]:
    """Read once: it is hundreds of files."""
    return frozenset(available_timezones())


class PageError(Exception):
    """A request that gets a page with an explanation instead of what it wanted."""

    def __init__(self, status: int, title: str, what_to_do: str) -> None:
        super().__init__(title)
        self.status, self.title, self.what_to_do = status, title, what_to_do


@dataclass
class RequestContext:
    """One request. Handlers are plain functions `(visit) -> Response` and run in a thread."""

    request: Request
    site: Site
    signed_in: SignedIn | None = None
    user: User | None = None
    address: str = ""
    is_https: bool = False
    form: FormData = field(default_factory=FormData)
    #: A session that began with this request, to be put into the browser.
    new_session: str | None = None

    # What is asked for.

    @property
    def path(self) -> str:
        return self.request.url.path

    @property
    def query(self) -> QueryParams:
        return self.request.query_params

    @property
    def is_fragment(self) -> bool:
        """Whether htmx asks for a part of the page only."""
        return self.request.headers.get("hx-request") == "true"

    def uuid(self, name: str = "id") -> UUID:
        """Return an id out of the path; PageError 404 if it isn't one."""
        return self._uuid(self.request.path_params[name])

    def said(self, name: str, longest: int = 200) -> str:
        """Return a field of the form, without spaces around it; PageError 400 if it is too long or no text."""
        value = self.form.get(name, "")
        if not isinstance(value, str) or "\x00" in value:
            raise PageError(400, f"The field “{name}” isn't text.", "Go back and fill it in again.")
        if len(value) > longest:
            raise PageError(400, f"The field “{name}” is too long.", f"It may have {longest} characters.")
        return value.strip()

    def reason(self) -> str:
        """Return the form's reason; PageError 400 without one."""
        reason = self.said("reason", LONGEST_REASON)
        if not reason:
            raise PageError(400, "Why?", "Go back and give a reason; it is kept for good beside what you do.")
        return reason

    def asked(self, name: str, longest: int = 200) -> str:
        """Return a parameter of the address, cut to a bearable length."""
        return self.query.get(name, "").replace("\x00", "")[:longest].strip()

    # Who asks, and when.

    @property
    def who(self) -> User:
        if self.user is None:
            raise PageError(401, "You are not signed in.", "Sign in first.")
        return self.user

    def may(self, role: str) -> bool:
        """For templates: whether to show what needs this role."""
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
        """In which the person reads times: as they chose, else as their browser says, else UTC."""
        if self.user is not None and self.user.zone is not None:
            return self.user.zone
        said = self.request.cookies.get(ZONE_COOKIE, "")
        return ZoneInfo(said if said in _known_zones() else "UTC")

    @property
    def site_map(self) -> list[tuple[str, str]]:
        """The pages in the navigation, path and name, that this person may see."""
        return [(path, name) for path, name, role in NAVIGATION if self.may(role)]

    def cause(self, reason: str) -> Cause:
        return Cause(self.who.actor, self.now, reason)

    # Reading and writing.

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that can't write: a page that only shows can't change anything by mistake."""
        with self.site.engine.connect() as connection:
            connection.execution_options(postgresql_readonly=True)
            with connection.begin():
                yield connection

    def stream(self, query: Select[Any]) -> Iterator[Row[Any]]:
        """Read the rows of a query one by one, however many, on a connection of their own; for exports.

        A snapshot of one moment. Whoever takes them slowly keeps nothing locked.
        """
        with self.site.engine.connect() as connection:
            connection.execution_options(postgresql_readonly=True, isolation_level="REPEATABLE READ")
            with connection.begin():
                connection.execute(text(f"SET LOCAL statement_timeout = '{LONGEST_EXPORT_S}s'"))
                connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = '60s'"))
                yield from connection.execute(query.execution_options(stream_results=True, max_row_buffer=1_000))

    def write(self, work: Callable[[Connection], Result]) -> Result:
        """Run `work` in one transaction, again after a deadlock; it must look before it acts."""
        return in_transaction(self.site.engine, work)

    def record_action(self, connection: Connection, action: AuditAction, **facts: Any) -> None:
        """Add a line to the book of actions, with who and from where."""
        who = self.who
        record_action(
            connection,
            AuditEntry(action=action, actor=who.actor, role=who.role, address=self.address, at=self.now, **facts),
        )

    # Answering.

    def page(self, template: str, status: int = 200, **data: Any) -> Response:
        """Render a page."""
        html = self.site.templates.get_template(template).render(context=self, **data)
        response = HTMLResponse(html, status, HEADERS_OF_PAGES)
        if SAID_COOKIE in self.request.cookies and not self.is_fragment:
            response.delete_cookie(SAID_COOKIE, path=ROOT)
        return response

    def go(self, path: str, said: str | None = None, **query: str) -> Response:
        """Send the browser to a page of ours after a POST, with a word about what happened (`said`).

        In a cookie and not in the address: whoever sends somebody a link must not put words into our mouth.
        """
        response = RedirectResponse(f"{ROOT}{path}" + (f"?{urlencode(query)}" if query else ""), 303)
        if said:
            response.set_cookie(
                SAID_COOKIE,
                quote(said[:LONGEST_SAID]),
                max_age=SAID_FOR_S,
                path=ROOT,
                secure=self.is_https,
                httponly=True,
                samesite="strict",
            )
        return response

    @property
    def just_said(self) -> str:
        """What the action before this page had to say."""
        return unquote(self.request.cookies.get(SAID_COOKIE, ""))[:LONGEST_SAID]

    def missing(self, what: str) -> NoReturn:
        raise PageError(404, f"There is no {what}.", "Look at the address, or search for it.")

    def token(self, action: str) -> str:
        """What a form to `action` (a whole path) carries."""
        if self.signed_in is None:
            raise AssertionError("forms are for people who are signed in")
        return form_token(self.signed_in.csrf_key, action)

    def url(self, path: str = "", **query: Any) -> str:
        """A path of the dashboard with parameters; those that are None or empty are left out."""
        kept = {name: value for name, value in query.items() if value not in (None, "")}
        return f"{ROOT}{path}" + (f"?{urlencode(kept, doseq=True)}" if kept else "")

    def here(self, **changes: Any) -> str:
        """This page's own address with other parameters."""
        query: Mapping[str, Any] = {**dict(self.query), **changes}
        return self.url(self.path.removeprefix(ROOT), **query)

    @staticmethod
    def _uuid(text: str) -> UUID:
        try:
            return UUID(text)
        except ValueError:
            raise PageError(404, "That is no id.", "Look at the address, or search for it.") from None
