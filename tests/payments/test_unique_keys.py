"""The last guard of "never twice": the database rejects a second row with the same unique key."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID, uuid4

import psycopg.errors
import pytest
from sqlalchemy import BigInteger, Boolean, Date, DateTime, Engine, Integer, Table, Text, Uuid, insert, text
from sqlalchemy.exc import IntegrityError

import shared.db.tables.accounts  # noqa: F401  # all three fill the metadata
from shared.db.columns import metadata

NOW = datetime(2026, 11, 1, 9, tzinfo=UTC)
ONE, ANOTHER = UUID(int=1), UUID(int=2)

#: A value for each required column. Any value will do: everything but the key may be equal.
FILLER: Mapping[type[Any], Any] = {
    Text: "x",
    Integer: 1,
    BigInteger: 1,
    Boolean: False,
    Date: date(2026, 11, 1),
    DateTime: NOW,
    Uuid: ONE,
}


@dataclass(frozen=True)
class Key:
    """A unique key. Two rows equal in `row` violate this key, and, differing as in `differs`, no other."""

    name: str
    table: str
    row: Mapping[str, Any] = field(default_factory=dict)
    differs: Mapping[str, Any] = field(default_factory=dict)


DUE = {"kind": "monthly", "state": "due", "lane": "batch", "trigger": "month_start", "next_attempt_at": NOW}
CHARGE = {"kind": "charge", "lane": "batch", "trigger": "month_start"}
CLOSED = {"closed_reason": "canceled", "closed_at": NOW}

KEYS = (
    # Who pays, and with what
    Key("uq_accounts_external_id", "accounts"),
    Key("uq_payment_settings_account_id_coverage", "payment_settings", {"kind": "card"}),
    Key(
        "uq_payment_settings_coverage_stripe_customer_id",
        "payment_settings",
        {"kind": "card", "stripe_customer_id": "cus_1"},
        {"account_id": ANOTHER},
    ),
    Key("uq_cards_coverage_stripe_payment_method_id", "cards", differs={"settings_id": ANOTHER}),
    Key("pk_card_registrations", "card_registrations", differs={"card_id": ANOTHER}),
    Key("pk_card_blocks", "card_blocks", differs={"reason": "y"}),
    # What is owed
    Key("uq_services_coverage_external_id", "services", {"pricing": "daily"}, {"account_id": ANOTHER}),
    Key("uq_fees_coverage_external_id", "fees", differs={"account_id": ANOTHER}),
    Key("uq_fees_carried_from_payment_id", "fees", {"carried_from_payment_id": ONE}, {"external_id": "y"}),
    Key("uq_invoices_monthly", "invoices", differs={"number": "y", "number_sequence": 2}),
    Key("uq_invoices_number", "invoices", differs={"account_id": ANOTHER, "number_sequence": 2}),
    Key(
        "uq_invoices_coverage_number_year_number_sequence",
        "invoices",
        differs={"account_id": ANOTHER, "number": "y"},
    ),
    Key("pk_invoice_counters", "invoice_counters", differs={"last_sequence": 2}),
    Key("uq_invoice_lines_fee_id", "invoice_lines", {"fee_id": ONE}, {"invoice_id": ANOTHER}),
    Key("uq_invoice_lines_invoice_id_position", "invoice_lines", {"fee_id": ONE}, {"fee_id": ANOTHER}),
    # What is owed, and what came in
    Key("uq_payments_invoice_id", "payments", {**DUE, "invoice_id": ONE}),
    Key("uq_payment_intents_live", "payment_intents", differs={"ordinal": 2}),
    Key("uq_payment_intents_payment_id_ordinal", "payment_intents", CLOSED),
    Key(
        "uq_payment_intents_stripe_id",
        "payment_intents",
        {"stripe_payment_intent_id": "pi_1"},
        {"payment_id": ANOTHER},
    ),
    Key(
        "uq_payment_attempts_open",
        "payment_attempts",
        {**CHARGE, "state": "started"},
        {"number": 2, "state": "unknown"},
    ),
    Key("uq_payment_attempts_payment_id_number", "payment_attempts", {**CHARGE, "state": "declined"}),
    Key("uq_receipts_stripe_charge_id", "receipts", {"stripe_charge_id": "ch_1"}, {"payment_id": ANOTHER}),
    # The machinery
    Key("uq_runs_job_period_coverage", "runs", {"state": "ready"}, {"state": "finished"}),
    Key("pk_stripe_events", "stripe_events", {"state": "applied"}, {"state": "received"}),
    Key("uq_findings_kind_coverage_subject", "findings", differs={"payment_id": ANOTHER}),
    Key("pk_listed_charges", "listed_charges"),
    # The dashboard
    Key("uq_users_name", "users", {"role": "viewer"}, {"role": "admin"}),
    Key("pk_bulk_items", "bulk_items", {"state": "done"}),
    Key("uq_bulk_items_waiting", "bulk_items", {"state": "waiting"}, {"bulk_id": ANOTHER}),
)

#: Primary keys that are plain IDs: nothing is promised by them.
UNIQUE_INDEXES = """
    SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE i.indisunique AND n.nspname = 'public' AND t.relname <> 'alembic_version'
      AND NOT (i.indisprimary AND i.indnatts = 1)
"""


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
def test_database_rejects_a_duplicate_row(engine: Engine, key: Key) -> None:
    table = metadata.tables[key.table]
    first = {**filled(table), **key.row}
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))  # no foreign keys, no triggers
        connection.execute(insert(table).values(first))
        with pytest.raises(IntegrityError) as refused, connection.begin_nested():
            connection.execute(insert(table).values({**first, **own_id(table), **key.differs}))
    assert isinstance(refused.value.orig, psycopg.errors.UniqueViolation)
    assert refused.value.orig.diag.constraint_name == key.name


def test_every_unique_key_is_tested(engine: Engine) -> None:
    with engine.connect() as connection:
        assert sorted(connection.scalars(text(UNIQUE_INDEXES))) == sorted(key.name for key in KEYS)


def filled(table: Table) -> dict[str, Any]:
    """A row with a value in each required column without a default."""
    return {
        column.name: FILLER[type(column.type)]
        for column in table.columns
        if not column.nullable and column.server_default is None
    } | own_id(table)


def own_id(table: Table) -> dict[str, UUID]:
    return {"id": uuid4()} if "id" in table.columns else {}
