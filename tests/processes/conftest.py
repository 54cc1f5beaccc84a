"""A company as real processes on its own database, which tests kill, disconnect and stop while it charges."""

import csv
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from datetime import time as time_of_day
from functools import cached_property
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Row, create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from benchmarks.company import Company
from local.stack import prepared_stack, running_stack
from shared.clock import machine_now
from shared.domain.calendar import Period
from shared.reconciliation.verify import Scope, verify
from shared.scheduling.pending_work import pending_work
from shared.scheduling.virtual_clock import read_clock, set_clock
from shared.settings import Settings
from simulator.issuer.stories import AlwaysDeclines, NeedsAuthentication, Pays, Story
from tests.conftest import sqlalchemy_url
from tests.servers import Servers
from tests.world import make_gateways

ROOT = Path(__file__).resolve().parents[2]
START = datetime(2026, 10, 31, tzinfo=UTC)
MIDDAY = time_of_day(12, 0, tzinfo=UTC)
#: The shortest lease that these timeouts allow, so that attempts of a killed worker are settled within a test.
SHORT_TIMEOUTS = {
    "STRIPE_CONNECT_TIMEOUT_S": "1",
    "STRIPE_READ_TIMEOUT_S": "3",
    "DUECOURSE_LEASE_S": "9",
    "DUECOURSE_CLOCK": "virtual",
    "DUECOURSE_LOG_LEVEL": "INFO",
    "DUECOURSE_TICK_INTERVAL_S": "0.5",
    "DUECOURSE_SWEEP_INTERVAL_S": "0.5",
    "DUECOURSE_BILLING_FILE": str(ROOT / "billing.toml"),
}
ACCOUNTS = 100
#: Typical bad cards; the first of `customers` have them.
BAD_CARDS: list[Story] = [
    AlwaysDeclines(decline_code="insufficient_funds"),
    AlwaysDeclines(decline_code="lost_card"),
    AlwaysDeclines(decline_code="expired_card"),
    NeedsAuthentication(),
]
#: Limit of every wait, for a slow machine.
PATIENCE_S = 60.0
POLL_S = 0.02
LOG_LINES = 15

_OPEN = "SELECT count(*) FROM payment_attempts WHERE state IN ('started', 'unknown')"
_BACKS_OFF = """
    SELECT (SELECT count(*) FROM payments WHERE state = 'due')
         + (SELECT count(*) FROM stripe_events WHERE state IN ('received', 'trouble'))
"""
_BY_PAYMENT = """
    SELECT p.id, p.state, p.amount_minor, p.currency, s.kind, a.external_id,
           (SELECT count(*) FROM receipts r WHERE r.payment_id = p.id) AS receipts
    FROM payments p JOIN payment_settings s ON s.id = p.settings_id JOIN accounts a ON a.id = p.account_id
    JOIN invoices i ON i.id = p.invoice_id WHERE i.period = :period
"""


