"""What stands before every page: who is it, is the form really ours, and may they. One place, for all of them.

A form of ours carries a token for its session and its path. Before that, browsers say themselves where a request
comes from (Sec-Fetch-Site, Origin); what they say is believed where it speaks against the request.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
import structlog
from sqlalchemy.exc import SQLAlchemyError
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response

from shared.db.session import is_locked, is_outage
from shared.domain.roles import Role
from shared.operations.sessions import (
    LASTS_FOR,
    begin_session,
    find_session,
    form_token,
    is_form_token,
    is_to_be_touched,
    touch_session,
)
from shared.operations.users import find_user, user_of
from web.dashboard.request_context import ROOT, PageError, RequestContext
from web.dashboard.site import Site

log = structlog.get_logger()

Handler = Callable[[RequestContext], Response]

#: Pages at work at once; the pool of connections has as many.
WORKERS = 8
#: The largest form is a filter and a reason; an export is a GET.
LARGEST_FORM_BYTES = 65_536
MOST_FIELDS = 200
LONGEST_TOKEN = 200
#: Before anybody is signed in, a form is tied to the browser by this cookie.
VISITOR_COOKIE = "duecourse_visitor"
SESSION_COOKIE = "duecourse_session"


@dataclass(frozen=True)
class Page:
    """One line of the table of pages (`routes.py`). `role` None: for people who aren't signed in, too."""

    method: str
    path: str
    handler: Handler
    role: Role | None


def cookie_name(name: str, *, is_https: bool) -> str:
    """Over HTTPS with the prefix that keeps subdomains and plain HTTP from setting it."""
    return f"__Host-{name}" if is_https else name


class Guard:
    """Makes a Starlette endpoint of a page."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._limiter: anyio.CapacityLimiter | None = None

    def __call__(self, page: Page) -> Callable[[Request], object]:
        async def endpoint(request: Request) -> Response:
            if self._limiter is None:
                self._limiter = anyio.CapacityLimiter(WORKERS)
            context = _visit(request, self._site)
            try:
                if request.method == "POST":
                    context.form = await _read_form(request)
                response = await anyio.to_thread.run_sync(self._answer, page, context, limiter=self._limiter)
                if context.new_session is not None:
                    keep_session(context, response, context.new_session)
                return response
            except PageError as error:
                return _explain(context, error)

        return endpoint

    def _answer(self, page: Page, context: RequestContext) -> Response:
        try:
            if any("\x00" in str(said) for said in context.request.path_params.values()):
                context.missing("such page")  # PostgreSQL takes no NUL, and none of our ids has one
            self._identify(context)
            if request_is_foreign(context):
                raise PageError(
                    403, "This form was sent from another site.", "Open the dashboard itself and try there."
                )
            if page.role is not None:
                if context.user is None:
                    return self._to_sign_in(context)
                if not context.user.role.may(page.role):
                    raise PageError(
                        403,
                        f"This needs the role {page.role}; yours is {context.user.role}.",
                        "Ask an admin, or somebody who has it, to do it.",
                    )
            if page.method == "POST":
                _check_token(context)
            return page.handler(context)
        except PageError as error:
            return _explain(context, error)
        except SQLAlchemyError as error:
            if not (is_outage(error) or is_locked(error)):
                raise
            log.warning("dashboard.database_away", path=context.path, error=type(error).__name__)
            what = "The database can't be reached." if is_outage(error) else "Somebody is at work on this row."
            trouble = PageError(503, what, "Nothing was changed. Try again in a few seconds.")
            return _explain(context, trouble)

    def _identify(self, context: RequestContext) -> None:
        """By the session; or, only if a company says so, by the name that its own proxy gives."""
        now = context.machine_now
        token = context.request.cookies.get(cookie_name(SESSION_COOKIE, is_https=context.is_https), "")
        if self._site.user_header is not None:
            token = self._session_of_proxy(context, token)
        if not token or len(token) > LONGEST_TOKEN:
            return
        with context.read() as connection:
            found = find_session(connection, token, now)
        if found is None:
            return
        context.signed_in, context.user = found, user_of(found.user)
        if is_to_be_touched(found, now):
            context.write(lambda connection: touch_session(connection, found, now))

    def _session_of_proxy(self, context: RequestContext, token: str) -> str:
        """Return the session of the person that a trusted proxy names, a new one if need be; empty for nobody.

        So that forms are tied to a session there too, and signing out everywhere means something.
        """
        if not _is_proxy(context.request, self._site):
            return ""
        name = context.request.headers.get(self._site.user_header or "", "")[:100]
        with context.read() as connection:
            row = find_user(connection, name)
            found = find_session(connection, token, context.machine_now) if token else None
        if row is None or row.is_disabled:
            return ""
        if found is not None and found.user.id == row.id:
            return token
        agent, now = context.request.headers.get("user-agent"), context.machine_now
        context.new_session = context.write(lambda c: begin_session(c, row.id, context.address, agent, now))
        return context.new_session

    def _to_sign_in(self, context: RequestContext) -> Response:
        if self._site.user_header is not None:
            raise PageError(
                403,
                "Your proxy doesn't name anybody who may come in.",
                "An admin adds people with `duecourse users add`; the name must be the one that the proxy gives.",
            )
        if context.is_fragment:  # htmx follows no redirect to another page by itself
            return Response(status_code=204, headers={"HX-Redirect": f"{ROOT}/sign-in"})
        after = ""
        if context.request.method == "GET":
            after = context.path + (f"?{context.request.url.query}" if context.request.url.query else "")
        return RedirectResponse(context.url("/sign-in", next=after if len(after) < 1_000 else ""), 303)


def keep_session(context: RequestContext, response: Response, token: str) -> None:
    """Put a session's token into the browser, out of reach of scripts and of other sites' requests."""
    response.set_cookie(
        cookie_name(SESSION_COOKIE, is_https=context.is_https),
        token,
        max_age=int(LASTS_FOR.total_seconds()),
        path="/",
        secure=context.is_https,
        httponly=True,
        samesite="lax",  # a link in a chat to a payment's page works; forms of other sites don't
    )


def request_is_foreign(context: RequestContext) -> bool:
    """Whether the browser itself says that a request which may change something comes from elsewhere."""
    headers = context.request.headers
    if context.request.method in ("GET", "HEAD"):
        return False
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return True
    origin = headers.get("origin")
    return origin is not None and urlsplit(origin).netloc != headers.get("host", "")


def safe_next(said: str) -> str:
    """Where to go after signing in: a path of the dashboard, whatever a link said. Never another site."""
    parts = urlsplit(said)
    is_ours = parts.scheme == parts.netloc == "" and (parts.path == ROOT or parts.path.startswith(f"{ROOT}/"))
    is_plain = not any(character in said for character in "\\\r\n\t\x00") and "//" not in parts.path
    return said if is_ours and is_plain and ".." not in parts.path else ROOT


def visitor_token(context: RequestContext) -> tuple[str, str]:
    """For forms before anybody is signed in: the cookie's value and what the form carries."""
    name = cookie_name(VISITOR_COOKIE, is_https=context.is_https)
    key = context.request.cookies.get(name, "")
    if len(key) < 32:
        key = secrets.token_hex(32)
    return key, form_token(key, context.path)


