"""What tests of month start share: a runtime without processor or Redis, and issued invoices as plain data."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine, text

from shared.clock import ManualClock, machine_now
from shared.messaging.jobs import GenerateInvoices, Job
from shared.policy import Policy
from shared.runtime import Runtime
from tests import seed
from workers.use_cases.generate_invoices import CHUNK_ACCOUNTS, generate_invoices

#: The first moments of November in UTC, when October is invoiced.
NOVEMBER = datetime(2026, 11, 1, 0, 0, 5, tzinfo=UTC)


@dataclass
class MonthStart:
    """A database, a manual clock, and an enqueue that only collects."""

    engine: Engine
    clock: ManualClock = field(default_factory=lambda: ManualClock(NOVEMBER))
    policy: Policy = field(default_factory=seed.default_policy)
    machine_now: Callable[[], datetime] = machine_now
    enqueued: list[Job] = field(default_factory=list)
    accounts_per_chunk: int = CHUNK_ACCOUNTS

    def runtime(self) -> Runtime:
        return Runtime(
            policy=self.policy,
            engine=self.engine,
            clock=self.clock,
            machine_now=self.machine_now,
            gateways={},
            enqueue=self._enqueue,
            lease=timedelta(seconds=300),
        )

    def run(self, period: str = "2026-10", coverage: str = "global") -> UUID:
        """Add the run and work on it until it enqueues no more."""
        with self.engine.begin() as connection:
            run_id = seed.add_run(connection, period, coverage)
        self.deliver(run_id)
        return run_id

    def deliver(self, run_id: UUID) -> None:
        """Deliver the run's message, and those that it enqueues for itself."""
        self.deliver_once(run_id)
        while self.enqueued:
            assert self.enqueued == [GenerateInvoices(run_id)]
            self.enqueued.clear()
            self.deliver_once(run_id)

    def deliver_once(self, run_id: UUID) -> None:
        generate_invoices(self.runtime(), run_id, accounts_per_chunk=self.accounts_per_chunk)

    def counts(self, run_id: UUID) -> dict[str, Any]:
        return dict(one(self.engine, "SELECT counts FROM runs WHERE id = :id", id=run_id)["counts"])

    def _enqueue(self, jobs: Iterable[Job]) -> bool:
        self.enqueued.extend(jobs)
        return True


def rows(engine: Engine, sql: str, **parameters: Any) -> list[dict[str, Any]]:
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(text(sql), parameters).mappings()]


def one(engine: Engine, sql: str, **parameters: Any) -> dict[str, Any]:
    (row,) = rows(engine, sql, **parameters)
    return row


def issued(engine: Engine, period: str = "2026-10", coverage: str = "global") -> dict[str, dict[str, Any]]:
    """Invoices of a period by the account's external id, each with its payment."""
    found = rows(
        engine,
        """
        SELECT a.external_id, i.id AS invoice_id, i.number, i.total_minor, i.currency, i.issued_on, i.due_on,
               i.billing_snapshot, p.id AS payment_id, p.state, p.amount_minor, p.next_attempt_at, p.lane,
               p.trigger, p.kind, p.run_id, p.paid_at, p.state_reason, p.due_on AS payment_due_on
        FROM invoices i JOIN accounts a ON a.id = i.account_id JOIN payments p ON p.invoice_id = i.id
        WHERE i.period = :period AND i.coverage = :coverage
        """,
        period=date.fromisoformat(f"{period}-01"),
        coverage=coverage,
    )
    return {row["external_id"]: row for row in found}


def lines(
    engine: Engine, external_id: str, period: str = "2026-10", coverage: str = "global"
) -> list[dict[str, Any]]:
    """The lines of one account's invoice, in order."""
    return rows(
        engine,
        """
        SELECT l.position, l.description, l.amount_minor, l.active_days, l.unit_price_minor, l.from_on, l.until_on,
               l.fee_id, l.service_id
        FROM invoice_lines l JOIN invoices i ON i.id = l.invoice_id JOIN accounts a ON a.id = i.account_id
        WHERE a.external_id = :external_id AND i.period = :period AND i.coverage = :coverage ORDER BY l.position
        """,
        external_id=external_id,
        period=date.fromisoformat(f"{period}-01"),
        coverage=coverage,
    )


