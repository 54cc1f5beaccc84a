"""Authentication, authorisation and CSRF checks of every page, in one place.

Each form carries a token for its session and its path. Before the token, the browser's own headers (Sec-Fetch-Site,
Origin) are checked; they can only reject a request, never admit one.
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

#: Pages handled at once; the connection pool has the same size.
WORKERS = 8
#: The largest form is a filter and a reason; an export is a GET.
LARGEST_FORM_BYTES = 65_536
MOST_FIELDS = 200
LONGEST_TOKEN = 200
#: Before sign-in, this cookie ties a form to the browser.
VISITOR_COOKIE = "duecourse_visitor"
SESSION_COOKIE = "duecourse_session"


@dataclass(frozen=True)
class Page:
    """One row of the page table (`routes.py`). `role` None: no sign-in is needed."""

    method: str
    path: str
    handler: Handler
    role: Role | None


def cookie_name(name: str, *, is_https: bool) -> str:
    """Over HTTPS add the prefix that prevents subdomains and plain HTTP from setting the cookie."""
    return f"__Host-{name}" if is_https else name


class Guard:
    """Turns a page into a Starlette endpoint."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._limiter: anyio.CapacityLimiter | None = None

    def __call__(self, page: Page) -> Callable[[Request], object]:
        async def endpoint(request: Request) -> Response:
            if self._limiter is None:
                self._limiter = anyio.CapacityLimiter(WORKERS)
            context = _make_context(request, self._site)
            try:
                if request.method == "POST":
                    context.form = await _read_form(request)
                response = await anyio.to_thread.run_sync(self._respond, page, context, limiter=self._limiter)
                if context.new_session is not None:
                    set_session_cookie(context, response, context.new_session)
                return response
            except PageError as error:
                return _error_page(context, error)

        return endpoint

    def _respond(self, page: Page, context: RequestContext) -> Response:
        try:
            if any("\x00" in str(value) for value in context.request.path_params.values()):
                context.not_found("Page")  # PostgreSQL rejects NUL, and none of our ids has one
            self._identify(context)
            if request_is_foreign(context):
                raise PageError(
                    403, "This form was sent from another site.", "Open the dashboard and submit the form there."
                )
            if page.role is not None:
                if context.user is None:
                    return self._to_sign_in(context)
                if not context.user.role.may(page.role):
                    raise PageError(
                        403,
                        f"This needs the role {page.role}; your role is {context.user.role}.",
                        "Ask an admin for the role, or ask a user who has it.",
                    )
            if page.method == "POST":
                _check_token(context)
            return page.handler(context)
        except PageError as error:
            return _error_page(context, error)
        except SQLAlchemyError as error:
            if not (is_outage(error) or is_locked(error)):
                raise
            log.warning("dashboard.database_away", path=context.path, error=type(error).__name__)
            what = (
                "The database is unavailable." if is_outage(error) else "This row is locked by another operation."
            )
            unavailable = PageError(503, what, "Nothing was changed. Try again in a few seconds.")
            return _error_page(context, unavailable)

    def _identify(self, context: RequestContext) -> None:
        """Identify the user by the session or, if configured, by the user name that a trusted proxy sends."""
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
        """Return the session token of the user that a trusted proxy names, a new one if needed; empty for no user.

        Forms are then tied to a session too, and signing out everywhere works.
        """
        if not _is_proxy(context.request, self._site):
            return ""
        names = context.request.headers.getlist(self._site.user_header or "")
        if len(names) > 1:  # a proxy that adds its own behind the client's: either may be forged
            raise PageError(
                400,
                f"The header {self._site.user_header} was sent more than once.",
                "Let your proxy replace that header of the client, not add to it.",
            )
        name = names[0][:100] if names else ""
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
                "Your proxy doesn't send a known user name.",
                "An admin adds users with `duecourse users add`; the name must match the one that the proxy sends.",
            )
        if context.is_fragment:  # htmx follows no redirect to another page by itself
            return Response(status_code=204, headers={"HX-Redirect": f"{ROOT}/sign-in"})
        after = ""
        if context.request.method == "GET":
            after = context.path + (f"?{context.request.url.query}" if context.request.url.query else "")
        return RedirectResponse(context.url("/sign-in", next=after if len(after) < 1_000 else ""), 303)


