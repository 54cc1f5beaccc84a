"""A clerk's desk for the tests: write a file, run the command, look at the records."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine, insert, select, text, update
from typer.testing import CliRunner

from cli.import_commands import app
from shared.db.tables.accounts import accounts, payment_settings
from shared.db.tables.invoices import fees, invoice_lines, invoices, services

BILLING_FILE = Path(__file__).resolve().parents[2] / "billing.toml"


@dataclass(frozen=True)
class Told:
    """What a command said and how it ended."""

    code: int
    text: str
    errors: str

    @property
    def data(self) -> dict[str, Any]:
        """The report of a run with --json."""
        report: dict[str, Any] = json.loads(self.text)
        return report

    @property
    def problems(self) -> list[str]:
        """The lines that name bad cells."""
        return [line for line in self.text.splitlines() if line.startswith("line ")]


@dataclass
class Desk:
    """Runs `duecourse import` against one database, in one folder."""

    engine: Engine
    database_url: str
    folder: Path
    environ: dict[str, str] = field(default_factory=dict)

    def write(self, content: str | bytes, name: str = "file.csv") -> Path:
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def run(self, *arguments: str | Path, standard_input: bytes | None = None) -> Told:
        result = CliRunner().invoke(
            app, [str(each) for each in arguments], env=self.process_environ(), input=standard_input
        )
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Told(result.exit_code, result.stdout, result.stderr)

    def start(self, *arguments: str | Path) -> "subprocess.Popen[str]":
        """Run the command as a process of its own, for tests in which something else happens meanwhile."""
        command = [sys.executable, "-c", "from cli.import_commands import app; app()", *map(str, arguments)]
        return subprocess.Popen(
            command,
            env={**os.environ, **self.process_environ()},
            cwd=BILLING_FILE.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def process_environ(self) -> dict[str, str]:
        return {
            "DATABASE_URL": self.database_url,
            "REDIS_URL": "redis://127.0.0.1:1/0",  # imports never ring
            "DUECOURSE_BILLING_FILE": str(BILLING_FILE),
            **self.environ,
        }

    def fees(self, content: str | bytes, *options: str, period: str | None = "2026-10") -> Told:
        month = [] if period is None else ["--period", period]
        return self.run("fees", self.write(content), *month, *options)

    def accounts(self, content: str | bytes, *options: str) -> Told:
        return self.run("accounts", self.write(content), *options)

    def services(self, content: str | bytes, *options: str) -> Told:
        return self.run("services", self.write(content), *options)

    def rejects(self) -> str:
        return (self.folder / "file.csv.rejects.csv").read_text("utf-8-sig")

    def fee_rows(self) -> dict[str, tuple[str, int, str, date | None, date]]:
        """Fees by id: account, minor units, description, day and month."""
        with self.engine.connect() as connection:
            rows = connection.execute(
                select(fees, accounts.c.external_id.label("account"))
                .join(accounts, accounts.c.id == fees.c.account_id)
                .order_by(fees.c.external_id)
            )
            return {
                row.external_id: (row.account, row.amount_minor, row.description, row.occurred_on, row.period)
                for row in rows
            }

    def service(self, external_id: str) -> Any:
        with self.engine.connect() as connection:
            return connection.execute(select(services).where(services.c.external_id == external_id)).one()

    def settings(self, account: str, coverage: str = "global") -> Any:
        """The account's row and its settings, joined."""
        with self.engine.connect() as connection:
            return connection.execute(
                select(accounts.c.name, accounts.c.email, payment_settings)
                .join(payment_settings, payment_settings.c.account_id == accounts.c.id)
                .where(accounts.c.external_id == account, payment_settings.c.coverage == coverage)
            ).one()

    def events(self) -> list[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]]:
        """Type, before, after and data of every event."""
        with self.engine.connect() as connection:
            rows = connection.execute(text("SELECT type, before, after, data FROM billing_events ORDER BY id"))
            return [tuple(row) for row in rows]

    def everything(self) -> list[Any]:
        """All that an import could have written, row versions included: equal before and after means untouched."""
        tables = ("accounts", "payment_settings", "fees", "services", "billing_events")
        with self.engine.connect() as connection:
            return [
                connection.execute(text(f"SELECT xmin::text, t.* FROM {table} t ORDER BY 2, 3")).all()
                for table in tables
            ]


def add_invoice(
    connection: Connection,
    account_id: UUID,
    number: str,
    period: date,
    *,
    fee_id: UUID | None = None,
    service_id: UUID | None = None,
    amount_minor: int = 10_00,
) -> UUID:
    """Put one fee or service on an issued invoice, as month start does."""
    sequence = int(number.rsplit("-", 1)[1])
    invoice_id: UUID = connection.execute(
        insert(invoices)
        .values(
            account_id=account_id,
            coverage="global",
            period=period,
            number=number,
            number_year=period.year,
            number_sequence=sequence,
            currency="USD",
            total_minor=amount_minor,
            issued_on=period,
            due_on=period,
        )
        .returning(invoices.c.id)
    ).scalar_one()
    connection.execute(
        insert(invoice_lines).values(
            invoice_id=invoice_id,
            position=1,
            fee_id=fee_id,
            service_id=service_id,
            description="as issued",
            amount_minor=amount_minor,
        )
    )
    if fee_id is not None:
        connection.execute(update(fees).where(fees.c.id == fee_id).values(invoice_id=invoice_id))
    return invoice_id


def lines(*rows: Sequence[object] | str) -> str:
    """CSV text from rows that need no quoting."""
    return "".join(
        (row if isinstance(row, str) else ",".join("" if each is None else str(each) for each in row)) + "\n"
        for row in rows
    )


def wait_until_something_waits(engine: Engine, sessions: int = 1) -> None:
    """Until so many sessions of this database wait for a lock. Machine time: nothing of ours is measured by it."""
    deadline = time.monotonic() + 20
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    while time.monotonic() < deadline:
        with engine.connect() as connection:
            if connection.scalar(waiting) >= sessions:
                return
        time.sleep(0.02)
    raise AssertionError("nobody waits for a lock")
