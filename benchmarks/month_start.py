"""How long does month start take for 100,000 accounts with three lines each, and what would the least be?

    python -m benchmarks.month_start [--accounts 100000]

Starts an embedded PostgreSQL with its safe defaults (fsync and synchronous commit on), unless DATABASE_URL names
an empty database, and runs the use case itself as a worker would. The floor is PostgreSQL alone: the very rows that
the run wrote, copied with one INSERT … SELECT for each table into copies of the tables (same indexes and checks, no
foreign keys), and the fees marked. Between the two lie locks, choosing, computing, foreign keys and chunks.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine, create_engine, event, text

from local import embedded
from shared.clock import ManualClock, machine_now
from shared.db.billing_events import Cause
from shared.invoicing.month import Month
from shared.invoicing.preview import preview_month
from shared.invoicing.runs import request_run
from shared.messaging.jobs import Job
from shared.policy import load_policy
from shared.runtime import Runtime
from tests.conftest import sqlalchemy_url, upgrade
from workers.use_cases.generate_invoices import CHUNK_ACCOUNTS, generate_invoices

NOVEMBER = datetime(2026, 11, 1, 0, 0, 5, tzinfo=UTC)

SEED = """
    INSERT INTO accounts (external_id, name, email)
        SELECT 'A' || n, 'Account ' || n, n || '@example.com' FROM generate_series(1, :accounts) n;
    INSERT INTO payment_settings (account_id, coverage, kind, billing_details)
        SELECT id, 'global', CASE WHEN random() < 0.7 THEN 'card' ELSE 'bank_transfer' END,
               jsonb_build_object('name', name, 'address', jsonb_build_object('line1', '1 High Street'))
        FROM accounts;
    INSERT INTO services (account_id, coverage, external_id, description, pricing, price_minor, currency, starts_on)
        SELECT id, 'global', external_id || '-line', 'Line rental', 'monthly', 2500, 'USD',
               date '2024-01-01' + CAST(random() * 1030 AS int)
        FROM accounts;
    INSERT INTO services (account_id, coverage, external_id, description, pricing, price_minor, currency, starts_on)
        SELECT id, 'global', external_id || '-box', 'Box', 'daily', 35, 'USD', '2024-01-01' FROM accounts;
    INSERT INTO fees (account_id, coverage, external_id, period, description, amount_minor, currency)
        SELECT id, 'global', external_id || '-usage', '2026-10-01', 'Usage', CAST(random() * 9000 AS int), 'USD'
        FROM accounts;
