"""`duecourse clock …`: show, set and advance the virtual business clock that all processes share."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from sqlalchemy import Column, ColumnElement, Engine, and_, func, select

from cli.console import counted, plain_errors, print_error
from cli.environment import connect_settings
from shared.clock import machine_now
from shared.db.query_terms import is_
from shared.db.session import make_engine
from shared.db.tables.payments import payment_attempts, receipts
from shared.db.tables.system import billing_events, runs
from shared.domain.event_types import EventType
from shared.domain.money import format_minor
from shared.domain.states import AttemptState
from shared.policy import Policy, load_policy
from shared.scheduling.virtual_clock import (
    NEVER_SET,
    STALLED_AFTER_S,
    ClockError,
    Step,
    advance_clock,
    read_clock,
    set_clock,
    written,
)
from shared.settings import ClockKind, Settings

app = typer.Typer(name="clock", help="Show or move the virtual business clock.", no_args_is_help=True)

_PART = re.compile(r"(\d+)(w|d|h|m|s)")
_UNIT = {"w": "weeks", "d": "days", "h": "hours", "m": "minutes", "s": "seconds"}

Wait = Annotated[
    bool,
    typer.Option("--wait/--no-wait", help="At each stop, wait until there is no pending work."),
]
Patience = Annotated[
    float, typer.Option("--patience", min=1, help="Give up after this many seconds without progress.")
]


@app.command()
def show() -> None:
    """Print business time, in UTC."""
    with _plain_errors():
        settings = connect_settings()
        if settings.clock is ClockKind.SYSTEM:
            print(written(machine_now()))
            Console(stderr=True).print("the machine's clock; DUECOURSE_CLOCK=virtual makes it virtual", style="dim")
            return
        with make_engine(settings, pool_size=1).connect() as connection:
            now = read_clock(connection)
        if now is None:
            raise ClockError(NEVER_SET)
        print(written(now))


@app.command("set")
def set_to(
    moment: Annotated[str, typer.Argument(help="An instant with its zone, like 2026-10-31T00:00:00Z.")],
    wait: Wait = True,
    patience: Patience = STALLED_AFTER_S,
) -> None:
    """Set the clock: the first time to any instant, later only forward, executing what becomes due."""
    with _plain_errors():
        target = parse_moment(moment)
        settings = _virtual_settings()
        engine, policy = make_engine(settings, pool_size=2), load_policy(settings.billing_file)
        with engine.begin() as connection:
            start = read_clock(connection)
            if start is None:
                set_clock(connection, target, policy)
        if start is None:
            print(written(target))
        else:
            _move(engine, policy, start, target, wait, patience)


@app.command()
def advance(
    duration: Annotated[str, typer.Argument(help="How far: 1d, 12h, 90m, 30s, 2w, or together like 1d12h.")],
    wait: Wait = True,
    patience: Patience = STALLED_AFTER_S,
) -> None:
    """Advance the clock stop by stop, so that no work due in between is skipped."""
    with _plain_errors():
        by = parse_duration(duration)
        settings = _virtual_settings()
        engine, policy = make_engine(settings, pool_size=2), load_policy(settings.billing_file)
        with engine.connect() as connection:
            now = read_clock(connection)
        if now is None:
            raise ClockError(NEVER_SET)
        try:
            target = now + by
        except OverflowError:
            raise ClockError(f"{duration} from {written(now)} is after the end of all calendars") from None
        _move(engine, policy, now, target, wait, patience)


def parse_moment(text: str) -> datetime:
    """Read an instant like `2026-10-31T00:00:00Z`; ClockError if it isn't one or has no zone."""
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ClockError(f"{text!r} is not an instant; write one like 2026-10-31T00:00:00Z") from None
    if moment.tzinfo is None:
        raise ClockError(f"{text!r} has no time zone; write {text}Z for UTC, or an offset like +09:00")
    return moment.astimezone(UTC)


def parse_duration(text: str) -> timedelta:
    """Read a duration like `1d` or `1d12h`; ClockError if it isn't one, or is none at all."""
    parts = _PART.findall(text.strip())
    if not parts or "".join(number + unit for number, unit in parts) != text.strip():
        raise ClockError(f"{text!r} is not a duration; write one like 1d, 12h, 90m, 30s, 2w or 1d12h")
    try:
        duration = sum((timedelta(**{_UNIT[unit]: int(number)}) for number, unit in parts), timedelta())
    except OverflowError:
        raise ClockError(f"{text} is longer than time lasts") from None
    if not duration:
        raise ClockError(f"{text} moves nothing; the clock only moves forward")
    return duration


def _move(engine: Engine, policy: Policy, start: datetime, target: datetime, wait: bool, patience: float) -> None:
    if target < start:
        raise ClockError(f"the clock only moves forward: it shows {written(start)}, after {written(target)}")
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(written(start), total=max((target - start).total_seconds(), 1.0))

        def show_step(step: Step) -> None:
            progress.update(task, description=written(step.at), completed=(step.at - start).total_seconds())

        advance_clock(engine, policy, target, wait=wait, on_step=show_step, stalled_after_s=patience)
    print(written(target))  # alone on standard output, for scripts
    console.print(what_happened(engine, start, target), highlight=False)
    if not wait:
        console.print("Not waited for the work that became due: `duecourse runs list` shows it.", highlight=False)


def what_happened(engine: Engine, after: datetime, until: datetime) -> str:
    """Say how many runs, invoices, charges and declines there were in this business time."""
    issued = (
        select(func.count())
        .select_from(billing_events)
        .where(billing_events.c.type == EventType.INVOICE_ISSUED, _within(billing_events.c.at, after, until))
    )
    declined = (
        select(func.count())
        .select_from(payment_attempts)
        .where(
            is_(payment_attempts.c.state, AttemptState.DECLINED),
            _within(payment_attempts.c.started_at, after, until),
        )
    )
    started = select(func.count()).select_from(runs).where(_within(runs.c.started_at, after, until))
    charged = (
        select(receipts.c.currency, func.count().label("charges"), func.sum(receipts.c.amount_minor).label("minor"))
        .where(_within(receipts.c.received_at, after, until))
        .group_by(receipts.c.currency)
        .order_by(receipts.c.currency)
    )
    with engine.connect() as connection:
        counts = [connection.execute(query).scalar_one() for query in (started, issued, declined)]
        sums = connection.execute(charged).all()
    money = ", ".join(format_minor(int(row.minor), row.currency) for row in sums)
    charges = f"{sum(row.charges for row in sums):,} charged" + (f" ({money})" if money else "")
    started_runs, invoices = counted(counts[0], "run"), counted(counts[1], "invoice")
    return f"{started_runs}, {invoices} issued, {charges}, {counts[2]:,} declined"


def _within(column: Column[Any], after: datetime, until: datetime) -> ColumnElement[bool]:
    return and_(column > after, column <= until)


def _virtual_settings() -> Settings:
    settings = connect_settings()
    if settings.clock is not ClockKind.VIRTUAL:
        raise ClockError(
            "business time is the machine's time here and can't be moved. To try things out, set "
            "DUECOURSE_CLOCK=virtual for all processes, with a database and test keys of their own."
        )
    return settings


@contextmanager
def _plain_errors() -> Iterator[None]:
    with plain_errors():
        try:
            yield
        except ClockError as error:
            print_error(str(error))
            raise typer.Exit(1) from None
