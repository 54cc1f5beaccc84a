"""A check: one invariant, the query for the rows that break it, and what to do about such a row."""

import string
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from uuid import UUID

from shared.domain.money import exponent, format_minor


@dataclass(frozen=True)
class Check:
    """One invariant.

    `breaks` selects one row for each break. `{payments}` and the like stand for the tables within the scope, and
    `:now`, `:machine_now`, `:patience`… for its instants. `says` is filled in with a row's columns; `*_minor`
    columns are shown as money in the row's `currency`. Checks with `needs_processor` read the filled
    `processor_charges`.
    """

    name: str  # permanent: scripts use it
    promise: str
    looks_at: str
    breaks: str
    says: str
    do: str
    needs_processor: bool = False


@dataclass(frozen=True)
class Break:
    """One row that breaks an invariant: its ids, what is wrong, what to do."""

    ids: Mapping[str, Any]
    what: str
    do: str


@dataclass(frozen=True)
class Result:
    """A check's result. `breaks` are the first of `broken`; `not_checked` says what couldn't be checked."""

    check: Check
    looked_at: int
    broken: int
    breaks: tuple[Break, ...]
    seconds: float = 0.0
    not_checked: str | None = None

    @property
    def holds(self) -> bool:
        return self.not_checked is None and self.broken == 0


def break_of(check: Check, row: Mapping[str, Any]) -> Break:
    """Describe a broken row."""
    ids = {name: _plain(value) for name, value in row.items()}
    words = {name: _word(name, value, row.get("currency")) for name, value in row.items()}
    return Break(ids, _fill(check.says, words), _fill(check.do, words))


def _fill(template: str, words: Mapping[str, str]) -> str:
    return string.Formatter().vformat(template, (), words)


def _word(name: str, value: Any, currency: str | None) -> str:
    if value is None:
        return "none"
    if name.endswith("_minor") and currency is not None:
        try:
            exponent(currency)
        except ValueError:
            return f"{value} {currency} (minor units)"
        return format_minor(int(value), currency)
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S} UTC"
    return str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    return value if value is None or isinstance(value, int | str | bool) else int(value)