def _check_token(context: RequestContext) -> None:
    said = context.form.get("token", "")
    if context.signed_in is not None:
        key = context.signed_in.csrf_key
    else:
        key = context.request.cookies.get(cookie_name(VISITOR_COOKIE, is_https=context.is_https), "")
    is_ours = isinstance(said, str) and len(key) >= 32 and is_form_token(key, context.path, said)
    if not is_ours:
        raise PageError(
            403,
            "This form is too old, or not from here.",
            "Nothing was changed. Open the page again and send the form from there.",
        )


def _visit(request: Request, site: Site) -> RequestContext:
    peer = request.client.host if request.client else ""
    scheme, address = request.url.scheme, peer
    if _is_proxy(request, site):
        scheme = request.headers.get("x-forwarded-proto", scheme).split(",")[-1].strip()
        address = request.headers.get("x-forwarded-for", peer).split(",")[-1].strip()
    return RequestContext(request, site, address=address[:64], is_https=scheme == "https")


def _is_proxy(request: Request, site: Site) -> bool:
    """Whether the one who really connected to us is a proxy that the company trusts."""
    try:
        peer = ip_address(request.client.host if request.client else "")
    except ValueError:
        return False
    return any(peer in network for network in site.trusted_proxies)


async def _read_form(request: Request) -> FormData:
    """Read a form, however long it says it is, up to a bound."""
    said = request.headers.get("content-length", "0")
    if not said.isascii() or not said.isdigit() or len(said) > 9 or int(said) > LARGEST_FORM_BYTES:
        raise PageError(413, "This form is too large.", "Nothing was changed. Send less.")
    read = 0
    body = bytearray()
    try:
        async for chunk in request.stream():
            read += len(chunk)
            if read > LARGEST_FORM_BYTES:
                raise PageError(413, "This form is too large.", "Nothing was changed. Send less.")
            body += chunk
    except ClientDisconnect:
        raise PageError(400, "The form broke off.", "Nothing was changed. Send it again.") from None
    request._body = bytes(body)  # what Starlette's own `body()` keeps: `form()` reads from it
    if request.headers.get("content-type", "").split(";")[0] != "application/x-www-form-urlencoded":
        raise PageError(415, "This isn't a form.", "Nothing was changed. Use the page's own form.")
    try:
        return await request.form(max_fields=MOST_FIELDS, max_files=0)
    except HTTPException as error:
        raise PageError(400, "The form can't be read.", f"Nothing was changed ({error.detail}).") from None


def _explain(context: RequestContext, error: PageError) -> Response:
    log.info("dashboard.refused", path=context.path, status=error.status, why=error.title)
    return context.page("error.html", error.status, error=error)