def set_session_cookie(context: RequestContext, response: Response, token: str) -> None:
    """Set the session cookie, inaccessible to scripts and to other sites' requests."""
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
    """Whether the browser's own headers say that a state-changing request comes from another site."""
    headers = context.request.headers
    if context.request.method in ("GET", "HEAD"):
        return False
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return True
    origin = headers.get("origin")
    return origin is not None and urlsplit(origin).netloc != headers.get("host", "")


def safe_next(path: str) -> str:
    """Return where to go after signing in: a path of the dashboard, never another site."""
    parts = urlsplit(path)
    is_ours = parts.scheme == parts.netloc == "" and (parts.path == ROOT or parts.path.startswith(f"{ROOT}/"))
    is_plain = not any(character in path for character in "\\\r\n\t\x00") and "//" not in parts.path
    return path if is_ours and is_plain and ".." not in parts.path else ROOT


def visitor_token(context: RequestContext) -> tuple[str, str]:
    """Return the visitor cookie's value and the token of a form before sign-in."""
    name = cookie_name(VISITOR_COOKIE, is_https=context.is_https)
    key = context.request.cookies.get(name, "")
    if len(key) < 32:
        key = secrets.token_hex(32)
    return key, form_token(key, context.path)


def _check_token(context: RequestContext) -> None:
    token = context.form.get("token", "")
    if context.signed_in is not None:
        key = context.signed_in.csrf_key
    else:
        key = context.request.cookies.get(cookie_name(VISITOR_COOKIE, is_https=context.is_https), "")
    is_ours = isinstance(token, str) and len(key) >= 32 and is_form_token(key, context.path, token)
    if not is_ours:
        raise PageError(
            403,
            "This form has expired or is invalid.",
            "Nothing was changed. Reload the page and submit the form again.",
        )


def _make_context(request: Request, site: Site) -> RequestContext:
    peer = request.client.host if request.client else ""
    scheme, address = request.url.scheme, peer
    if _is_proxy(request, site):
        scheme = request.headers.get("x-forwarded-proto", scheme).split(",")[-1].strip()
        address = request.headers.get("x-forwarded-for", peer).split(",")[-1].strip()
    return RequestContext(request, site, address=address[:64], is_https=scheme == "https")


def _is_proxy(request: Request, site: Site) -> bool:
    """Whether the connecting peer is a trusted proxy."""
    try:
        peer = ip_address(request.client.host if request.client else "")
    except ValueError:
        return False
    return any(peer in network for network in site.trusted_proxies)


async def _read_form(request: Request) -> FormData:
    """Read a form up to the size limit, whatever length its header announces."""
    length = request.headers.get("content-length", "0")
    if not length.isascii() or not length.isdigit() or len(length) > 9 or int(length) > LARGEST_FORM_BYTES:
        raise PageError(413, "This form is too large.", "Nothing was changed. Submit less data.")
    read = 0
    body = bytearray()
    try:
        async for chunk in request.stream():
            read += len(chunk)
            if read > LARGEST_FORM_BYTES:
                raise PageError(413, "This form is too large.", "Nothing was changed. Submit less data.")
            body += chunk
    except ClientDisconnect:
        raise PageError(400, "The request was cut off.", "Nothing was changed. Submit the form again.") from None
    request._body = bytes(body)  # what Starlette's own `body()` keeps: `form()` reads from it
    if request.headers.get("content-type", "").split(";")[0] != "application/x-www-form-urlencoded":
        raise PageError(415, "Unsupported form encoding.", "Nothing was changed. Use the form on the page.")
    try:
        return await request.form(max_fields=MOST_FIELDS, max_files=0)
    except HTTPException as error:
        raise PageError(400, "The form is malformed.", f"Nothing was changed ({error.detail}).") from None


def _error_page(context: RequestContext, error: PageError) -> Response:
    log.info("dashboard.refused", path=context.path, status=error.status, why=error.title)
    return context.page("error.html", error.status, error=error)
