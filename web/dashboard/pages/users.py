"""Users and their roles: for admins."""

from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, Row, func, select
from starlette.responses import Response

from shared.db.tables.operators import sessions, users
from shared.domain.roles import Role
from shared.operations.audit_log import AuditAction
from shared.operations.passwords import PasswordError
from shared.operations.users import (
    User,
    UserError,
    add_user,
    set_disabled,
    set_password,
    set_role,
    user_of,
)
from web.dashboard.request_context import RequestContext


def show(context: RequestContext, error: str = "", status: int = 200) -> Response:
    """All users with their role and when they were last seen."""
    last_seen = select(func.max(sessions.c.last_seen_at)).where(sessions.c.user_id == users.c.id).scalar_subquery()
    with context.read() as connection:
        found = connection.execute(
            select(users, last_seen.label("last_seen_at")).order_by(users.c.is_disabled, users.c.name)
        ).all()
    return context.page("users.html", status, users=found, roles=list(Role), error=error)


def add(context: RequestContext) -> Response:
    """Add a user with an initial password."""
    role, password, reason = _role(context), str(context.form.get("password", "")), context.reason()

    def work(connection: Connection) -> User:
        user = add_user(
            connection, context.form_text("name", 64), role, password, context.who.actor, context.machine_now
        )
        _record(connection, context, AuditAction.USER_ADD, user.name, reason, {"role": role})
        return user

    return _change(context, work, "was added")


def change_role(context: RequestContext) -> Response:
    """Change a user's role."""
    role, reason = _role(context), context.reason()

    def work(connection: Connection) -> User:
        user = _user(connection, context)
        set_role(connection, user, role)
        _record(connection, context, AuditAction.USER_ROLE, user.name, reason, {"before": user.role, "after": role})
        return user

    return _change(context, work, f"now has the role {role}")


def change_lock(context: RequestContext) -> Response:
    """Lock or unlock a user."""
    is_disabled, reason = context.form_text("lock") == "yes", context.reason()

    def work(connection: Connection) -> User:
        user = _user(connection, context)
        set_disabled(connection, user, is_disabled=is_disabled)
        _record(
            connection,
            context,
            AuditAction.USER_LOCK if is_disabled else AuditAction.USER_UNLOCK,
            user.name,
            reason,
        )
        return user

    return _change(context, work, "is locked" if is_disabled else "is unlocked")


def reset_password(context: RequestContext) -> Response:
    """Set a new password for a user who lost theirs."""
    password, reason = str(context.form.get("password", "")), context.reason()

    def work(connection: Connection) -> User:
        user = _user(connection, context)
        set_password(connection, user, password, context.machine_now)
        _record(connection, context, AuditAction.USER_PASSWORD, user.name, reason)
        return user

    return _change(context, work, "has a new password")


def _change(context: RequestContext, work: Callable[[Connection], User], what: str) -> Response:
    try:
        user = context.write(work)
    except (UserError, PasswordError) as error:
        return show(context, f"{error}.", 400)
    return context.redirect("/users", f"{user.name} {what}.")


def _role(context: RequestContext) -> Role:
    role = context.form_text("role")
    return Role(role) if role in set(Role) else Role.VIEWER


def _user(connection: Connection, context: RequestContext) -> User:
    row: Row[Any] | None = connection.execute(
        select(users).where(users.c.id == context.uuid()).with_for_update()
    ).one_or_none()
    if row is None:
        context.not_found("User")
    return user_of(row)


def _record(
    connection: Connection,
    context: RequestContext,
    action: AuditAction,
    name: str,
    reason: str,
    result: dict[str, Any] | None = None,
) -> None:
    context.record_action(
        connection, action, subject_kind="person", subject=name, reason=reason, result=result or {}
    )
