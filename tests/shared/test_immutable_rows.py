"""The database itself refuses to change billing events, receipts and issued invoices (I10)."""

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError


@pytest.mark.parametrize("table", ["billing_events", "invoice_lines", "receipts", "invoices"])
@pytest.mark.parametrize("statement", ["DELETE FROM {table}", "TRUNCATE {table} CASCADE"])
def test_immutable_rows_cannot_be_deleted(engine: Engine, table: str, statement: str) -> None:
    with engine.connect() as connection, pytest.raises(DBAPIError, match="never changed or deleted"):
        connection.execute(text(statement.format(table=table)))