"""

#: Every table that a run fills, and the columns that PostgreSQL makes itself and that a copy leaves out.
WRITTEN = {"invoices": (), "invoice_lines": (), "payments": (), "billing_events": ("id",)}


@dataclass
class Stopwatch:
    """How long each connection was out of the pool, in seconds: one transaction with its commit."""

    lengths: list[float] = field(default_factory=list)
    _began: float = 0.0

    def watch(self, engine: Engine) -> None:
        event.listen(engine, "checkout", self._checkout)
        event.listen(engine, "checkin", self._checkin)

    def leave(self, engine: Engine) -> None:
        event.remove(engine, "checkout", self._checkout)
        event.remove(engine, "checkin", self._checkin)

    def _checkout(self, *_ignored: Any) -> None:
        self._began = time.perf_counter()

    def _checkin(self, *_ignored: Any) -> None:
        self.lengths.append(time.perf_counter() - self._began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--accounts", type=int, default=100_000)
    accounts = parser.parse_args().accounts
    with tempfile.TemporaryDirectory(prefix="duecourse-benchmark-") as folder:
        Path(folder).chmod(0o755)  # as root the servers run as another user, who must enter
        with embedded.resolve(Path(folder), os.environ) as urls:
            upgrade(urls.database_url)
            engine = create_engine(sqlalchemy_url(urls.database_url))
            measure(engine, accounts)
            engine.dispose()
        embedded.erase(Path(folder))
        Path(folder).mkdir(exist_ok=True)


def measure(engine: Engine, accounts: int) -> None:
    with engine.begin() as connection:
        for statement in SEED.split(";")[:-1]:
            connection.execute(text(statement), {"accounts": accounts} if ":accounts" in statement else {})
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))
        connection.execute(text("CHECKPOINT"))

    policy = load_policy(Path(__file__).resolve().parent.parent / "billing.toml")
    month = Month.of(policy, "global", "2026-10")
    began = time.perf_counter()
    preview = preview_month(engine, month)
    preview_s = time.perf_counter() - began

    with engine.begin() as connection:
        run_id: UUID = request_run(connection, month, Cause("benchmark", NOVEMBER, "benchmark")).run.id
    stopwatch = Stopwatch()
    stopwatch.watch(engine)
    enqueued: list[Job] = []
    runtime = Runtime(
        policy, engine, ManualClock(NOVEMBER), machine_now, {}, _collect(enqueued), timedelta(minutes=5)
    )
    began = time.perf_counter()
    generate_invoices(runtime, run_id)
    while enqueued:
        enqueued.clear()
        generate_invoices(runtime, run_id)
    run_s = time.perf_counter() - began
    stopwatch.leave(engine)

    with engine.begin() as connection:
        counts = connection.scalar(text("SELECT counts FROM runs WHERE id = :id"), {"id": run_id})
    assert counts == preview.counts.stored(), "the preview promised something else"
    floor_s = floor(engine)
    chunks = sorted(stopwatch.lengths)
    print(f"PostgreSQL          {_version(engine)}")
    print(
        f"invoices            {counts['invoices']:,} with {counts['lines']:,} lines, chunks of {CHUNK_ACCOUNTS:,}"
    )
    print(f"preview (dry run)   {preview_s:.1f} s")
    print(f"month start         {run_s:.1f} s = {counts['invoices'] / run_s:,.0f} invoices/s")
    print(f"chunk transactions  {len(chunks)}; median {chunks[len(chunks) // 2] * 1000:.0f} ms, ", end="")
    print(f"longest {chunks[-1] * 1000:.0f} ms")
    print(f"floor               {floor_s:.1f} s to INSERT … SELECT the same rows: ratio {run_s / floor_s:.1f}")


def floor(engine: Engine) -> float:
    """Seconds in which PostgreSQL writes the same rows, when it has nothing to decide."""
    with engine.begin() as connection:
        connection.execute(text("CREATE SCHEMA plain"))
        for table in (*WRITTEN, "fees"):
            connection.execute(text(f"CREATE TABLE plain.{table} (LIKE public.{table} INCLUDING ALL)"))
        connection.execute(text("INSERT INTO plain.fees SELECT * FROM fees"))
        connection.execute(text("UPDATE plain.fees SET invoice_id = NULL"))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE plain.fees"))
        connection.execute(text("CHECKPOINT"))
    began = time.perf_counter()
    with engine.begin() as connection:
        for table, left_out in WRITTEN.items():
            columns = ", ".join(_columns(connection, table, left_out))
            copy = f"INSERT INTO plain.{table} ({columns}) SELECT {columns} FROM {table}"
            connection.execute(text(copy))
        connection.execute(text("UPDATE plain.fees p SET invoice_id = f.invoice_id FROM fees f WHERE f.id = p.id"))
    return time.perf_counter() - began


def _columns(connection: Connection, table: str, left_out: tuple[str, ...]) -> list[str]:
    names = connection.execute(
        text(
            "SELECT column_name FROM information_schema.columns"
            " WHERE table_schema = 'public' AND table_name = :table"
        ),
        {"table": table},
    ).scalars()
    return [name for name in names if name not in left_out]


def _collect(enqueued: list[Job]) -> Any:
    def enqueue(jobs: Iterable[Job]) -> bool:
        enqueued.extend(jobs)
        return True

    return enqueue


def _version(engine: Engine) -> str:
    with engine.connect() as connection:
        return str(connection.scalar(text("SHOW server_version")))


if __name__ == "__main__":
    main()
