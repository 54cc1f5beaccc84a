"""Comparisons with literals instead of parameters: a generic plan could not use a partial index."""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Column, ColumnElement, literal


def one_of(column: Column[Any], words: Iterable[str]) -> ColumnElement[bool]:
    """`column IN (…)` with literals, which partial indexes need."""
    return column.in_([literal(str(word), literal_execute=True) for word in sorted(words)])


def one_of_not(column: Column[Any], words: Iterable[str]) -> ColumnElement[bool]:
    """`column NOT IN (…)` with literals."""
    return column.not_in([literal(str(word), literal_execute=True) for word in sorted(words)])


def is_(column: Column[Any], word: str) -> ColumnElement[bool]:
    """`column = …` with a literal."""
    return column == literal(str(word), literal_execute=True)
