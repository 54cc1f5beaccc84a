"""People who may sign in: added at the command line or by an admin, never deleted, since the book names them."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo, available_timezones

from sqlalchemy import Connection, Row, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from shared.db.tables.operators import users
from shared.domain.roles import Role
from shared.operations.passwords import hash_password
from shared.operations.sessions import end_sessions

_NAME = re.compile(r"[a-z0-9][a-z0-9._@-]{0,63}", re.ASCII)


class UserError(ValueError):
    """A person can't be added or changed so; the message says why."""


@dataclass(frozen=True)
class User:
    """Somebody who may sign in. `time_zone` is how they want to read times; None: as their browser says."""

    id: UUID
    name: str
    role: Role
    time_zone: str | None = None

    @property
    def actor(self) -> str:
        """How the trail and the book name them."""
        return f"operator:{self.name}"

    @property
    def zone(self) -> ZoneInfo | None:
        return ZoneInfo(self.time_zone) if self.time_zone else None


def user_of(row: Row[Any]) -> User:
    """Read a row of `people`."""
    return User(row.id, row.name, Role(row.role), row.time_zone)


def clean_name(name: str) -> str:
    """Return a name as it is kept, in lower case; UserError unless it is a plain word."""
    cleaned = name.strip().lower()
    if not _NAME.fullmatch(cleaned):
        raise UserError(
            "a name has up to 64 of a–z, 0–9, dot, dash, underscore and @, and starts with a letter or digit"
        )
    return cleaned


def add_user(
    connection: Connection, name: str, role: Role, password: str | None, by: str, machine_now: datetime
) -> User:
    """Add a person; without a password they can only come through a trusted proxy.

    UserError if the name is taken or no name, PasswordError for a password that can't be taken.
    """
    cleaned = clean_name(name)
    hashed = None if password is None else hash_password(password, cleaned)
    try:
        with connection.begin_nested():
            row = connection.execute(
                insert(users)
                .values(
                    name=cleaned,
                    role=role,
                    password_hash=hashed,
                    added_by=by,
                    password_changed_at=None if hashed is None else machine_now,
                )
                .returning(users)
            ).one()
    except IntegrityError:
        raise UserError(f"there is a {cleaned!r} already; names are never given twice") from None
    return user_of(row)


def find_user(connection: Connection, name: str) -> Row[Any] | None:
    """Return a person's row by name, disabled ones included."""
    return connection.execute(select(users).where(users.c.name == name.strip().lower())).one_or_none()


def set_password(connection: Connection, user: User, password: str, machine_now: datetime) -> None:
    """Give a person a new password and sign them out everywhere. PasswordError if it can't be taken."""
    connection.execute(
        update(users)
        .where(users.c.id == user.id)
        .values(password_hash=hash_password(password, user.name), password_changed_at=machine_now)
    )
    end_sessions(connection, user.id)


def set_role(connection: Connection, user: User, role: Role) -> None:
    """Change what a person may. UserError if it would leave nobody who can change it back."""
    if user.role is Role.ADMIN and role is not Role.ADMIN:
        _keep_an_admin(connection, user)
    connection.execute(update(users).where(users.c.id == user.id).values(role=role))


def set_disabled(connection: Connection, user: User, *, is_disabled: bool) -> None:
    """Lock a person out, or let them in again. UserError if nobody would be left who can undo it."""
    if is_disabled and user.role is Role.ADMIN:
        _keep_an_admin(connection, user)
    connection.execute(update(users).where(users.c.id == user.id).values(is_disabled=is_disabled))
    if is_disabled:
        end_sessions(connection, user.id)


def set_time_zone(connection: Connection, user: User, time_zone: str) -> None:
    """Set the zone in which a person reads times; empty for that of their browser. UserError for no zone."""
    if time_zone and time_zone not in available_timezones():
        raise UserError(f"{time_zone[:80]!r} is not a time zone like Asia/Tokyo")
    connection.execute(update(users).where(users.c.id == user.id).values(time_zone=time_zone or None))


def _keep_an_admin(connection: Connection, user: User) -> None:
    # The lock orders two admins who would each take the other's role away.
    admins = connection.execute(
        select(users.c.id)
        .where(users.c.role == Role.ADMIN, ~users.c.is_disabled)
        .order_by(users.c.id)
        .with_for_update()
    ).scalars()
    if set(admins) <= {user.id}:
        raise UserError(f"{user.name} is the only admin: make somebody else one first")


def count_users(connection: Connection) -> int:
    """Count everybody who may sign in."""
    return connection.scalar(select(func.count()).select_from(users).where(~users.c.is_disabled)) or 0