class RunningCompany(Company):
    """The stack and its data folder; tests use one month after the other."""

    data: Path
    has_given_redis: bool
    has_given_database: bool

    def wait_until(self, is_so: Callable[[], object], what: str, within_s: float = PATIENCE_S) -> None:
        deadline = time.monotonic() + within_s
        while not is_so():
            if time.monotonic() > deadline:
                pytest.fail(f"not within {within_s:g} s: {what}\npending: {self.pending()}")
            time.sleep(POLL_S)

    @cached_property
    def customers(self) -> list[str]:
        """Imported accounts in `global`, each with its own card; the first ones have the bad cards."""
        names = [f"A-{number:03d}" for number in range(ACCOUNTS)]
        self._import(
            "accounts", ("account", "coverage", "payment_method"), [(name, "global", "card") for name in names]
        )
        self.duecourse("customers", "create")
        rows = self.rows(
            "SELECT a.external_id, s.id, s.stripe_customer_id FROM payment_settings s"
            " JOIN accounts a ON a.id = s.account_id ORDER BY 1"
        )
        stories = [*BAD_CARDS, *[Pays()] * (ACCOUNTS - len(BAD_CARDS))]
        with self.simulator() as simulator:
            for row, story in zip(rows, stories, strict=True):
                card = simulator.make_card("global", story)  # a card each: retry budgets are counted per card
                metadata = {"duecourse_settings_id": str(row.id), "duecourse_intent": "replace"}
                simulator.register_card("global", row.stripe_customer_id, card.token, metadata)
        self.wait_until(
            lambda: self.scalar("SELECT count(*) FROM card_registrations") == ACCOUNTS, "all cards are registered"
        )
        return names

    @property
    def good_customers(self) -> list[str]:
        return self.customers[len(BAD_CARDS) :]

    def import_fees(self, accounts: Sequence[str]) -> None:
        """Import the month's fees."""
        fees = [(name, "global", f"{10 + number % 90}.{number % 100:02d}") for number, name in enumerate(accounts)]
        self._import("fees", ("account", "coverage", "amount"), fees, "--period", str(self._period()))

    def add_fees(self, accounts: Sequence[str]) -> None:
        """Insert the month's fees without a command, which saves a second per test."""
        with self.engine.begin() as connection:
            connection.execute(
                text(
                    "INSERT INTO fees"
                    " (account_id, coverage, external_id, period, description, amount_minor, currency)"
                    " SELECT id, 'global', :month || external_id, :first_day, 'Usage', 1000, 'USD' FROM accounts"
                    " WHERE external_id = ANY(:names)"
                ),
                {
                    "month": f"{self._period()}:",
                    "first_day": self._period().first_day,
                    "names": list(accounts),
                },
            )

    def end_month(self) -> Period:
        """Advance the clock into the next month, without waiting for its work."""
        period = self._period()
        with self.engine.begin() as connection:
            set_clock(connection, datetime.combine(period.next.first_day, MIDDAY), self.stack.policy)
        return period

    def _period(self) -> Period:
        now = self.now()
        return Period(now.year, now.month)

    def now(self) -> datetime:
        with self.engine.connect() as connection:
            now = read_clock(connection)
        assert now is not None
        return now

    def rows(self, sql: str, **parameters: object) -> Sequence[Row[Any]]:
        with self.engine.connect() as connection:
            return connection.execute(text(sql), parameters).all()

    def payments(self, period: Period) -> Sequence[Row[Any]]:
        return self.rows(_BY_PAYMENT, period=period.first_day)

    def paid(self, period: Period) -> int:
        return sum(1 for payment in self.payments(period) if payment.state == "paid")

    def in_flight(self) -> int:
        return self.scalar("SELECT count(*) FROM payment_attempts WHERE state = 'started'")

    def pending(self) -> dict[str, int]:
        with self.engine.connect() as connection:
            return pending_work(connection, self.stack.policy, self.now(), machine_now())

    def wait_for_no_pending_work(self, within_s: float = PATIENCE_S) -> None:
        """Wait until no work is pending and nothing backs off; after a kill some work backs off for seconds."""

        def has_no_pending_work() -> bool:
            try:
                return not self.pending() and self.scalar(_BACKS_OFF) == 0
            except DBAPIError:  # our session was terminated with the others; the deadline is unchanged
                return False

        self.wait_until(has_no_pending_work, "everything that is due is done", within_s)

    def set_latency(self, ms: float) -> None:
        with self.simulator() as simulator:
            simulator.set_latency(ms)

    def charges(self) -> dict[str, list[int]]:
        """Captured amounts in the processor's ledger (minor units), by payment."""
        found: dict[str, list[int]] = {}
        with self.simulator() as simulator:
            for line in simulator.iter_ledger():
                found.setdefault(line.metadata["duecourse_payment_id"], []).append(line.amount)
        return found

    def assert_each_paid_once(self, period: Period, count: int, unpaid: int = 0) -> None:
        """Compare the month with the processor's ledger, to the cent; then run every check of verify."""
        payments, charges = self.payments(period), self.charges()
        assert len(payments) == count
        paid = [payment for payment in payments if payment.state == "paid"]
        assert len(paid) == count - unpaid, f"states: {sorted({payment.state for payment in payments})}"
        for payment in payments:
            expected = [payment.amount_minor] if payment.state == "paid" else []
            assert charges.get(str(payment.id), []) == expected, f"{payment.external_id} is {payment.state}"
            assert payment.receipts == len(expected)
        ours = self.scalar("SELECT coalesce(sum(amount_minor), 0) FROM receipts")
        assert ours == sum(sum(amounts) for amounts in charges.values())
        assert self.scalar(_OPEN) == 0
        report = verify(
            self.engine,
            Scope(now=self.now(), machine_now=machine_now()),
            gateways=make_gateways(self.stack.simulator_url or "", self.stack.policy.coverages),
            coverages=self.stack.policy.coverages,
        )
        assert report.is_clean, [
            (result.check.name, result.breaks) for result in report.results if not result.holds
        ]

    def _import(self, kind: str, header: Sequence[str], rows: Sequence[Sequence[str]], *options: str) -> None:
        path = self.data / f"{kind}.csv"
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([header, *rows])
        self.duecourse("import", kind, str(path), *options)


@contextmanager
def only_ours(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Remove all our variables from the environment."""
    for field in Settings.model_fields.values():
        monkeypatch.delenv(str(field.validation_alias), raising=False)
    yield


@pytest.fixture(scope="module")
def company(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCompany]:
    """The stack on a fresh database, at the end of October 2026. Valkey is its own, unless REDIS_URL is set."""
    has_redis, has_database = bool(os.environ.get("REDIS_URL")), bool(os.environ.get("DATABASE_URL"))
    folder = tmp_path_factory.mktemp("company")
    data = folder / ".duecourse"
    data.mkdir()
    with pytest.MonkeyPatch.context() as monkeypatch, only_ours(monkeypatch), servers.fresh_database() as url:
        overrides = {
            **SHORT_TIMEOUTS,
            "DATABASE_URL": url,
            **({"REDIS_URL": servers.fresh_redis()} if has_redis else {}),
        }
        with prepared_stack(data, overrides=overrides) as stack:
            engine = create_engine(sqlalchemy_url(url), poolclass=NullPool)
            with running_stack(stack, data) as supervisor:
                with engine.begin() as connection:
                    set_clock(connection, START, stack.policy)
                running = RunningCompany(stack, supervisor, engine)
                running.data, running.has_given_redis, running.has_given_database = data, has_redis, has_database
                yield running
            engine.dispose()


@pytest.fixture(autouse=True)
def _logs_on_error(request: pytest.FixtureRequest) -> Iterator[None]:
    """Print the last lines of the company's logs after a failed test."""
    before = request.session.testsfailed
    yield
    if request.session.testsfailed > before and "company" in request.fixturenames:
        running: RunningCompany = request.getfixturevalue("company")
        for log in sorted((running.data / "logs").glob("*.log")):
            lines = log.read_text(errors="replace").splitlines()[-LOG_LINES:]
            print(f"--- {log.name}", *lines, sep="\n")


@pytest.fixture(autouse=True)
def _answers_at_once(request: pytest.FixtureRequest) -> Iterator[None]:
    """Reset the simulator's latency after each test."""
    yield
    if "company" in request.fixturenames:
        request.getfixturevalue("company").set_latency(0)


def terminate_backends(database_url: str) -> int:
    """Terminate every other session of this database; returns how many."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        ended = connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ).fetchall()
    return len(ended)
