"""Counts wrong passwords per user and address: guessing is slow, and an attacker can't easily lock others out."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, delete, func, insert, select

from shared.db.tables.operators import sign_in_failures

WITHIN = timedelta(minutes=15)
#: For one user from one address: a forgotten password takes a few tries.
OF_ONE_AT_ONE_ADDRESS = 5
#: From one address, for any users: a company's whole office may share it.
AT_ONE_ADDRESS = 30
#: For one user from anywhere: many machines may guess together. High, since it locks the user out too.
OF_ONE = 100


@dataclass(frozen=True)
class TooMany:
    """Sign-in is refused until then (machine time)."""

    until: datetime

    def minutes_left(self, machine_now: datetime) -> int:
        """Whole minutes until the next try, at least 1."""
        return max(1, -int(-(self.until - machine_now).total_seconds() // 60))


def is_throttled(connection: Connection, name: str, address: str, machine_now: datetime) -> TooMany | None:
    """Return whether another try is refused, before any password is checked."""
    by_name, by_address = sign_in_failures.c.name == name, sign_in_failures.c.address == address
    bounds: tuple[tuple[int, ColumnElement[bool]], ...] = (
        (OF_ONE_AT_ONE_ADDRESS, by_name & by_address),
        (AT_ONE_ADDRESS, by_address),
        (OF_ONE, by_name),
    )
    for bound, condition in bounds:
        tries = connection.execute(
            select(func.count(), func.min(sign_in_failures.c.at)).where(
                condition, sign_in_failures.c.at > machine_now - WITHIN
            )
        ).one()
        if tries[0] >= bound:
            return TooMany(tries[1] + WITHIN)
    return None


def note_failure(connection: Connection, name: str, address: str, machine_now: datetime) -> None:
    """Record a wrong password, and delete old ones."""
    connection.execute(delete(sign_in_failures).where(sign_in_failures.c.at < machine_now - WITHIN * 4))
    connection.execute(insert(sign_in_failures).values(name=name[:64], address=address[:64], at=machine_now))


def clear_failures(connection: Connection, name: str, address: str) -> None:
    """Delete the user's failures at this address after a successful sign-in."""
    connection.execute(
        delete(sign_in_failures).where(sign_in_failures.c.name == name, sign_in_failures.c.address == address)
    )
