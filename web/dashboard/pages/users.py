"""Who may sign in, and as what: for admins."""

from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, Row, func, select
from starlette.responses import Response

from shared.db.tables.operators import people, sessions
from shared.domain.roles import Role
from shared.operations.audit_log import Act
from shared.operations.passwords import PasswordError
from shared.operations.users import (
    Person,
    PersonError,
    add_person,
    person_of,
    set_disabled,
    set_password,
    set_role,
)
from web.dashboard.request_context import Visit


def show(visit: Visit, trouble: str = "", status: int = 200) -> Response:
    """Everybody, with their role and when they were last here."""
    last_seen = (
        select(func.max(sessions.c.last_seen_at)).where(sessions.c.person_id == people.c.id).scalar_subquery()
    )
    with visit.read() as connection:
        found = connection.execute(
            select(people, last_seen.label("last_seen_at")).order_by(people.c.is_disabled, people.c.name)
        ).all()
    return visit.page("users.html", status, people=found, roles=list(Role), trouble=trouble)


def add(visit: Visit) -> Response:
    """Add a person with a first password."""
    role, password, reason = _role(visit), str(visit.form.get("password", "")), visit.reason()

    def work(connection: Connection) -> Person:
        person = add_person(connection, visit.said("name", 64), role, password, visit.who.actor, visit.machine_now)
        _write_down(connection, visit, Act.PERSON_ADD, person.name, reason, {"role": role})
        return person

    return _done(visit, work, "is added")


def change_role(visit: Visit) -> Response:
    """Give a person another role."""
    role, reason = _role(visit), visit.reason()

    def work(connection: Connection) -> Person:
        person = _person(connection, visit)
        set_role(connection, person, role)
        _write_down(connection, visit, Act.PERSON_ROLE, person.name, reason, {"before": person.role, "after": role})
        return person

    return _done(visit, work, f"is {role} now")


def change_lock(visit: Visit) -> Response:
    """Lock a person out, or let them in again."""
    is_disabled, reason = visit.said("lock") == "yes", visit.reason()

    def work(connection: Connection) -> Person:
        person = _person(connection, visit)
        set_disabled(connection, person, is_disabled=is_disabled)
        _write_down(connection, visit, Act.PERSON_LOCK if is_disabled else Act.PERSON_UNLOCK, person.name, reason)
        return person

    return _done(visit, work, "is locked out" if is_disabled else "may sign in again")


def give_password(visit: Visit) -> Response:
    """Give a person a new password, when theirs is lost."""
    password, reason = str(visit.form.get("password", "")), visit.reason()

    def work(connection: Connection) -> Person:
        person = _person(connection, visit)
        set_password(connection, person, password, visit.machine_now)
        _write_down(connection, visit, Act.PERSON_PASSWORD, person.name, reason)
        return person

    return _done(visit, work, "has a new password")


def _done(visit: Visit, work: Callable[[Connection], Person], what: str) -> Response:
    try:
        person = visit.write(work)
    except (PersonError, PasswordError) as error:
        return show(visit, f"{error}.", 400)
    return visit.go("/people", f"{person.name} {what}.")


def _role(visit: Visit) -> Role:
    said = visit.said("role")
    return Role(said) if said in set(Role) else Role.VIEWER


def _person(connection: Connection, visit: Visit) -> Person:
    row: Row[Any] | None = connection.execute(
        select(people).where(people.c.id == visit.uuid()).with_for_update()
    ).one_or_none()
    if row is None:
        visit.missing("such person")
    return person_of(row)


def _write_down(
    connection: Connection,
    visit: Visit,
    action: Act,
    name: str,
    reason: str,
    result: dict[str, Any] | None = None,
) -> None:
    visit.write_down(connection, action, subject_kind="person", subject=name, reason=reason, result=result or {})
