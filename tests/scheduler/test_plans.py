"""Every source reads large tables through its index, with generic plans, too."""

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, Select, create_engine, event, select, text

from shared.db.query_terms import Moment
from shared.db.tables.payments import payments
from shared.policy import Policy
from shared.scheduling.due_work import DUE_WORK, DueWork
from shared.scheduling.pending_work import pending_work
from tests.conftest import sqlalchemy_url
from tests.servers import Servers

LARGE = {"payments", "payment_attempts", "stripe_events"}
NOW = datetime(2026, 11, 4, 9, tzinfo=UTC)

#: 200,000 payments, 50,000 attempts and events: nearly all done, some waiting, some due, few in progress.
SEED = """
    INSERT INTO accounts (external_id, name) SELECT 'A-' || n, 'A' FROM generate_series(1, 20000) n;
    INSERT INTO payment_settings (account_id, coverage, kind) SELECT id, 'global', 'card' FROM accounts;
    INSERT INTO payments (kind, account_id, settings_id, coverage, currency, amount_minor, state, lane, trigger,
                          due_on, next_attempt_at, waiting_for_revision_after, paid_at)
    SELECT 'monthly', s.account_id, s.id, 'global', 'USD', 100, kind.state,
           CASE WHEN n % 40 = 0 THEN 'interactive' ELSE 'batch' END, 'month_start', '2026-11-01',
           CASE WHEN kind.state IN ('due', 'retry_scheduled')
                THEN timestamptz '2026-11-01' + n % 6 * interval '1 day' END,
           CASE WHEN kind.state = 'needs_payment_method' THEN 0 END,
           CASE WHEN kind.state = 'paid' THEN timestamptz '2026-11-01' END
    FROM (SELECT *, row_number() OVER () AS place FROM payment_settings) s,
         generate_series(1, 10) month,
         LATERAL (SELECT s.place * 10 + month AS n) numbered,
         LATERAL (SELECT CASE n % 100 WHEN 1 THEN 'due' WHEN 2 THEN 'retry_scheduled' WHEN 3 THEN 'retry_scheduled'
                              WHEN 4 THEN 'needs_payment_method' ELSE 'paid' END AS state) kind;
    INSERT INTO payment_intents (payment_id, ordinal, coverage, amount_minor, currency, stripe_customer_id,
                                 api_version)
    SELECT id, 1, 'global', 100, 'USD', 'cus', '1' FROM payments LIMIT 50000;
    INSERT INTO payment_attempts (payment_id, number, kind, state, payment_intent_id, coverage, trigger, lane,
                                  card_revision, started_at, lease_expires_at, look_up_at)
    SELECT payment_id, 1, 'charge',
           CASE n % 500 WHEN 0 THEN 'started' WHEN 1 THEN 'unknown' WHEN 2 THEN 'declined' ELSE 'succeeded' END,
           id, 'global', 'month_start', 'batch', 0, '2026-11-01', timestamptz '2026-11-01' + n * interval '1 s',
           CASE WHEN n % 500 = 1 THEN timestamptz '2026-11-01' END
    FROM (SELECT *, row_number() OVER () AS n FROM payment_intents) numbered;
    INSERT INTO stripe_events (coverage, stripe_event_id, type, is_livemode, stripe_created_at, state)
    SELECT 'global', 'evt_' || n, 'payment_intent.succeeded', false, '2026-11-01',
           CASE n % 500 WHEN 0 THEN 'received' WHEN 1 THEN 'trouble' ELSE 'applied' END
    FROM generate_series(1, 50000) n;
    ANALYZE;
"""


@pytest.fixture(scope="module")
def large(servers: Servers, migrated: str) -> Iterator[Engine]:
    with servers.fresh_database(migrated) as url:
        engine = create_engine(sqlalchemy_url(url))
        with engine.begin() as connection:
            connection.connection.cursor().execute(SEED)
        yield engine
        engine.dispose()


@pytest.mark.parametrize("plan_cache_mode", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("source", DUE_WORK, ids=lambda source: source.name)
def test_no_source_scans_a_whole_table(large: Engine, source: DueWork, plan_cache_mode: str) -> None:
    query = source.query.limit(10_000)
    with large.connect() as connection:
        connection.execute(text(f"SET LOCAL plan_cache_mode = {plan_cache_mode}"))
        plan = explain(connection, query, Moment(NOW, datetime.now(UTC)).parameters())
    assert scanned_whole(plan) & LARGE == set(), json.dumps(plan, indent=1)


def test_query_without_an_index_is_detected(large: Engine) -> None:
    with large.connect() as connection:
        plan = explain(connection, select(payments.c.id).where(payments.c.state_reason == "of nobody"), {})
    assert scanned_whole(plan) == {"payments"}


def test_pending_work_takes_milliseconds(large: Engine, policy: Policy) -> None:
    with large.connect() as connection:
        pending = pending_work(connection, policy, NOW, datetime.now(UTC))
        assert pending["open attempts"] == 200
        assert pending["due payments, batch"] == 1_000, "the count stops at its cap"
        connection.execute(text("SET LOCAL statement_timeout = '500ms'"))
        pending_work(connection, policy, NOW, datetime.now(UTC), {})


def explain(connection: Connection, query: Select[Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The plan of the query as sent, prepared as psycopg prepares frequent queries."""
    sent: list[tuple[str, dict[str, Any]]] = []

    def note(_connection: Any, _cursor: Any, statement: str, values: Any, _context: Any, _many: bool) -> None:
        sent.append((statement, dict(values)))

    event.listen(connection, "before_cursor_execute", note)
    connection.execute(query, parameters)
    event.remove(connection, "before_cursor_execute", note)
    ((statement, values),) = sent
    names: list[str] = []

    def numbered(match: re.Match[str]) -> str:
        names.append(match[1])
        return f"${len(names)}"

    cursor = connection.connection.cursor()
    cursor.execute("PREPARE looked_at AS " + re.sub(r"%\((\w+)\)s", numbered, statement))
    try:
        given = ", ".join(f"'{values[name]}'" for name in names)
        cursor.execute(f"EXPLAIN (FORMAT JSON) EXECUTE looked_at {f'({given})' if names else ''}")
        (row,) = cursor.fetchall()
    finally:
        cursor.execute("DEALLOCATE looked_at")
    plan: dict[str, Any] = row[0][0]["Plan"]
    return plan


def scanned_whole(plan: dict[str, Any]) -> set[str]:
    """Names of the tables that the plan scans sequentially."""
    found = {plan["Relation Name"]} if plan["Node Type"] == "Seq Scan" else set()
    return found.union(*(scanned_whole(part) for part in plan.get("Plans", [])))
