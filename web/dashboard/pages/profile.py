"""The user's own settings: password, time zone, sessions."""

from zoneinfo import available_timezones

from sqlalchemy import Connection, select
from starlette.responses import Response

from shared.db.tables.operators import sessions
from shared.operations.audit_log import AuditAction
from shared.operations.passwords import PasswordError, is_password
from shared.operations.sessions import end_sessions
from shared.operations.sign_in_throttle import clear_failures, is_throttled, note_failure
from shared.operations.users import UserError, find_user, set_password, set_time_zone
from web.dashboard.request_context import RequestContext


def show(context: RequestContext, error: str = "", status: int = 200) -> Response:
    """The settings and active sessions."""
    with context.read() as connection:
        found = connection.execute(
            select(sessions)
            .where(sessions.c.user_id == context.who.id, sessions.c.expires_at > context.machine_now)
            .order_by(sessions.c.last_seen_at.desc())
            .limit(50)
        ).all()
        row = find_user(connection, context.who.name)
    return context.page(
        "profile.html",
        status,
        sessions=found,
        zones=sorted(available_timezones()),
        has_password=row is not None and row.password_hash is not None,
        error=error,
    )


def change_zone(context: RequestContext) -> Response:
    """Save the zone of displayed times."""

    def work(connection: Connection) -> None:
        set_time_zone(connection, context.who, context.form_text("zone", 64))
        context.record_action(connection, AuditAction.USER_ZONE, result={"zone": context.form_text("zone", 64)})

    try:
        context.write(work)
    except UserError as error:
        return show(context, str(error), 400)
    return context.redirect("/profile", "Time zone saved.")


def change_password(context: RequestContext) -> Response:
    """Change the password after checking the current one; every session ends, this one too.

    A wrong one counts like a failed sign-in: a stolen session must not make guessing fast.
    """
    present, new = context.form.get("present", ""), context.form.get("new", "")
    with context.read() as connection:
        row = find_user(connection, context.who.name)
        too_many = is_throttled(connection, context.who.name, context.address, context.machine_now)
    if too_many is not None:
        minutes = too_many.minutes_left(context.machine_now)
        refused = show(context, f"Too many wrong passwords. Try again in {minutes} min.", 429)
        refused.headers["Retry-After"] = str(minutes * 60)
        return refused
    if row is None or not isinstance(present, str) or not is_password(present, row.password_hash):
        context.write(lambda connection: _note_wrong_password(connection, context))
        return show(context, "The current password is wrong.", 400)
    if not isinstance(new, str) or new != context.form.get("again"):
        return show(context, "The new passwords don't match.", 400)

    def work(connection: Connection) -> None:
        set_password(connection, context.who, new, context.machine_now)
        clear_failures(connection, context.who.name, context.address)
        context.record_action(
            connection, AuditAction.USER_PASSWORD, subject_kind="person", subject=context.who.name
        )

    try:
        context.write(work)
    except PasswordError as error:
        return show(context, f"{error}.", 400)
    return context.redirect("/sign-in")


def _note_wrong_password(connection: Connection, context: RequestContext) -> None:
    note_failure(connection, context.who.name, context.address, context.machine_now)
    context.record_action(
        connection,
        AuditAction.USER_PASSWORD,
        subject_kind="person",
        subject=context.who.name,
        outcome="refused",
    )


def sign_out_everywhere(context: RequestContext) -> Response:
    """End all sessions of this user."""

    def work(connection: Connection) -> None:
        ended = end_sessions(connection, context.who.id)
        context.record_action(connection, AuditAction.SESSION_END_ALL, result={"sessions": ended})

    context.write(work)
    return context.redirect("/sign-in")