def add_mixed_accounts(connection: Connection, how_many: int, coverage: str = "global") -> list[seed.Account]:
    """Accounts of every kind in turn: card, transfer, small, zero, trial, nothing, and a service with each fee."""
    made = []
    for index in range(how_many):
        kind = ("card", "bank_transfer", "card", "card", "trial", "card", "card")[index % 7]
        account = seed.add_account(connection, f"{coverage}-{index:04d}", coverage, kind)
        made.append(account)
        if index % 7 == 5:
            continue
        if index % 7 == 2:  # a fee of 17 would wait for more
            seed.add_service(connection, account, 17, starts_on=date(2026, 10, 1), ends_on=date(2026, 10, 31))
            continue
        seed.add_fee(connection, account, 0 if index % 7 == 3 else 1_000 + index)
        if index % 7 in (0, 6):
            seed.add_service(connection, account, 3_100, starts_on=date(2026, 10, 1 + index % 28))
            seed.add_fee(connection, account, 5, "2026-08", description="Late")
    return made


def assert_gapless(engine: Engine, coverage: str, how_many: int, year: int = 2026) -> None:
    found = rows(
        engine,
        """
        SELECT number, number_sequence FROM invoices WHERE coverage = :coverage AND number_year = :year
        ORDER BY number_sequence
        """,
        coverage=coverage,
        year=year,
    )
    assert [row["number_sequence"] for row in found] == list(range(1, how_many + 1))
    counter = "SELECT last_sequence FROM invoice_counters WHERE coverage = :coverage AND year = :year"
    assert one(engine, counter, coverage=coverage, year=year)["last_sequence"] == how_many


#: The advisory lock at which a test stops a chunk.
BARRIER = 4711


@contextmanager
def stopping_at(engine: Engine, sequence: int) -> Iterator[Callable[[], int]]:
    """Make any chunk stop before it writes invoice number `sequence`, until the block ends.

    Yields a function that waits until a chunk stands there, and returns the process id of its connection.
    """
    with engine.begin() as connection:
        connection.execute(
            text(f"""
                CREATE OR REPLACE FUNCTION stand_still() RETURNS trigger LANGUAGE plpgsql AS $$
                BEGIN PERFORM pg_advisory_xact_lock_shared({BARRIER}); RETURN NEW; END $$;
                CREATE OR REPLACE TRIGGER stand_still BEFORE INSERT ON invoices
                    FOR EACH ROW WHEN (NEW.number_sequence = {int(sequence)}) EXECUTE FUNCTION stand_still()
            """)
        )
    with engine.connect() as barrier:
        barrier.execute(text(f"SELECT pg_advisory_lock({BARRIER})"))
        try:
            yield lambda: wait_for_waiter(engine, "locktype = 'advisory'")
        finally:  # the lock is the session's, and the pool keeps sessions
            barrier.execute(text(f"SELECT pg_advisory_unlock({BARRIER})"))


def wait_until_gone(engine: Engine, connection_pid: int) -> None:
    """Wait until PostgreSQL has noticed that a connection's client is gone, and released its locks."""
    give_up_at = time.monotonic() + 20
    while rows(engine, f"SELECT 1 FROM pg_stat_activity WHERE pid = {int(connection_pid)}"):
        assert time.monotonic() < give_up_at, f"connection {connection_pid} is still there"
        time.sleep(0.01)


def wait_for_waiter(engine: Engine, where: str = "true") -> int:
    """Wait until a connection to this database waits for a lock; return its process id."""
    give_up_at = time.monotonic() + 20
    while time.monotonic() < give_up_at:
        waiting = rows(
            engine,
            f"""
            SELECT l.pid FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
            WHERE NOT l.granted AND a.datname = current_database() AND {where} LIMIT 1
            """,
        )
        if waiting:
            return int(waiting[0]["pid"])
        time.sleep(0.01)
    raise AssertionError("nobody came to wait for a lock")
