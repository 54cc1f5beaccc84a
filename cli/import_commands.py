"""`duecourse import accounts|services|fees FILE`: the company's CSV exports come in here."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, NoReturn

import psycopg.errors
import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from cli.console import operator
from cli.environment import connect_settings
from cli.importing.accounts import accounts_file
from cli.importing.fees import fees_file
from cli.importing.importer import Order, Progress, Report, import_file
from cli.importing.kind import FileKind
from cli.importing.layout import parse_wishes
from cli.importing.rejects import RejectsError, check_place
from cli.importing.report import as_json as report_as_json
from cli.importing.report import as_lines, exit_code
from cli.importing.services import services_file
from cli.importing.source import ImportUsageError, Source, open_source
from shared.clock import BusinessClock, SystemClock, VirtualClock
from shared.db.session import make_engine
from shared.domain.calendar import Period
from shared.logs import redact
from shared.policy import Policy, PolicyError, load_policy
from shared.settings import ClockKind, Settings, SettingsError

app = typer.Typer(
    name="import",
    help="Bring in accounts, services and fees from CSV: a file comes in whole or, with bad rows, not at all.",
    no_args_is_help=True,
)

File = Annotated[str, typer.Argument(help="A CSV file whose first line names its columns; - is standard input.")]
Columns = Annotated[
    list[str], typer.Option("--columns", metavar="OURS=THEIRS,…", help="Which column of the file is which of ours.")
]
Values = Annotated[
    list[str],
    typer.Option("--value", metavar="COLUMN:THEIRS=OURS", help="What one of the file's values means. Repeatable."),
]
Constants = Annotated[
    list[str],
    typer.Option("--set", metavar="COLUMN=VALUE", help="One value for all rows, for a column the file lacks."),
]
KeepGood = Annotated[bool, typer.Option("--keep-good", help="Bring the good rows in although others are bad.")]
Rejects = Annotated[
    Path | None, typer.Option("--rejects", help="Where the bad rows go, with reasons. [default: FILE.rejects.csv]")
]
Encoding = Annotated[str, typer.Option("--encoding", help="Of a file that isn't UTF-8, for example cp1252, cp932.")]
Delimiter = Annotated[str, typer.Option("--delimiter", help="What separates the cells; tab is a word for one.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check and compare everything, write nothing.")]
AsJson = Annotated[bool, typer.Option("--json", help="Tell the result as JSON on standard output.")]
Month = Annotated[str | None, typer.Option("--period", help="The month of all rows, like 2026-10.")]

Describe = Callable[[Policy, date], FileKind]


@app.command("accounts")
def import_accounts(
    file: File,
    columns: Columns = [],  # noqa: B006  # typer reads it, nobody changes it
    value: Values = [],  # noqa: B006
    constant: Constants = [],  # noqa: B006
    keep_good: KeepGood = False,
    rejects: Rejects = None,
    encoding: Encoding = "utf-8",
    delimiter: Delimiter = ",",
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Accounts and how they pay; one row is one account in one coverage.

    Columns: account, coverage, payment_method (card, bank_transfer or trial), name, email, language,
    stripe_customer, billing_name, address, country, tax_id. Only the first three are needed, and coverage only if
    billing.toml has several.
    """
    asked = _Asked(file, columns, value, constant, keep_good, rejects, encoding, delimiter, dry_run, as_json)
    _run(asked, lambda policy, _: accounts_file(policy))


