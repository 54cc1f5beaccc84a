"""Dashboard users: added at the command line or by an admin, never deleted, since the audit log names them."""

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
    """A user can't be added or changed as requested; the message says why."""


@dataclass(frozen=True)
class User:
    """A dashboard user. `time_zone` is how times are shown to them; None: their browser's."""

    id: UUID
    name: str
    role: Role
    time_zone: str | None = None

    @property
    def actor(self) -> str:
        """Their name in billing events and the audit log."""
        return f"operator:{self.name}"

    @property
    def zone(self) -> ZoneInfo | None:
        return ZoneInfo(self.time_zone) if self.time_zone else None


def user_of(row: Row[Any]) -> User:
    """Read a row of `users`."""
    return User(row.id, row.name, Role(row.role), row.time_zone)


def clean_name(name: str) -> str:
    """Return a name as it is stored, in lower case; UserError unless it is a plain word."""
    cleaned = name.strip().lower()
    if not _NAME.fullmatch(cleaned):
        raise UserError(
            "a name has up to 64 of a–z, 0–9, dot, dash, underscore and @, and starts with a letter or digit"
        )
    return cleaned


def add_user(
    connection: Connection, name: str, role: Role, password: str | None, by: str, machine_now: datetime
) -> User:
    """Add a user; without a password they can only sign in through a trusted proxy.

    UserError if the name is taken or invalid, PasswordError if the password is not acceptable.
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
        raise UserError(f"{cleaned!r} exists already; names are never reused") from None
    return user_of(row)


def find_user(connection: Connection, name: str) -> Row[Any] | None:
    """Return a user's row by name, disabled users included."""
    return connection.execute(select(users).where(users.c.name == name.strip().lower())).one_or_none()


def set_password(connection: Connection, user: User, password: str, machine_now: datetime) -> None:
    """Set a user's password and end all their sessions. PasswordError if it is not acceptable."""
    connection.execute(
        update(users)
        .where(users.c.id == user.id)
        .values(password_hash=hash_password(password, user.name), password_changed_at=machine_now)
    )
    end_sessions(connection, user.id)


def set_role(connection: Connection, user: User, role: Role) -> None:
    """Change a user's role. UserError if no admin would be left."""
    if user.role is Role.ADMIN and role is not Role.ADMIN:
        _keep_an_admin(connection, user)
    connection.execute(update(users).where(users.c.id == user.id).values(role=role))


def set_disabled(connection: Connection, user: User, *, is_disabled: bool) -> None:
    """Disable a user, or enable them again. UserError if no admin would be left."""
    if is_disabled and user.role is Role.ADMIN:
        _keep_an_admin(connection, user)
    connection.execute(update(users).where(users.c.id == user.id).values(is_disabled=is_disabled))
    if is_disabled:
        end_sessions(connection, user.id)


def set_time_zone(connection: Connection, user: User, time_zone: str) -> None:
    """Set the zone in which a user reads times; empty for their browser's. UserError for an unknown zone."""
    if time_zone and time_zone not in available_timezones():
        raise UserError(f"{time_zone[:80]!r} is not a time zone like Asia/Tokyo")
    connection.execute(update(users).where(users.c.id == user.id).values(time_zone=time_zone or None))


def _keep_an_admin(connection: Connection, user: User) -> None:
    # The lock orders two admins who would each remove the other's role.
    admins = connection.execute(
        select(users.c.id)
        .where(users.c.role == Role.ADMIN, ~users.c.is_disabled)
        .order_by(users.c.id)
        .with_for_update()
    ).scalars()
    if set(admins) <= {user.id}:
        raise UserError(f"{user.name} is the only admin: make another user admin first")


def count_users(connection: Connection) -> int:
    """Count all users who may sign in."""
    return connection.scalar(select(func.count()).select_from(users).where(~users.c.is_disabled)) or 0
