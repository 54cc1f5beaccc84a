"""Who may sign in, and as what: for admins."""

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


def show(context: RequestContext, trouble: str = "", status: int = 200) -> Response:
    """Everybody, with their role and when they were last here."""
    last_seen = select(func.max(sessions.c.last_seen_at)).where(sessions.c.user_id == users.c.id).scalar_subquery()
    with context.read() as connection:
        found = connection.execute(
            select(users, last_seen.label("last_seen_at")).order_by(users.c.is_disabled, users.c.name)
        ).all()
    return context.page("users.html", status, users=found, roles=list(Role), trouble=trouble)


def add(context: RequestContext) -> Response:
    """Add a person with a first password."""
    role, password, reason = _role(context), str(context.form.get("password", "")), context.reason()

    def work(connection: Connection) -> User:
        user = add_user(
            connection, context.said("name", 64), role, password, context.who.actor, context.machine_now
        )
        _write_down(connection, context, AuditAction.USER_ADD, user.name, reason, {"role": role})
        return user

    return _done(context, work, "is added")


def change_role(context: RequestContext) -> Response:
    """Give a person another role."""
    role, reason = _role(context), context.reason()

    def work(connection: Connection) -> User:
        user = _person(connection, context)
        set_role(connection, user, role)
        _write_down(
            connection, context, AuditAction.USER_ROLE, user.name, reason, {"before": user.role, "after": role}
        )
        return user

    return _done(context, work, f"is {role} now")


def change_lock(context: RequestContext) -> Response:
    """Lock a person out, or let them in again."""
    is_disabled, reason = context.said("lock") == "yes", context.reason()

    def work(connection: Connection) -> User:
        user = _person(connection, context)
        set_disabled(connection, user, is_disabled=is_disabled)
        _write_down(
            connection,
            context,
            AuditAction.USER_LOCK if is_disabled else AuditAction.USER_UNLOCK,
            user.name,
            reason,
        )
        return user

    return _done(context, work, "is locked out" if is_disabled else "may sign in again")


def give_password(context: RequestContext) -> Response:
    """Give a person a new password, when theirs is lost."""
    password, reason = str(context.form.get("password", "")), context.reason()

    def work(connection: Connection) -> User:
        user = _person(connection, context)
        set_password(connection, user, password, context.machine_now)
        _write_down(connection, context, AuditAction.USER_PASSWORD, user.name, reason)
        return user

    return _done(context, work, "has a new password")


def _done(context: RequestContext, work: Callable[[Connection], User], what: str) -> Response:
    try:
        user = context.write(work)
    except (UserError, PasswordError) as error:
        return show(context, f"{error}.", 400)
    return context.go("/people", f"{user.name} {what}.")


def _role(context: RequestContext) -> Role:
    said = context.said("role")
    return Role(said) if said in set(Role) else Role.VIEWER


def _person(connection: Connection, context: RequestContext) -> User:
    row: Row[Any] | None = connection.execute(
        select(users).where(users.c.id == context.uuid()).with_for_update()
    ).one_or_none()
    if row is None:
        context.missing("such person")
    return user_of(row)


def _write_down(
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
