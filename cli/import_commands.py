"""`duecourse import accounts|services|fees FILE`: import the company's CSV exports."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, Concatenate, NoReturn

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
from cli.importing.layout import parse_column_options
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
    help="Import accounts, services and fees from CSV. A file with bad rows is rejected as a whole.",
    no_args_is_help=True,
)

Describe = Callable[[Policy, date], FileKind]


def _repeatable(name: str, metavar: str, text: str) -> Any:
    return typer.Option(name, metavar=metavar, help=f"{text} Repeatable.", default_factory=list, show_default=False)


@dataclass(frozen=True)
class ImportOptions:
    """The argument and the options that all three commands take, as typed."""

    file: Annotated[str, typer.Argument(help="A CSV file whose first line names its columns; - is standard input.")]
    columns: Annotated[
        list[str], _repeatable("--columns", "OURS=THEIRS,…", "Which column of the file holds which of ours.")
    ]
    values: Annotated[
        list[str], _repeatable("--value", "COLUMN:THEIRS=OURS", "Translate a value of the file to ours.")
    ]
    constants: Annotated[
        list[str], _repeatable("--set", "COLUMN=VALUE", "One value for all rows, for a column that the file lacks.")
    ]
    keep_good: Annotated[
        bool, typer.Option("--keep-good", help="Import the good rows even if others have errors.")
    ] = False
    rejects: Annotated[
        Path | None,
        typer.Option("--rejects", help="Where to write the bad rows and reasons; by default FILE.rejects.csv."),
    ] = None
    encoding: Annotated[
        str, typer.Option("--encoding", help="The file's encoding, for example cp1252 or cp932.")
    ] = "utf-8"
    delimiter: Annotated[str, typer.Option("--delimiter", help="The character between cells, or: tab.")] = ","
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and compare everything, write nothing.")] = False
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON on standard output.")] = False

    @property
    def rejects_path(self) -> Path:
        return self.rejects or Path("stdin.rejects.csv" if self.file == "-" else f"{self.file}.rejects.csv")


def _takes_import_options(command: Callable[Concatenate[ImportOptions, ...], None]) -> Callable[..., None]:
    """Let typer see the fields of ImportOptions in place of the command's first parameter."""
    own = list(signature(command).parameters.values())[1:]
    shared = list(signature(ImportOptions).parameters.values())
    names = [each.name for each in shared]

    def run(**typed: Any) -> None:
        command(ImportOptions(**{name: typed.pop(name) for name in names}), **typed)

    parameters = [each.replace(kind=Parameter.KEYWORD_ONLY) for each in (*own, *shared)]
    run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]  # typer reads it; typeshed doesn't know it
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    run.__doc__ = command.__doc__
    return run


@app.command("accounts")
@_takes_import_options
def import_accounts(options: ImportOptions) -> None:
    """Import accounts and their payment methods; one row is one account in one coverage.

    Columns: account, coverage, payment_method (card, bank_transfer or trial), name, email, language,
    stripe_customer, billing_name, address, country, tax_id. Only the first three are required, and coverage only if
    billing.toml has several.
    """
    _run(options, lambda policy, _: accounts_file(policy))


@app.command("services")
@_takes_import_options
def import_services(options: ImportOptions) -> None:
    """Import services with a daily or monthly price.

    Columns: id, account, coverage, description, price, pricing (daily or monthly), starts_on, ends_on (the last
    active day), protected (yes or no), currency. The last three are optional.
    """
    _run(options, lambda policy, _: services_file(policy))


@app.command("fees")
@_takes_import_options
def import_fees(
    options: ImportOptions,
    period: Annotated[str | None, typer.Option("--period", help="The month of all rows, like 2026-10.")] = None,
    may_move: Annotated[
        bool, typer.Option("--move-period", help="Move fees that wait for their invoice in another month.")
    ] = False,
) -> None:
    """Import the fees of a month.

    Columns: account, coverage, amount, id, description, date (a day of the month), period (or --period), currency.
    Without ids an account has one fee a month, identified by month and account.
    """
    month = _period(period)
    _run(options, lambda policy, today: fees_file(policy, month, today, may_move=may_move))


def _run(options: ImportOptions, describe: Describe) -> None:
    """Import and print the report; exits with 0, 1 (bad rows, or the database) or 2 (usage)."""
    try:
        report = _import(options, describe)
    except (ImportUsageError, RejectsError, SettingsError, PolicyError) as error:
        _stop(str(error), 2)
    except DBAPIError as error:
        _stop(_database_trouble(error), 1)
    if options.as_json:
        typer.echo(json.dumps(report_as_json(report), ensure_ascii=False, indent=2))
    else:
        typer.echo("\n".join(as_lines(report, options.file)))
    raise typer.Exit(exit_code(report))


def _import(options: ImportOptions, describe: Describe) -> Report:
    settings = connect_settings()
    policy = load_policy(settings.billing_file)
    if options.keep_good or options.rejects is not None:
        check_place(options.rejects_path, options.file)
    with (
        open_source(options.file, options.encoding, options.delimiter) as source,
        _disposed(make_engine(settings, pool_size=1)) as engine,
    ):
        now = _business_now(engine, settings)
        kind = describe(policy, now.date())
        wanted = parse_column_options(kind.columns, options.columns, options.values, options.constants)
        order = Order(kind, wanted, options.rejects_path, now, operator(), options.keep_good, options.dry_run)
        with _progress(source, kind.name, is_wanted=not options.as_json) as progress:
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
        return "Another process locks rows that this file changes; nothing was written. Run the command again."
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
