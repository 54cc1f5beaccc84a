"""Billing events, receipts and issued invoices are immutable: the database refuses any change (I10)."""

import psycopg.errors
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from tests import seed
from tests.invoicing.month_start import MonthStart
from tests.world import World


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE billing_events SET reason = 'another'",
        "UPDATE receipts SET amount_minor = amount_minor + 1",
        "DELETE FROM receipts",
    ],
)
def test_rows_of_a_charge_cannot_be_changed(world: World, statement: str) -> None:
    account = world.account("A-1")
    world.add_primary_card(account)
    world.charge(world.add_due_payment(account))
    refuses(world.engine, statement)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE invoices SET total_minor = total_minor + 1",
        "UPDATE invoices SET billing_snapshot = '{}'",
        "UPDATE invoice_lines SET amount_minor = amount_minor + 1",
        "DELETE FROM invoices",
    ],
)
def test_issued_invoice_cannot_be_changed(engine: Engine, statement: str) -> None:
    issue_one(engine)
    refuses(engine, statement)


def test_invoice_can_be_voided_only_once(engine: Engine) -> None:
    issue_one(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE invoices SET voided_at = now()"))
    refuses(engine, "UPDATE invoices SET voided_at = NULL")


def issue_one(engine: Engine) -> None:
    with engine.begin() as connection:
        seed.add_fee(connection, seed.add_account(connection, "anna"), 29_85)
    MonthStart(engine).run()


def refuses(engine: Engine, statement: str) -> None:
    with engine.connect() as connection, pytest.raises(DBAPIError) as refused:
        connection.execute(text(statement))
    assert isinstance(refused.value.orig, psycopg.errors.RestrictViolation)
