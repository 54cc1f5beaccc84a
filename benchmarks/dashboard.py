"""How long do the dashboard's pages take among a million invoices, how large are they, and do they read everything?

    python -m benchmarks.dashboard [--invoices 1000000] [--requests 50]

Seeds an embedded PostgreSQL (or the empty database of DATABASE_URL) with ten months of 100,000 accounts in two
coverages, 1.4 attempts a payment, and serves the dashboard as `python -m web` does. Each page is requested 50
times by one operator; the time is the server's own, from the request's arrival to its last byte, measured around
the application. PostgreSQL itself counts how often each table was read from its beginning to its end: a page that
did so to one of the large tables is named. (That a plan avoids it is not enough: what counts is what ran.)
"""

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table
from sqlalchemy import Engine, create_engine, text
from starlette.types import ASGIApp

from benchmarks.company import quantile
from local import embedded
from shared.clock import ManualClock, machine_now
from shared.domain.roles import Role
from shared.messaging.broker import make_broker
from shared.operations.sessions import begin_session
from shared.operations.users import add_user
from shared.policy import load_policy
from shared.runtime import Runtime
from shared.settings import Settings
from tests.conftest import sqlalchemy_url, upgrade
from web.app import build_app
from web.dashboard.auth import SESSION_COOKIE

PROJECT = Path(__file__).resolve().parent.parent
NOW = datetime(2026, 11, 12, 10, 30, tzinfo=UTC)
#: Tables that grow with the company; a page may read none of them as a whole.
LARGE = (
    "accounts",
    "payments",
    "payment_attempts",
    "payment_intents",
    "invoices",
    "invoice_lines",
    "billing_events",
)
MONTHS = 10

