"""`duecourse runs …` and `duecourse retries …`: list runs, confirm late ones, and request a daily run."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.table import Table
from sqlalchemy import Engine, select

from cli.console import clock_of, operator, out, plain_errors, print_error
from cli.environment import connect_settings
from shared.clock import BusinessClock
from shared.db.billing_events import Cause
from shared.db.rows import RunRow, read_all
from shared.db.session import in_transaction, make_engine
from shared.db.tables.system import runs
from shared.domain.schedule import RunKey
from shared.domain.states import RunState
from shared.messaging.broker import Enqueue, make_broker, make_enqueue
from shared.messaging.jobs import DAILY_RETRIES, job_of_run
from shared.policy import Policy, load_policy
from shared.scheduling.runs import RunError, confirm_run, find_run, insert_run, requested_run

app = typer.Typer(name="runs", help="List runs, and confirm late ones.", no_args_is_help=True)
retries_app = typer.Typer(name="retries", help="Request a daily retry run.", no_args_is_help=True)

Reason = Annotated[str, typer.Option("--reason", help="Required; stored in the billing events.")]
CoverageOption = Annotated[str | None, typer.Option("--coverage", help="One coverage.")]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON on standard output.")]


@dataclass(frozen=True)
class Tools:
    """The parts of a runtime that these commands use: no gateway, so no keys."""

    policy: Policy
    engine: Engine
    clock: BusinessClock
    enqueue: Enqueue


@app.callback()
def _runs() -> None:
    """List runs, and confirm late ones."""


@app.command("list")
def list_runs(
    job: Annotated[
        str | None, typer.Option("--job", help="monthly-invoices, reconciliation, daily-retries.")
    ] = None,
    coverage: CoverageOption = None,
    state: Annotated[RunState | None, typer.Option("--state", help="Only runs in this state.")] = None,
    last: Annotated[int, typer.Option("--last", min=1, help="How many of the latest to list.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List runs, the latest first. Exit code 0 whatever their state."""
    with plain_errors():
        tools = _tools()
        query = select(runs).order_by(runs.c.scheduled_for_at.desc(), runs.c.job, runs.c.coverage).limit(last)
        for column, value in ((runs.c.job, job), (runs.c.coverage, coverage), (runs.c.state, state)):
            query = query if value is None else query.where(column == value)
        with tools.engine.connect() as connection:
            found = read_all(RunRow, connection.execute(query))
    if as_json:
        print(json.dumps([_as_json(run) for run in found], indent=1))
        return
    if not found:
        out().print("No runs: none is due yet, or no scheduler has run (`duecourse up`).")
        return
    out().print(_table(found))
    if any(run.state == RunState.AWAITING_CONFIRMATION for run in found):
        out().print('Late runs wait for you: duecourse runs confirm RUN --reason "…"')


@app.command("confirm")
def confirm(
    reason: Reason,
    run: Annotated[UUID | None, typer.Argument(help="The run's id, as `runs list` shows it.")] = None,
    job: Annotated[str | None, typer.Option("--job", help="Or by name: the job,")] = None,
    period: Annotated[str | None, typer.Option("--period", help="its period, like 2026-10,")] = None,
    coverage: Annotated[str | None, typer.Option("--coverage", help="and its coverage.")] = None,
) -> None:
    """Confirm a run that waits because it is late; a worker then executes it."""
    with plain_errors():
        tools = _tools()
        cause = _cause(tools, reason)
        run_id = _run_id(tools, run, job, period, coverage)
        released = in_transaction(tools.engine, lambda connection: confirm_run(connection, run_id, cause))
        _enqueue(tools, released.job, released.id)
    print(f"{released.job} {released.period} {released.coverage}: released by {cause.actor}")


@retries_app.callback()
def _retries() -> None:
    """Request a daily retry run."""


@retries_app.command("run")
def run_retries(
    date: Annotated[str, typer.Option("--date", help="The local day, like 2026-11-04; today or before.")],
    reason: Reason,
    coverage: Annotated[str | None, typer.Option("--coverage", help="One coverage. [default: all of them]")] = None,
) -> None:
    """Ask for a day's retries, where the day has no run yet. Asking twice is harmless."""
    with plain_errors():
        tools = _tools()
        cause = _cause(tools, reason)
        coverages = [coverage] if coverage else list(tools.policy.coverages)
        wanted = [
            requested_run(tools.policy, RunKey(DAILY_RETRIES, date.strip(), code), cause.at) for code in coverages
        ]
        for run in wanted:
            run_id = in_transaction(tools.engine, partial(insert_run, run=run, cause=cause))
            name = " ".join(run.key)
            if run_id is not None:
                _enqueue(tools, run.job, run_id)
                print(f"{name}: requested; `duecourse runs list` shows its progress")
                continue
            with tools.engine.connect() as connection:
                found = find_run(connection, run.key)
            print(f"{name}: exists already, made by {found.requested_by}, {found.state.replace('_', ' ')}")


def _tools() -> Tools:
    settings = connect_settings()
    return Tools(
        load_policy(settings.billing_file),
        make_engine(settings, pool_size=1),
        clock_of(settings),
        make_enqueue(make_broker(settings.redis_url.get_secret_value())),
    )


def _cause(tools: Tools, reason: str) -> Cause:
    if not reason.strip():
        raise RunError("--reason is empty: say why; it is kept in the billing events")
    return Cause(operator(), tools.clock.now(), reason.strip())


def _run_id(tools: Tools, run: UUID | None, job: str | None, period: str | None, coverage: str | None) -> UUID:
    if run is not None:
        return run
    if job is None or period is None or coverage is None:
        raise RunError(
            "name the run by its id, or with --job, --period and --coverage; `duecourse runs list` shows all"
        )
    with tools.engine.connect() as connection:
        found: UUID = find_run(connection, RunKey(job, period, coverage)).id
    return found


def _enqueue(tools: Tools, job: str, run_id: UUID) -> None:
    if not tools.enqueue([job_of_run(job, run_id)]):
        print_error("Redis doesn't answer; the run is stored, and the next sweep enqueues it.")


def _table(found: Sequence[RunRow]) -> Table:
    table = Table(
        "run", "job", "period", "coverage", "state", "scheduled for (UTC)", "finished", "counts", box=None
    )
    for run in found:
        table.add_row(
            str(run.id),
            run.job,
            run.period,
            run.coverage,
            run.state.replace("_", " ") if run.trouble is None else f"waits: {run.trouble}",
            _minute(run.scheduled_for_at),
            _minute(run.finished_at),
            _counted(run.counts),
        )
    return table


def _minute(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment:%Y-%m-%d %H:%M}"


def _counted(counts: Mapping[str, Any]) -> str:
    """Counts in words, nothing of what is zero: `retried 12, not attempted: held 1`."""
    plain = [
        f"{name.replace('_', ' ')} {count:,}" for name, count in counts.items() if isinstance(count, int) and count
    ]
    nested = [
        f"{name.replace('_', ' ')}: {_counted(inner)}"
        for name, inner in counts.items()
        if isinstance(inner, dict) and _counted(inner)
    ]
    return ", ".join(plain + nested)


def _as_json(run: RunRow) -> dict[str, Any]:
    row = run._asdict()
    row.pop("cursor")
    return {
        name: value.isoformat() if isinstance(value, datetime) else str(value) if isinstance(value, UUID) else value
        for name, value in row.items()
    }
