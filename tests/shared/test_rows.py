"""Row classes match their tables: names in the same order, nullability and Python types."""

from types import NoneType, UnionType
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

import pytest
from sqlalchemy import Column, Integer, MetaData, Table
from sqlalchemy.dialects.postgresql import JSONB

from shared.db import rows
from shared.db.tables.accounts import accounts, card_blocks, cards, payment_settings
from shared.db.tables.payments import payment_attempts, payment_intents, payments
from shared.db.tables.system import runs
from shared.payments.state_changes import PaymentChanges

TABLE_OF: dict[type, Table] = {
    rows.AccountRow: accounts,
    rows.SettingsRow: payment_settings,
    rows.CardRow: cards,
    rows.CardBlockRow: card_blocks,
    rows.PaymentRow: payments,
    rows.PaymentIntentRow: payment_intents,
    rows.AttemptRow: payment_attempts,
    rows.RunRow: runs,
}


def _columns(table: Table) -> list[tuple[str, type, bool]]:
    return [(column.name, _python_type(column), bool(column.nullable)) for column in table.c]


def _python_type(column: Column[Any]) -> type:
    return dict if isinstance(column.type, JSONB) else column.type.python_type  # we store objects only


def _fields(row_class: type) -> list[tuple[str, type, bool]]:
    return [(name, *_read(hint)) for name, hint in get_type_hints(row_class).items()]


def _read(hint: Any) -> tuple[type, bool]:
    """The Python type of an annotation, and whether it may be None."""
    is_nullable = isinstance(hint, UnionType) and NoneType in get_args(hint)
    plain = next(part for part in get_args(hint) if part is not NoneType) if is_nullable else hint
    return get_origin(plain) or plain, is_nullable


@pytest.mark.parametrize("row_class", TABLE_OF, ids=lambda row_class: row_class.__name__)
def test_row_fields_match_the_columns(row_class: type) -> None:
    assert _fields(row_class) == _columns(TABLE_OF[row_class])


def test_every_row_class_is_checked() -> None:
    classes = {value for value in vars(rows).values() if isinstance(value, type)}
    defined = {each for each in classes if each.__module__ == rows.__name__ and hasattr(each, "_fields")}
    assert defined == set(TABLE_OF)


@pytest.mark.parametrize("row_class", TABLE_OF, ids=lambda row_class: row_class.__name__)
def test_column_missing_in_the_class_is_detected(row_class: type) -> None:
    copy = TABLE_OF[row_class].to_metadata(MetaData())
    copy.append_column(Column("added", Integer))
    assert _fields(row_class) != _columns(copy)


class _CardBlockWithField(NamedTuple):
    coverage: str
    fingerprint: str
    reason: str
    attempt_id: rows.UUID
    blocked_at: rows.datetime
    added: int


def test_field_missing_in_the_table_is_detected() -> None:
    assert _fields(_CardBlockWithField)[:-1] == _columns(card_blocks)
    assert _fields(_CardBlockWithField) != _columns(card_blocks)


@pytest.mark.parametrize("wrong", [("standing", int, False), ("email", str, False), ("standing", str, True)])
def test_different_type_or_nullability_is_detected(wrong: tuple[str, type, bool]) -> None:
    fields = [wrong if field[0] == wrong[0] else field for field in _fields(rows.AccountRow)]
    assert fields != _columns(accounts)


def test_columns_that_a_move_changes_are_columns_of_payments() -> None:
    columns = {name: (kind, is_nullable) for name, kind, is_nullable in _columns(payments)}
    for name, hint in get_type_hints(PaymentChanges).items():
        kind, is_nullable = _read(hint)
        column_kind, column_is_nullable = columns[name]
        assert issubclass(kind, column_kind), name  # our enums are text
        assert is_nullable == column_is_nullable, name