# Ten accounts in a hundred are in Japan. Of a hundred payments eighty are paid at once, the others meet declines;
# of the last month's, two in a hundred are unpaid still. Codes and shares are made up, for their number only.
SEED = """
    SELECT setseed(0.5);
    INSERT INTO accounts (external_id, name, email, standing, standing_since_at)
        SELECT 'A' || n, (ARRAY['Miller','Tanaka','Okafor','Garcia','Novak'])[1 + n % 5] || ' ' || n,
               n || '@example.com', CASE WHEN n % 200 = 0 THEN 'marked_for_suspension' ELSE 'good' END,
               CASE WHEN n % 200 = 0 THEN timestamptz '2026-11-10' END
        FROM generate_series(1, :accounts) n;
    INSERT INTO payment_settings (account_id, coverage, kind, stripe_customer_id, billing_details)
        SELECT id, CASE WHEN right(external_id, 1) = '7' THEN 'japan' ELSE 'global' END, 'card',
               'cus_' || external_id, jsonb_build_object('name', name)
        FROM accounts;
    INSERT INTO cards (settings_id, coverage, stripe_payment_method_id, brand, network, last4, exp_month,
                       exp_year, fingerprint, attached_at)
        SELECT id, coverage, 'pm_' || stripe_customer_id, 'visa', 'visa', '4242', 12, 2030,
               'fp_' || stripe_customer_id,
               timestamptz '2026-01-01'
        FROM payment_settings;
    UPDATE payment_settings s SET primary_card_id = c.id, card_revision = 1 FROM cards c WHERE c.settings_id = s.id;
    INSERT INTO runs (job, period, coverage, state, scheduled_for_at, started_at, finished_at, requested_by, counts)
        SELECT 'monthly-invoices', to_char(m, 'YYYY-MM'), c, 'finished', m + interval '1 month',
               m + interval '1 month', m + interval '1 month 10 minutes', 'scheduler', '{"invoices": 1}'
        FROM generate_series(date '2026-01-01', date '2026-10-01', interval '1 month') m,
             unnest(ARRAY['global', 'japan']) c;
    INSERT INTO invoices (account_id, coverage, period, number, number_year, number_sequence, currency,
                          total_minor, issued_on, due_on, billing_snapshot, created_at)
        SELECT s.account_id, s.coverage, m.period,
               upper(left(s.coverage, 1)) || '-' || m.n || '-' || row_number() OVER w,
               2000 + m.n, row_number() OVER w, CASE s.coverage WHEN 'japan' THEN 'JPY' ELSE 'USD' END,
               500 + CAST(random() * 12000 AS int), m.period + interval '1 month', m.period + interval '1 month',
               s.billing_details, m.period + interval '1 month' + random() * interval '10 minutes'
        FROM payment_settings s, (
            SELECT n, CAST(date '2026-01-01' + make_interval(months => n - 1) AS date) AS period
            FROM generate_series(1, :months) n
        ) m
        WINDOW w AS (PARTITION BY s.coverage, m.n ORDER BY s.id);
    INSERT INTO invoice_lines (invoice_id, position, service_id, description, amount_minor)
        SELECT id, 1, gen_random_uuid(), 'Line rental', total_minor FROM invoices;
    INSERT INTO payments (kind, account_id, settings_id, coverage, invoice_id, currency, amount_minor, state,
                          state_reason, lane, trigger, next_attempt_at, waiting_for_revision_after, due_on,
                          decline_count, attempt_count, first_declined_at, paid_at, period, last_decline_code,
                          created_at)
        SELECT 'monthly', account_id, settings_id, coverage, id, currency, total_minor, state, 'seeded', 'batch',
               CASE WHEN declines = 0 THEN 'month_start' ELSE 'daily_retry' END,
               CASE WHEN state = 'retry_scheduled' THEN timestamptz '2026-11-13 09:00Z' END,
               CASE WHEN state = 'needs_payment_method' THEN 1 END, due_on, declines,
               declines + CAST(state = 'paid' AS int),
               CASE WHEN declines > 0 THEN due_on + interval '1 minute' END,
               CASE WHEN state = 'paid' THEN due_on + make_interval(days => declines, mins => 5) END, period,
               CASE WHEN declines > 0 THEN (ARRAY['insufficient_funds','do_not_honor','generic_decline',
                   'expired_card','lost_card','processing_error'])[1 + CAST(floor(dice * 600) AS int) % 6] END,
               issued_at
        FROM (
            SELECT i.*, s.id AS settings_id, d.dice, i.created_at AS issued_at,
                   CASE WHEN i.period = '2026-10-01' AND d.dice < 0.02 THEN 'retry_scheduled'
                        WHEN d.dice < 0.005 THEN 'needs_payment_method' ELSE 'paid' END AS state,
                   CASE WHEN d.dice < 0.2 THEN 1 + CAST(floor(d.dice * 1000) AS int) % 3 ELSE 0 END AS declines
            FROM invoices i
            JOIN payment_settings s ON s.account_id = i.account_id AND s.coverage = i.coverage,
            LATERAL (SELECT random() + 0 * i.number_sequence AS dice) d
        ) seeded;
    INSERT INTO payment_intents (payment_id, ordinal, coverage, amount_minor, currency, stripe_customer_id,
                                 stripe_payment_intent_id, api_version, status, closed_reason, closed_at)
        SELECT p.id, 1, p.coverage, p.amount_minor, p.currency, 'cus_seeded', 'pi_' || replace(p.id::text, '-', ''),
               'seeded', CASE WHEN p.state = 'paid' THEN 'succeeded' ELSE 'requires_payment_method' END,
               CASE WHEN p.state = 'paid' THEN 'succeeded' END, p.paid_at
        FROM payments p;
    INSERT INTO payment_attempts (payment_id, number, kind, state, payment_intent_id, coverage, trigger, lane,
                                  card_revision, card_fingerprint, card_network, started_at, lease_expires_at,
                                  finished_at, stripe_charge_id, http_status, code, decline_code, stripe_request_id,
                                  outcome_reason, created_at)
        SELECT p.id, n, 'charge', CASE WHEN n <= p.decline_count THEN 'declined' ELSE 'succeeded' END, i.id,
               p.coverage, p.trigger, 'batch', 1, 'fp_' || p.account_id, 'visa',
               p.due_on + make_interval(days => n - 1, mins => 1),
               p.due_on + make_interval(days => n - 1, mins => 6),
               p.due_on + make_interval(days => n - 1, mins => 1, secs => 2),
               'ch_' || n || replace(p.id::text, '-', ''), CASE WHEN n <= p.decline_count THEN 402 ELSE 200 END,
               CASE WHEN n <= p.decline_count THEN 'card_declined' END,
               CASE WHEN n <= p.decline_count THEN p.last_decline_code END, 'req_' || n || left(p.id::text, 13),
               'seeded', p.due_on + make_interval(days => n - 1, mins => 1)
        FROM payments p JOIN payment_intents i ON i.payment_id = p.id,
             generate_series(1, p.attempt_count) n;
    INSERT INTO billing_events (at, type, actor, reason, account_id, payment_id, after, data)
        SELECT p.due_on, 'invoice_issued', 'worker', 'seeded', p.account_id, p.id,
               jsonb_build_object('state', 'due'), '{}' FROM payments p;
    INSERT INTO billing_events (at, type, actor, reason, account_id, payment_id, before, after)
        SELECT coalesce(p.paid_at, p.first_declined_at), 'payment_moved', 'worker', 'seeded', p.account_id, p.id,
               jsonb_build_object('state', 'due'), jsonb_build_object('state', p.state) FROM payments p;
    INSERT INTO audit_log (at, actor, role, action, subject_kind, subject, reason, outcome)
        SELECT timestamptz '2026-01-01' + n * interval '5 minutes', 'operator:p' || n % 20, 'operator',
               'payment.charge', 'payment', gen_random_uuid()::text, 'seeded', 'done'
        FROM generate_series(1, :accounts) n;
"""


