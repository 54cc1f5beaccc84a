"""Wrong passwords are counted per person and address, so that guessing is slow and nobody can lock others out."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, delete, func, insert, select

from shared.db.tables.operators import sign_in_failures

WITHIN = timedelta(minutes=15)
#: Of one person from one address: a forgotten password is tried a few times.
OF_ONE_AT_ONE_ADDRESS = 5
#: From one address, whoever is named: a company's whole office may be behind it.
AT_ONE_ADDRESS = 30
#: Of one person from anywhere: many machines guess together. High, since it locks the person out too.
OF_ONE = 100


@dataclass(frozen=True)
class TooMany:
    """Guessing is refused until then (machine time)."""

    until: datetime


def is_throttled(connection: Connection, name: str, address: str, machine_now: datetime) -> TooMany | None:
    """Say whether another try is refused, before any password is looked at."""
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
    """Write down a wrong password, and forget old ones."""
    connection.execute(delete(sign_in_failures).where(sign_in_failures.c.at < machine_now - WITHIN * 4))
    connection.execute(insert(sign_in_failures).values(name=name[:64], address=address[:64], at=machine_now))


def forgive(connection: Connection, name: str, address: str) -> None:
    """The right password at last: what this person got wrong here counts no more."""
    connection.execute(
        delete(sign_in_failures).where(sign_in_failures.c.name == name, sign_in_failures.c.address == address)
    )
