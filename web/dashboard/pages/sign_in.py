"""Signing in and out."""

from typing import Any

import structlog
from sqlalchemy import Connection, Row
from starlette.responses import RedirectResponse, Response

from shared.operations.audit_log import Act, Action, write_down
from shared.operations.passwords import is_password
from shared.operations.sessions import begin_session, end_session
from shared.operations.sign_in_throttle import TooMany, forgive, is_throttled, note_failure
from shared.operations.users import count_people, find_person
from web.dashboard.auth import SESSION_COOKIE, VISITOR_COOKIE, cookie_name, keep_session, safe_next, visitor_token
from web.dashboard.request_context import ROOT, Visit

log = structlog.get_logger()

#: A wrong name and a wrong password look alike.
NOT_RIGHT = "That name and password don't belong together."


def show(visit: Visit) -> Response:
    """The form; whoever is signed in already goes on."""
    if visit.person is not None:
        return RedirectResponse(safe_next(visit.asked("next", 1_000)), 303)
    return _form(visit, next_=visit.asked("next", 1_000))


def submit(visit: Visit) -> Response:
    """Check name and password, slowly for who guesses, and begin a session that is new in any case."""
    name, password = visit.said("name", 64).lower(), visit.form.get("password", "")
    with visit.read() as connection:
        too_many = is_throttled(connection, name, visit.address, visit.machine_now)
        row = find_person(connection, name)
    if too_many is not None:
        return _refuse_throttled(visit, name, too_many)
    known = row is not None and not row.is_disabled
    is_right = isinstance(password, str) and is_password(password, row.password_hash if row and known else None)
    if row is None or not is_right:
        visit.write(lambda connection: _note_failure(connection, visit, name))
        return _form(visit, 401, NOT_RIGHT, name, visit.said("next", 1_000))
    token = visit.write(lambda connection: _begin(connection, visit, row))
    response = RedirectResponse(safe_next(visit.said("next", 1_000)), 303)
    keep_session(visit, response, token)
    response.delete_cookie(cookie_name(VISITOR_COOKIE, is_https=visit.is_https), path="/")
    return response


def sign_out(visit: Visit) -> Response:
    """End this session, everywhere its cookie may have been copied to."""
    name = cookie_name(SESSION_COOKIE, is_https=visit.is_https)
    token = visit.request.cookies.get(name, "")

    def work(connection: Connection) -> None:
        end_session(connection, token)
        visit.write_down(connection, Act.SESSION_END)

    visit.write(work)
    response = RedirectResponse(f"{ROOT}/sign-in", 303)
    response.delete_cookie(name, path="/", secure=visit.is_https, httponly=True, samesite="lax")
    return response


def _begin(connection: Connection, visit: Visit, row: Row[Any]) -> str:
    agent = visit.request.headers.get("user-agent")
    # A session that the browser brought along ends: whoever planted it gains nothing.
    end_session(connection, visit.request.cookies.get(cookie_name(SESSION_COOKIE, is_https=visit.is_https), ""))
    forgive(connection, row.name, visit.address)
    write_down(
        connection,
        Action(Act.SESSION_BEGIN, f"operator:{row.name}", visit.now, role=row.role, address=visit.address),
    )
    return begin_session(connection, row.id, visit.address, agent, visit.machine_now)


def _note_failure(connection: Connection, visit: Visit, name: str) -> None:
    note_failure(connection, name, visit.address, visit.machine_now)
    log.info("dashboard.sign_in_refused", address=visit.address)
    write_down(
        connection,
        Action(
            Act.SESSION_BEGIN,
            "nobody",
            visit.now,
            subject_kind="person",
            subject=name,
            outcome="refused",
            address=visit.address,
        ),
    )


def _refuse_throttled(visit: Visit, name: str, too_many: TooMany) -> Response:
    minutes = max(1, -int(-(too_many.until - visit.machine_now).total_seconds() // 60))
    text = f"Too many wrong tries. Try again in {minutes} minute{'s' if minutes > 1 else ''}."
    response = _form(visit, 429, text, name, visit.said("next", 1_000))
    response.headers["Retry-After"] = str(minutes * 60)
    return response


def _form(visit: Visit, status: int = 200, trouble: str = "", name: str = "", next_: str = "") -> Response:
    with visit.read() as connection:
        nobody = count_people(connection) == 0
    key, token = visitor_token(visit)
    response = visit.page(
        "sign_in.html", status, token=token, next=next_, trouble=trouble, name=name, nobody=nobody
    )
    response.set_cookie(
        cookie_name(VISITOR_COOKIE, is_https=visit.is_https),
        key,
        path="/",
        secure=visit.is_https,
        httponly=True,
        samesite="lax",
    )
    return response