@dataclass
class Measured:
    """One page: the server's times (s), and how large the answer was (bytes)."""

    name: str
    times: list[float] = field(default_factory=list)
    largest: int = 0
    status: int = 0
    read_whole: set[str] = field(default_factory=set)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--invoices", type=int, default=1_000_000)
    parser.add_argument("--requests", type=int, default=50)
    arguments = parser.parse_args()
    console = Console()
    with servers() as urls:
        engine = create_engine(sqlalchemy_url(urls.database_url))
        began = time.perf_counter()
        with console.status("seeding"):
            seed(engine, arguments.invoices // MONTHS, console)
        counts = {name: scalar(engine, f"SELECT count(*) FROM {name}") for name in LARGE}
        console.print(f"seeded in {time.perf_counter() - began:.0f} s: " + _counted(counts))
        measured = asyncio.run(measure(engine, urls, arguments.requests, console))
        report(console, measured)
        engine.dispose()


@contextmanager
def servers() -> Iterator[embedded.Urls]:
    with tempfile.TemporaryDirectory(prefix="duecourse-benchmark-") as folder:
        Path(folder).chmod(0o755)  # as root the servers run as another user, who must enter
        with embedded.resolve(Path(folder), os.environ) as urls:
            upgrade(urls.database_url)
            yield urls
        embedded.erase(Path(folder))
        Path(folder).mkdir(exist_ok=True)


def seed(engine: Engine, accounts: int, console: Console) -> None:
    for statement in SEED.split(";\n")[:-1]:
        with engine.begin() as connection:
            named = {"accounts": accounts, "months": MONTHS}
            used = {name: value for name, value in named.items() if f":{name}" in statement}
            connection.execute(text(statement.replace("::", "\\:\\:")), used)
        console.print(f"  {' '.join(statement.split())[:60]} …", style="dim")
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))
        connection.execute(text("CHECKPOINT"))


def pages(engine: Engine) -> list[tuple[str, str]]:
    """Every page that reads, with the addresses that operators use most, and the worst that they can think of."""
    row = first(engine, "SELECT id, account_id, invoice_id FROM payments WHERE decline_count = 3 LIMIT 1")
    unpaid = first(engine, "SELECT id FROM payments WHERE state = 'retry_scheduled' LIMIT 1")
    run = first(engine, "SELECT id FROM runs ORDER BY period DESC LIMIT 1")
    return [
        ("overview", ""),
        ("a plot", "/plots/attempts-days.svg"),
        ("runs", "/runs"),
        ("run", f"/runs/{run.id}"),
        ("run again: a month", "/runs/rerun?job=monthly-invoices&period=2026-10&coverage=global"),
        ("run again: a day", "/runs/rerun?job=daily-retries&period=2026-11-12&coverage=global"),
        ("payments", "/payments"),
        ("payments: one state", "/payments?state=needs_payment_method"),
        ("payments: a rare code", "/payments?code=lost_card"),
        ("payments: state and code", "/payments?state=retry_scheduled&code=insufficient_funds"),
        ("payments: a code nobody has", "/payments?code=stolen_card"),
        ("payments: an account", "/payments?account=A4711"),
        ("payments: by text", "/payments?text=tanaka+47"),
        ("payments: by amount", "/payments?coverage=global&amount_from=124.00"),
        ("payments: overdue", "/payments?state=needs_payment_method&older_than=200"),
        ("payment", f"/payments/{row.id}"),
        ("charge: preview", f"/payments/{unpaid.id}/charge"),
        ("accounts", "/accounts"),
        ("accounts: marked", "/accounts?standing=marked_for_suspension"),
        ("accounts: by name", "/accounts?text=okafor+47"),
        ("accounts: by a name too many have", "/accounts?text=okafor"),
        ("account", f"/accounts/{row.account_id}"),
        ("find", "/search?q=A4711"),
        ("bulk actions", "/bulk"),
        ("bulk: preview", "/bulk/new?action=charge&state=retry_scheduled"),
        ("bulk: too many", "/bulk/new?action=charge&coverage=global"),
        ("queues", "/queues"),
        ("dead letters", "/queues/batch/dead-letters"),
        ("Stripe events", "/stripe-events"),
        ("findings", "/findings"),
        ("unknown attempts", "/unknown"),
        ("audit log", "/audit-log"),
        ("audit log: one user", "/audit-log?actor=operator:p7"),
        ("users", "/users"),
        ("you", "/profile"),
    ]


