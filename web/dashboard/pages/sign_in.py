"""Sign in and sign out."""

from typing import Any

import structlog
from sqlalchemy import Connection, Row
from starlette.responses import RedirectResponse, Response

from shared.operations.audit_log import AuditAction, AuditEntry, record_action
from shared.operations.passwords import is_password
from shared.operations.sessions import begin_session, end_session
from shared.operations.sign_in_throttle import TooMany, clear_failures, is_throttled, note_failure
from shared.operations.users import count_users, find_user
from web.dashboard.auth import (
    SESSION_COOKIE,
    VISITOR_COOKIE,
    cookie_name,
    safe_next,
    set_session_cookie,
    visitor_token,
)
from web.dashboard.request_context import ROOT, RequestContext

log = structlog.get_logger()

#: The same message for a wrong name and a wrong password.
INVALID_CREDENTIALS = "Invalid name or password."


def show(context: RequestContext) -> Response:
    """The form; a signed-in user is redirected."""
    if context.user is not None:
        return RedirectResponse(safe_next(context.query_text("next", 1_000)), 303)
    return _form(context, next_=context.query_text("next", 1_000))


def submit(context: RequestContext) -> Response:
    """Check name and password, throttled against guessing, and always begin a new session."""
    name, password = context.form_text("name", 64).lower(), context.form.get("password", "")
    with context.read() as connection:
        too_many = is_throttled(connection, name, context.address, context.machine_now)
        row = find_user(connection, name)
    if too_many is not None:
        return _refuse_throttled(context, name, too_many)
    known = row is not None and not row.is_disabled
    is_right = isinstance(password, str) and is_password(password, row.password_hash if row and known else None)
    if row is None or not is_right:
        context.write(lambda connection: _note_failure(connection, context, name))
        return _form(context, 401, INVALID_CREDENTIALS, name, context.form_text("next", 1_000))
    token = context.write(lambda connection: _begin(connection, context, row))
    response = RedirectResponse(safe_next(context.form_text("next", 1_000)), 303)
    set_session_cookie(context, response, token)
    response.delete_cookie(cookie_name(VISITOR_COOKIE, is_https=context.is_https), path="/")
    return response


def sign_out(context: RequestContext) -> Response:
    """End this session, also for copies of its cookie."""
    name = cookie_name(SESSION_COOKIE, is_https=context.is_https)
    token = context.request.cookies.get(name, "")

    def work(connection: Connection) -> None:
        end_session(connection, token)
        context.record_action(connection, AuditAction.SESSION_END)

    context.write(work)
    response = RedirectResponse(f"{ROOT}/sign-in", 303)
    response.delete_cookie(name, path="/", secure=context.is_https, httponly=True, samesite="lax")
    return response


def _begin(connection: Connection, context: RequestContext, row: Row[Any]) -> str:
    agent = context.request.headers.get("user-agent")
    # A session that the browser already had ends: a planted one is worthless.
    end_session(connection, context.request.cookies.get(cookie_name(SESSION_COOKIE, is_https=context.is_https), ""))
    clear_failures(connection, row.name, context.address)
    record_action(
        connection,
        AuditEntry(
            AuditAction.SESSION_BEGIN, f"operator:{row.name}", context.now, role=row.role, address=context.address
        ),
    )
    return begin_session(connection, row.id, context.address, agent, context.machine_now)


def _note_failure(connection: Connection, context: RequestContext, name: str) -> None:
    note_failure(connection, name, context.address, context.machine_now)
    log.info("dashboard.sign_in_refused", address=context.address)
    record_action(
        connection,
        AuditEntry(
            AuditAction.SESSION_BEGIN,
            "nobody",
            context.now,
            subject_kind="person",
            subject=name,
            outcome="refused",
            address=context.address,
        ),
    )


def _refuse_throttled(context: RequestContext, name: str, too_many: TooMany) -> Response:
    minutes = too_many.minutes_left(context.machine_now)
    text = f"Too many failed sign-ins. Try again in {minutes} minute{'s' if minutes > 1 else ''}."
    response = _form(context, 429, text, name, context.form_text("next", 1_000))
    response.headers["Retry-After"] = str(minutes * 60)
    return response


def _form(context: RequestContext, status: int = 200, error: str = "", name: str = "", next_: str = "") -> Response:
    with context.read() as connection:
        has_no_users = count_users(connection) == 0
    key, token = visitor_token(context)
    response = context.page(
        "sign_in.html", status, token=token, next=next_, error=error, name=name, has_no_users=has_no_users
    )
    response.set_cookie(
        cookie_name(VISITOR_COOKIE, is_https=context.is_https),
        key,
        path="/",
        secure=context.is_https,
        httponly=True,
        samesite="lax",
    )
    return response
