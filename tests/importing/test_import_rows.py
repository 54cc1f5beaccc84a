"""The models of rows, without a database: every reason is a clear sentence of ours."""

from datetime import date

import pytest
from pydantic import ValidationError

from cli.importing.accounts import accounts_file
from cli.importing.cells import reason_of
from cli.importing.fees import fees_file
from cli.importing.kind import FileKind, draft_of
from cli.importing.services import services_file
from shared.domain.calendar import Period
from tests.seed import default_policy

POLICY = default_policy()
KINDS = (accounts_file(POLICY), services_file(POLICY), fees_file(POLICY, Period(2026, 10), date(2026, 10, 31)))
UNUSABLE = ("\0", "\ud800", "x" * 2_000, "�", "-1", "1e9", "2026-02-30", "Infinity", "{amount}", "２０２６-10-01")
BEGINNINGS = ("is ", "holds ", "can't be read; export the file as UTF-8")


@pytest.mark.parametrize(
    ("kind", "column"),
    [(kind, column) for kind in KINDS for column in kind.columns],
    ids=lambda each: getattr(each, "name", each),
)
def test_every_column_explains_unusable_values_in_our_own_words(kind: FileKind, column: str) -> None:
    rejected = 0
    for text in UNUSABLE:
        try:
            draft_of(kind.model).model_validate({column: text}, context=kind.context)
        except ValidationError as invalid:
            [error] = invalid.errors(include_url=False)
            rejected += 1
            reason = reason_of(error)
            assert (error["loc"], error["input"]) == ((column,), text)
            assert reason.startswith(BEGINNINGS)
            assert not any(word in reason for word in ("Input should", "String should", "Value error", "pydantic"))
    assert rejected >= 4


def test_staging_columns_follow_from_the_model() -> None:
    assert KINDS[1].staged == {
        "id": "text",
        "account": "text",
        "coverage": "text",
        "description": "text",
        "pricing": "text",
        "starts_on": "date",
        "protected": "boolean",
        "currency": "text",
        "price": "bigint",
        "ends_on": "date",
        "written_price": "text",
    }
