"""Column definitions that several tables share, so that all tables define them alike."""

from collections.abc import Iterable
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    ForeignKey,
    MetaData,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

#: Alembic and PostgreSQL name constraints alike, so that one migration can drop what another one made.
metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def primary_key() -> Column[Any]:
    """A random UUID: ours are sent to Stripe, and a restored or second database must never repeat one."""
    return Column("id", Uuid, primary_key=True, server_default=text("gen_random_uuid()"))


def reference(name: str, target: str, *, nullable: bool = False) -> Column[Any]:
    return Column(name, Uuid, ForeignKey(target), nullable=nullable)


def instant(name: str, *, nullable: bool = False) -> Column[Any]:
    return Column(name, DateTime(timezone=True), nullable=nullable)


def created_at() -> Column[Any]:
    """Machine time of the insert, for debugging; no decision reads it."""
    return Column("created_at", DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()"))


def day(name: str, *, nullable: bool = False) -> Column[Any]:
    return Column(name, Date, nullable=nullable)


def string(name: str, *, nullable: bool = False, default: str | None = None) -> Column[Any]:
    return Column(name, Text, nullable=nullable, server_default=default)


def identifier(name: str, *, nullable: bool = False) -> Column[Any]:
    """An id without a foreign key: the row is inserted later, or a check on each insert would cost too much."""
    return Column(name, Uuid, nullable=nullable)


def minor_units(name: str) -> Column[Any]:
    return Column(name, BigInteger, nullable=False)


def json(name: str) -> Column[Any]:
    return Column(name, JSONB, nullable=False, server_default=text("'{}'::jsonb"))


def one_of(name: str, values: type[StrEnum] | Iterable[str]) -> CheckConstraint:
    """A check that a text column holds one of an enum's values: unlike a PostgreSQL enum, cheap to extend."""
    words = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{name} IN ({words})", name=f"{name}_known")
