"""`duecourse invoices run`: preview a month's invoices, or request the run and watch it."""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from sqlalchemy import Connection, Engine, func, select

from cli.console import operator, plain_errors, print_error
from cli.environment import connect_settings
from shared.db.billing_events import Cause
from shared.db.rows import RunRow, read_all
from shared.db.session import in_transaction
from shared.db.tables.accounts import payment_settings
from shared.db.tables.system import runs
from shared.domain.money import format_minor
from shared.domain.states import RunState
from shared.invoicing.bills import DESCRIPTION, SkipReason
from shared.invoicing.counts import Counts
from shared.invoicing.month import Month
from shared.invoicing.preview import Preview, preview_month
from shared.invoicing.runs import Requested, request_run
from shared.messaging.jobs import GenerateInvoices
from shared.runtime import Runtime, build_runtime
from shared.scheduling.runs import reopen_run

app = typer.Typer(name="invoices", help="Issue a month's invoices.", no_args_is_help=True)

#: How often the run's row is looked at while it is watched (s).
LOOK_EVERY_S = 0.3
#: Skipped accounts that the table names for each reason; `--json` names more.
NAMED = 5

PeriodOption = Annotated[str, typer.Option("--period", help="The month to invoice, like 2026-10; it must be over.")]
CoverageOption = Annotated[str | None, typer.Option("--coverage", help="One coverage. [default: all of them]")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be issued and write nothing.")]
AsJson = Annotated[
    bool, typer.Option("--json", help="For scripts: JSON on standard output, amounts in minor units.")
]
Reason = Annotated[str | None, typer.Option("--reason", help="Required, and stored in the billing events.")]
Again = Annotated[
    bool,
    typer.Option("--again", help="Rerun a finished run, for accounts that have been fixed since."),
]
Wait = Annotated[
    bool | None, typer.Option("--wait/--no-wait", help="Watch until it is finished. [default: on a terminal]")
]
Patience = Annotated[
    float, typer.Option("--patience", min=0, help="Stop watching after so many seconds without any progress.")
]


class RefusedError(Exception):
    """The request can't be executed; the message says what to do instead."""


@dataclass(frozen=True)
class Order:
    """The command line, understood. `reason` is empty only for a dry run."""

    months: Sequence[Month]
    requested_by: str
    reason: str
    now: datetime
    is_again: bool


@app.callback()
def invoices() -> None:
    """Issue a month's invoices."""


@app.command("run")
def run_invoices(
    period: PeriodOption,
    coverage: CoverageOption = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    reason: Reason = None,
    again: Again = False,
    wait: Wait = None,
    patience: Patience = 30.0,
) -> None:
    """Issue the invoices of a month, or with --dry-run show what would be issued.

    The scheduler does this at the start of each month. Repeating it is harmless: an account gets one invoice a
    month. A worker executes the run; this command requests and watches it.
    """
    try:
        if not (dry_run or (reason and reason.strip())):
            raise RefusedError(
                '--reason "…" is required and stored in the billing events. For a preview: --dry-run.'
            )
        with plain_errors(), _runtime() as runtime:
            order = _order(runtime, period, coverage, reason or "", again)
            if dry_run:
                _tell_previews([preview_month(runtime.engine, month) for month in order.months], as_json, order.now)
                return
            _refuse_months_that_are_not_over(order)
            is_watched = sys.stdout.isatty() if wait is None else wait
            requested = _request(runtime, order)
            found = _watch(runtime.engine, requested, patience if is_watched else None, is_drawn=not as_json)
            _tell_runs(found, runtime, as_json, was_watched=is_watched)
    except RefusedError as error:
        print_error(str(error))
        raise typer.Exit(1) from None


@contextmanager
def _runtime() -> Iterator[Runtime]:
    runtime = build_runtime(connect_settings(), pool_size=2)
    try:
        yield runtime
    finally:
        runtime.engine.dispose()


def _order(runtime: Runtime, period: str, coverage: str | None, reason: str, is_again: bool) -> Order:
    try:
        months = [
            Month.of(runtime.policy, code, period)
            for code in ([coverage] if coverage else runtime.policy.coverages)
        ]
    except ValueError as error:
        raise RefusedError(f"--period: {error}") from None
    return Order(months, operator(), reason.strip(), runtime.clock.now(), is_again)


def _refuse_months_that_are_not_over(order: Order) -> None:
    early = [month for month in order.months if not month.is_over(order.now)]
    if early:
        when = "; ".join(f"in {month.coverage.code} it ends at {_shown(month.ends_at, month)}" for month in early)
        raise RefusedError(
            f"{early[0].period} is not over yet: {when}. An issued invoice can't be withdrawn, so nothing was "
            "requested. Use --dry-run to preview the month."
        )


def _request(runtime: Runtime, order: Order) -> list[Requested]:
    """Store all runs in one transaction, then enqueue them."""

    def store(connection: Connection) -> list[Requested]:
        who, why, now = order.requested_by, order.reason, order.now
        stored = [request_run(connection, month, Cause(who, now, why)) for month in order.months]
        if order.is_again:
            for found in stored:
                reopen_run(connection, found.run.id, Cause(who, now, why))
        return stored

    stored = in_transaction(runtime.engine, store)
    runtime.enqueue([GenerateInvoices(found.run.id) for found in stored])
    return stored


@dataclass(frozen=True)
class Found:
    """A run as it stood when we stopped looking."""

    run: RunRow
    is_new: bool


def _watch(engine: Engine, requested: list[Requested], patience_s: float | None, *, is_drawn: bool) -> list[Found]:
    """Look at the runs until they are done or nothing has moved for `patience_s`; with None, look once."""
    is_new = {found.run.id: found.is_new for found in requested}
    with _progress(engine, requested, is_drawn=is_drawn and patience_s is not None) as (progress, tasks):
        snapshot, moved_at = None, time.monotonic()
        while True:
            with engine.connect() as connection:
                found = connection.execute(
                    select(runs).where(runs.c.id.in_(is_new)).order_by(runs.c.period, runs.c.coverage)
                )
                rows = read_all(RunRow, found)
            now_seen = [(row.state, row.counts) for row in rows]
            if now_seen != snapshot:
                snapshot, moved_at = now_seen, time.monotonic()
            for row in rows:
                progress.update(tasks[row.id], completed=Counts.read(row.counts).accounts_seen)
            is_done = all(row.state in (RunState.FINISHED, RunState.AWAITING_CONFIRMATION) for row in rows)
            if is_done or patience_s is None or time.monotonic() - moved_at > patience_s:
                return [Found(row, is_new[row.id]) for row in rows]
            time.sleep(LOOK_EVERY_S)


@contextmanager
def _progress(
    engine: Engine, requested: list[Requested], *, is_drawn: bool
) -> Iterator[tuple[Progress, dict[UUID, TaskID]]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not is_drawn) as progress:
        with engine.connect() as connection:
            coverage = payment_settings.c.coverage
            of_coverage = select(coverage, func.count().label("accounts")).group_by(coverage)
            accounts = {row.coverage: row.accounts for row in connection.execute(of_coverage)}
        yield (
            progress,
            {
                found.run.id: progress.add_task(
                    f"invoices {found.run.period} {found.run.coverage}", total=accounts.get(found.run.coverage, 0)
                )
                for found in requested
            },
        )


def _tell_runs(found: list[Found], runtime: Runtime, as_json: bool, *, was_watched: bool) -> None:
    """Print the state of each run; exits with 1 if one waits for an operator, or was watched and isn't finished."""
    if as_json:
        typer.echo(json.dumps({"runs": [_run_as_json(each) for each in found]}, indent=2))
    for each in found:
        typer.echo(_standing(each, Month.of(runtime.policy, each.run.coverage, each.run.period)), err=as_json)
    states = {each.run.state for each in found}
    if RunState.AWAITING_CONFIRMATION in states or (was_watched and states != {RunState.FINISHED}):
        raise typer.Exit(1)


def _standing(found: Found, month: Month) -> str:
    """The state of a run as a sentence."""
    run = found.run
    name = f"invoices {run.period} {run.coverage}"
    requested = "requested" if found.is_new else f"already requested by {run.requested_by}"
    counted = _counted(Counts.read(run.counts), month)
    match RunState(run.state):
        case RunState.FINISHED:
            return f"{name}: {requested}; finished at {_shown(run.finished_at, month)}. {counted}"
        case RunState.RUNNING:
            return f"{name}: {requested}; in progress. So far {counted}"
        case RunState.AWAITING_CONFIRMATION:
            return f"{name}: is late and waits for an operator: use --dry-run, then `duecourse runs confirm`."
        case RunState.READY:
            return (
                f"{name}: {requested}; it starts as soon as a worker is free. If it doesn't, start "
                "`duecourse up`, or the Procfile's worker-batch."
            )


def _counted(counts: Counts, month: Month) -> str:
    currency = month.coverage.currency
    skipped = ", ".join(f"{number} {reason}" for reason, number in sorted(counts.skipped.items())) or "none"
    return (
        f"{counts.invoices:,} invoices over {format_minor(counts.total_minor, currency)} with {counts.lines:,} "
        f"lines: {counts.due:,} to charge, {counts.awaiting_transfer:,} by transfer, {counts.zero_paid:,} over "
        f"zero, {counts.carried_forward:,} carried forward; skipped: {skipped}."
    )


def _run_as_json(found: Found) -> dict[str, Any]:
    run = found.run
    instants = {
        name: value.isoformat() if value else None
        for name, value in (("started_at", run.started_at), ("finished_at", run.finished_at))
    }
    return {
        "run_id": str(run.id),
        "job": run.job,
        "period": run.period,
        "coverage": run.coverage,
        "state": run.state,
        "is_new": found.is_new,
        "requested_by": run.requested_by,
        **instants,
        "counts": run.counts,
    }


def _tell_previews(previews: list[Preview], as_json: bool, now: datetime) -> None:
    if as_json:
        typer.echo(json.dumps({"previews": [preview.as_json() for preview in previews]}, indent=2))
        return
    console = Console(highlight=False)
    for preview in previews:
        month = preview.month
        console.rule(f"{month.period} {month.coverage.code}")
        if not month.is_over(now):
            console.print(
                f"The month ends at {_shown(month.ends_at, month)}: more services and fees may still come."
            )
        console.print(f"A run would issue {_counted(preview.counts, month)}")
        for table in (_sums_table(preview), _largest_table(preview), _skipped_table(preview)):
            if table.row_count:
                console.print(table)
    console.print("Nothing was written.")


def _sums_table(preview: Preview) -> Table:
    table = Table("pays by", "starts as", title="By payment method", title_justify="left")
    for heading in ("invoices", "lines", "sum"):
        table.add_column(heading, justify="right")
    for row in preview.sums:
        total = format_minor(row.total_minor, preview.month.coverage.currency)
        table.add_row(row.kind, row.state, f"{row.invoices:,}", f"{row.lines:,}", total)
    return table


def _largest_table(preview: Preview) -> Table:
    table = Table("account", "pays by", title="The largest", title_justify="left")
    for heading in ("lines", "sum"):
        table.add_column(heading, justify="right")
    for row in preview.largest:
        total = format_minor(row.total_minor, preview.month.coverage.currency)
        table.add_row(row.account_external_id, row.kind, f"{row.lines:,}", total)
    return table


def _skipped_table(preview: Preview) -> Table:
    table = Table("accounts", "skipped because", "for example", title="Skipped", title_justify="left")
    for reason, accounts in sorted(preview.counts.skipped.items()):
        examples = preview.skipped[SkipReason(reason)][:NAMED]
        more = ", …" if accounts > len(examples) else ""
        table.add_row(f"{accounts:,}", DESCRIPTION[SkipReason(reason)], ", ".join(examples) + more)
    return table


def _shown(moment: datetime | None, month: Month) -> str:
    if moment is None:
        return "an unknown time"
    return f"{moment.astimezone(month.coverage.zone):%Y-%m-%d %H:%M} {month.coverage.time_zone}"