async def measure(engine: Engine, urls: embedded.Urls, requests: int, console: Console) -> list[Measured]:
    app = application(engine, urls)
    with engine.begin() as connection:
        user = add_user(connection, "benchmark", Role.ADMIN, None, "benchmark", machine_now())
        token = begin_session(connection, user.id, None, "benchmark", machine_now())
    found = []
    transport = httpx.ASGITransport(app=app)
    cookies = {SESSION_COOKIE: token}
    async with httpx.AsyncClient(transport=transport, base_url="http://benchmark", cookies=cookies) as client:
        for name, path in pages(engine):
            page = Measured(name)
            before = sequential_scans(engine)
            for _ in range(requests):
                began = time.perf_counter()
                answer = await client.get(f"/dashboard{path}", timeout=120)
                page.times.append(time.perf_counter() - began)
                page.largest = max(page.largest, len(answer.content))
                page.status = answer.status_code
            page.read_whole = {table for table, count in sequential_scans(engine).items() if count > before[table]}
            console.print(f"  {name}: {quantile(page.times, 0.95) * 1000:.0f} ms", style="dim")
            found.append(page)
    return found


def application(engine: Engine, urls: embedded.Urls) -> ASGIApp:
    """The web process's own application."""
    settings = Settings(  # type: ignore[call-arg]
        DATABASE_URL=urls.database_url,
        REDIS_URL=urls.redis_url,
        STRIPE_API_KEYS={"global": "sk_test_benchmark"},
    )
    policy = load_policy(PROJECT / "billing.toml")
    runtime = Runtime(policy, engine, ManualClock(NOW), machine_now, {}, lambda _jobs: True, timedelta(minutes=5))
    return build_app(settings, runtime, make_broker(urls.redis_url))


def sequential_scans(engine: Engine) -> dict[str, int]:
    """How often each large table was read from beginning to end so far, by PostgreSQL's own count."""
    # A session's counts are there for others when it has ended; the dashboard's pool finds out and makes new ones.
    others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    engine.dispose()
    scalar(engine, f"SELECT count(pg_terminate_backend(pid)) {others} AND backend_type = 'client backend'")
    while scalar(engine, f"SELECT count(*) {others}"):
        time.sleep(0.01)
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT relname, seq_scan FROM pg_stat_user_tables"))
        return {row.relname: row.seq_scan for row in rows if row.relname in LARGE}


def report(console: Console, measured: list[Measured]) -> None:
    table = Table("page", "status", "p50 (ms)", "p95 (ms)", "most (ms)", "size (kB)", "read as a whole", box=None)
    for page in measured:
        table.add_row(
            page.name,
            str(page.status),
            f"{quantile(page.times, 0.5) * 1000:.0f}",
            f"{quantile(page.times, 0.95) * 1000:.0f}",
            f"{max(page.times) * 1000:.0f}",
            f"{page.largest / 1000:.0f}",
            ", ".join(sorted(page.read_whole)) or "nothing",
        )
    console.print(table)


def scalar(engine: Engine, sql: str) -> int:
    with engine.connect() as connection:
        return int(connection.scalar(text(sql)) or 0)


def first(engine: Engine, sql: str) -> Any:
    with engine.connect() as connection:
        return connection.execute(text(sql)).first()


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items())


if __name__ == "__main__":
    main()
