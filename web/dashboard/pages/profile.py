"""A person's own settings: password, time zone, sessions."""

from zoneinfo import available_timezones

from sqlalchemy import Connection, select
from starlette.responses import Response

from shared.db.tables.operators import sessions
from shared.operations.audit_log import Act
from shared.operations.passwords import PasswordError, is_password
from shared.operations.sessions import end_sessions
from shared.operations.users import PersonError, find_person, set_password, set_time_zone
from web.dashboard.request_context import Visit


def show(visit: Visit, trouble: str = "", status: int = 200) -> Response:
    """What a person may change about themselves."""
    with visit.read() as connection:
        found = connection.execute(
            select(sessions)
            .where(sessions.c.person_id == visit.who.id, sessions.c.expires_at > visit.machine_now)
            .order_by(sessions.c.last_seen_at.desc())
            .limit(50)
        ).all()
        row = find_person(connection, visit.who.name)
    return visit.page(
        "profile.html",
        status,
        sessions=found,
        zones=sorted(available_timezones()),
        has_password=row is not None and row.password_hash is not None,
        trouble=trouble,
    )


def change_zone(visit: Visit) -> Response:
    """Keep the zone in which the person reads times."""

    def work(connection: Connection) -> None:
        set_time_zone(connection, visit.who, visit.said("zone", 64))
        visit.write_down(connection, Act.PERSON_ZONE, result={"zone": visit.said("zone", 64)})

    try:
        visit.write(work)
    except PersonError as error:
        return show(visit, str(error), 400)
    return visit.go("/you", "Kept.")


def change_password(visit: Visit) -> Response:
    """Change the password, after the present one; then every session ends, this one too."""
    present, new = visit.form.get("present", ""), visit.form.get("new", "")
    with visit.read() as connection:
        row = find_person(connection, visit.who.name)
    if row is None or not isinstance(present, str) or not is_password(present, row.password_hash):
        return show(visit, "Your present password is another one.", 400)
    if not isinstance(new, str) or new != visit.form.get("again"):
        return show(visit, "The new password isn't the same both times.", 400)

    def work(connection: Connection) -> None:
        set_password(connection, visit.who, new, visit.machine_now)
        visit.write_down(connection, Act.PERSON_PASSWORD, subject_kind="person", subject=visit.who.name)

    try:
        visit.write(work)
    except PasswordError as error:
        return show(visit, f"{error}.", 400)
    return visit.go("/sign-in")


def sign_out_everywhere(visit: Visit) -> Response:
    """End all sessions of this person."""

    def work(connection: Connection) -> None:
        ended = end_sessions(connection, visit.who.id)
        visit.write_down(connection, Act.SESSION_END_ALL, result={"sessions": ended})

    visit.write(work)
    return visit.go("/sign-in")