@app.command("services")
def import_services(
    file: File,
    columns: Columns = [],  # noqa: B006
    value: Values = [],  # noqa: B006
    constant: Constants = [],  # noqa: B006
    keep_good: KeepGood = False,
    rejects: Rejects = None,
    encoding: Encoding = "utf-8",
    delimiter: Delimiter = ",",
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Services with a daily or monthly price.

    Columns: id, account, coverage, description, price, pricing (daily or monthly), starts_on, ends_on (the last
    active day), protected (yes or no), currency. The last three may be missing.
    """
    asked = _Asked(file, columns, value, constant, keep_good, rejects, encoding, delimiter, dry_run, as_json)
    _run(asked, lambda policy, _: services_file(policy))


@app.command("fees")
def import_fees(
    file: File,
    period: Month = None,
    columns: Columns = [],  # noqa: B006
    value: Values = [],  # noqa: B006
    constant: Constants = [],  # noqa: B006
    keep_good: KeepGood = False,
    rejects: Rejects = None,
    encoding: Encoding = "utf-8",
    delimiter: Delimiter = ",",
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Fees of a month.

    Columns: account, coverage, amount, id, description, date (a day of the month), period (or --period), currency.
    Without ids an account has one fee a month, known by month and account.
    """
    asked = _Asked(file, columns, value, constant, keep_good, rejects, encoding, delimiter, dry_run, as_json)
    month = _period(period)
    _run(asked, lambda policy, today: fees_file(policy, month, today))


@dataclass(frozen=True)
class _Asked:
    """The command line, as typed."""

    file: str
    columns: list[str]
    values: list[str]
    constants: list[str]
    keep_good: bool
    rejects: Path | None
    encoding: str
    delimiter: str
    dry_run: bool
    as_json: bool

    @property
    def rejects_path(self) -> Path:
        return self.rejects or Path("stdin.rejects.csv" if self.file == "-" else f"{self.file}.rejects.csv")


def _run(asked: _Asked, describe: Describe) -> None:
    """Import and tell; exits with 0, 1 (bad rows, or the database) or 2 (usage)."""
    try:
        report = _import(asked, describe)
    except (ImportUsageError, RejectsError, SettingsError, PolicyError) as error:
        _stop(str(error), 2)
    except DBAPIError as error:
        _stop(_database_trouble(error), 1)
    if asked.as_json:
        typer.echo(json.dumps(report_as_json(report), ensure_ascii=False, indent=2))
    else:
        typer.echo("\n".join(as_lines(report, asked.file)))
    raise typer.Exit(exit_code(report))


def _import(asked: _Asked, describe: Describe) -> Report:
    settings = connect_settings()
    policy = load_policy(settings.billing_file)
    if asked.keep_good or asked.rejects is not None:
        check_place(asked.rejects_path, asked.file)
    with (
        open_source(asked.file, asked.encoding, asked.delimiter) as source,
        _disposed(make_engine(settings, pool_size=1)) as engine,
    ):
        now = _business_now(engine, settings)
        kind = describe(policy, now.date())
        wishes = parse_wishes(kind.columns, asked.columns, asked.values, asked.constants)
        order = Order(kind, wishes, asked.rejects_path, now, operator(), asked.keep_good, asked.dry_run)
        with _progress(source, kind.name, is_wanted=not asked.as_json) as progress:
            return import_file(engine, source, order, progress)


def _business_now(engine: Engine, settings: Settings) -> datetime:
    clock: BusinessClock = VirtualClock(engine) if settings.clock is ClockKind.VIRTUAL else SystemClock()
    try:
        return clock.now()
    except LookupError as error:  # the message says how to set the clock
        _stop(str(error), 2)


@contextmanager
def _disposed(engine: Engine) -> Iterator[Engine]:
    try:
        yield engine
    finally:
        engine.dispose()


@contextmanager
def _progress(source: Source, name: str, *, is_wanted: bool) -> Iterator[Progress]:
    """Bytes read, on a terminal only. Drawn on standard error, so that the report can be piped."""
    if not is_wanted or not sys.stderr.isatty():
        yield Progress()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with RichProgress(*columns, console=Console(stderr=True), transient=True) as drawn:
        task = drawn.add_task(f"reading {name}", total=source.size_bytes)
        told = 0

        def on_bytes(so_far: int) -> None:
            nonlocal told
            if so_far - told >= 262_144:  # drawing each row would take longer than reading it
                told = so_far
                drawn.update(task, completed=so_far)

        def on_step(step: str) -> None:
            drawn.update(task, completed=source.size_bytes, description=f"{step} {name}")

        yield Progress(on_bytes, on_step)


def _period(text: str | None) -> Period | None:
    try:
        return None if text is None else Period.parse(text)
    except ValueError as error:
        _stop(f"--period: {error}", 2)


def _database_trouble(error: DBAPIError) -> str:
    if isinstance(error.orig, psycopg.errors.LockNotAvailable):
        return "Somebody else holds rows that this file changes; nothing was written. Run the same command again."
    if isinstance(error.orig, psycopg.errors.UndefinedTable):
        return "The database has no tables yet: run `duecourse db upgrade`, then the same command again."
    said = (str(error.orig).strip().splitlines() or [type(error.orig).__name__])[0]
    return (
        f"The database can't be used: {redact(said)}. `duecourse doctor` says more. Run the same command again "
        "afterwards: what is in already stays as it is."
    )


def _stop(message: str, code: int) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(code)
