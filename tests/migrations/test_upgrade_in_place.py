"""A database of 0.1.0 is upgraded in place: its rows are found under the new names, and stay immutable."""

import re
from collections.abc import Iterator

import pytest
from sqlalchemy import CheckConstraint, Connection, Engine, create_engine, inspect, text
from sqlalchemy.exc import DBAPIError

import shared.db.tables.accounts
import shared.db.tables.invoices
import shared.db.tables.operators
import shared.db.tables.payments
import shared.db.tables.system  # noqa: F401  # the imports fill the metadata
from shared.db.columns import metadata
from tests.conftest import sqlalchemy_url, upgrade
from tests.servers import Servers

#: Names that 0007 changed: none may be left in the catalogue, whatever it belongs to.
OLD = re.compile(
    r"(^|_)(lane_pauses|process_beats|people|person_id|ending_as)(_|$)|^(\w\w_)?(events|actions)(_|$)|_payments_ending$"
)

#: Rows as release 0.1.0 wrote them, in its own words.
ROWS_OF_0006 = """
    INSERT INTO accounts (external_id, name) VALUES ('A-1', 'Anna');
    INSERT INTO payment_settings (account_id, coverage, kind) SELECT id, 'global', 'card' FROM accounts;
    INSERT INTO payments (kind, account_id, settings_id, coverage, currency, amount_minor, state, lane, trigger,
                          next_attempt_at, due_on, ending_as)
        SELECT 'monthly', account_id, id, 'global', 'USD', 500, 'due', 'batch', 'month_start', now(), current_date,
               'void'
        FROM payment_settings;
    INSERT INTO events (at, type, actor, reason, payment_id)
        SELECT now(), 'ending_requested', 'operator:anna', 'billed by mistake', id FROM payments;
    INSERT INTO people (name, role, added_by) VALUES ('anna', 'admin', 'setup');
    INSERT INTO sessions (token_hash, person_id, csrf_key, began_at, last_seen_at, expires_at)
        SELECT 'hash', id, 'key', now(), now(), now() FROM people;
    INSERT INTO actions (at, actor, action, outcome, seen)
        VALUES (now(), 'operator:anna', 'payment.void', 'done', '{"count": 1}');
    INSERT INTO lane_pauses (queue, paused_by, reason, paused_at)
        VALUES ('night', 'operator:anna', 'a repair', now()), ('batch', 'operator:anna', 'a repair', now());
    INSERT INTO process_beats (process, kind, started_at, seen_at) VALUES ('web 1', 'web', now(), now());
"""


@pytest.fixture
def upgraded(servers: Servers) -> Iterator[Engine]:
    """A database with 0.1.0's schema and rows, upgraded to this release."""
    with servers.fresh_database() as url:
        upgrade(url, "0006")
        engine = create_engine(sqlalchemy_url(url))
        with engine.begin() as connection:
            connection.execute(text(ROWS_OF_0006))
        upgrade(url)
        yield engine
        engine.dispose()


def scalars(connection: Connection, sql: str) -> list[object]:
    return list(connection.scalars(text(sql)))


def test_rows_of_the_release_before_are_found_under_the_new_names(upgraded: Engine) -> None:
    with upgraded.connect() as connection:
        assert scalars(connection, "SELECT pending_close_as FROM payments") == ["void"]
        assert scalars(connection, "SELECT type || ' by ' || actor FROM billing_events") == [
            "ending_requested by operator:anna"
        ]
        assert scalars(connection, "SELECT u.name FROM sessions s JOIN users u ON u.id = s.user_id") == ["anna"]
        assert scalars(connection, "SELECT snapshot ->> 'count' FROM audit_log") == ["1"]
        assert scalars(connection, "SELECT queue FROM queue_pauses ORDER BY queue") == ["batch", "reconciliation"]
        assert scalars(connection, "SELECT process FROM heartbeats") == ["web 1"]


@pytest.mark.parametrize("table", ["billing_events", "audit_log"])
def test_what_was_immutable_still_is(upgraded: Engine, table: str) -> None:
    with upgraded.connect() as connection, pytest.raises(DBAPIError, match="never changed or deleted"):
        connection.execute(text(f"DELETE FROM {table}"))


def test_identity_columns_go_on_counting(upgraded: Engine) -> None:
    with upgraded.begin() as connection:
        insert = "INSERT INTO billing_events (at, type, actor) VALUES (now(), 'run_started', 'worker')"
        connection.execute(text(insert))
        assert scalars(connection, "SELECT id FROM billing_events ORDER BY id") == [1, 2]


def test_no_index_constraint_trigger_or_sequence_keeps_an_old_name(upgraded: Engine) -> None:
    named = """
        SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace
        UNION ALL SELECT conname FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype <> 'n'
        UNION ALL SELECT tgname FROM pg_trigger WHERE NOT tgisinternal
    """
    with upgraded.connect() as connection:
        names = {str(name) for name in scalars(connection, named)}
    assert {"payments", "users", "pk_billing_events", "audit_log_are_forever"} <= names
    assert sorted(name for name in names if OLD.search(name)) == []


def test_the_migrated_schema_is_the_one_that_the_tables_describe(upgraded: Engine) -> None:
    inspector = inspect(upgraded)
    assert sorted(set(inspector.get_table_names()) - {"alembic_version"}) == sorted(metadata.tables)
    for name, table in metadata.tables.items():
        assert {one["name"] for one in inspector.get_columns(name)} == {column.name for column in table.columns}, (
            name
        )
        found = {str(one["name"]) for one in inspector.get_indexes(name) if "duplicates_constraint" not in one}
        assert found == {str(index.name) for index in table.indexes}, name
        checks = {one["name"] for one in inspector.get_check_constraints(name)}
        assert checks == {str(one.name) for one in table.constraints if isinstance(one, CheckConstraint)}, name
