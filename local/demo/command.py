"""`duecourse demo`: start everything, bill two months, print a summary, keep the data for `duecourse up`."""

import os
import shutil
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from sqlalchemy import Connection, Engine, create_engine, inspect, text

from local import embedded
from local.demo.customers import make_customers
from local.demo.summary import print_summary
from local.demo.two_months import DemoError, run_two_months, set_up_company
from local.stack import DATA, Stack, StackError, prepared_stack, running_stack
from local.supervisor import SupervisorError
from shared.policy import PolicyError
from shared.runtime import build_runtime
from shared.settings import load_settings, with_driver
from simulator.client import SimulatorClient

#: What only users make; the demo itself makes none of it.
MADE_BY_USERS = {"users": "users", "actions in the audit log": "audit_log"}
#: The accounts of the demo have this prefix. A database with any other account is never touched.
PREFIX = "demo-"
#: Short intervals: two months pass in a minute, and polling must not slow that down.
FAST = {
    "DUECOURSE_CLOCK": "virtual",
    "DUECOURSE_TICK_INTERVAL_S": "0.5",
    "DUECOURSE_SWEEP_INTERVAL_S": "0.5",
    "DUECOURSE_POLL_MS": "30",
    "DUECOURSE_BATCH_PROCESSES": "1",
    "DUECOURSE_LOG_LEVEL": "WARNING",
}


def demo(
    accounts: Annotated[int, typer.Option(min=10, max=100_000, help="How many customers the company has.")] = 500,
    seed: Annotated[int, typer.Option(help="The same seed makes the same customers.")] = 7,
    picture: Annotated[Path | None, typer.Option(help="Also save the summary as an SVG picture.")] = None,
    replaces: Annotated[
        bool, typer.Option("--replace", help="Delete users and actions of an earlier demo without asking.")
    ] = False,
) -> None:
    """Bill and collect two virtual months with simulated cards, then print a summary. No money moves."""
    console = Console(highlight=False, record=picture is not None)
    began = time.monotonic()
    try:
        with prepared_stack(overrides=FAST) as stack:
            engine = create_engine(_driver_url(stack), pool_pre_ping=True)
            _start_over(DATA, engine, replaces=replaces)
            console.print(
                "PostgreSQL and Valkey are up; starting the simulated card processor, web, scheduler and workers."
            )
            with running_stack(stack):
                os.environ.update(stack.environment)  # from here on this process is one of the stack's
                runtime = build_runtime(load_settings())
                customers = make_customers(accounts, seed)
                set_up_company(stack, runtime, customers, DATA / "demo", console)
                console.print(f"{accounts:,} customers in two coverages: USD in UTC, JPY in Tokyo.")
                run_two_months(stack, engine, customers, console)
                console.print()
                if picture is not None:
                    console.export_text()  # discard the output so far: it isn't part of the picture
                with engine.connect() as connection, SimulatorClient(stack.simulator_url or "") as simulator:
                    promises = print_summary(console, connection, simulator.iter_ledger())
            engine.dispose()
    except (DemoError, StackError, SupervisorError, PolicyError, embedded.EmbeddedError) as error:
        console.print(f"[red]{error}[/]")
        raise typer.Exit(1) from None
    console.print(f"\n{time.monotonic() - began:.0f} s. The data is kept: `duecourse up` continues with it.")
    if picture is not None:
        console.save_svg(str(picture), title="duecourse demo")
    raise typer.Exit(0 if promises.are_kept else 1)


def _start_over(data: Path, engine: Engine, *, replaces: bool) -> None:
    """Remove an earlier demo's data. Raises DemoError if it holds other accounts, or what users made."""
    with engine.begin() as connection:
        if inspect(connection).has_table("accounts"):
            others = connection.scalar(
                text("SELECT count(*) FROM accounts WHERE external_id NOT LIKE :prefix"), {"prefix": f"{PREFIX}%"}
            )
            if others:
                raise DemoError(
                    f"the database holds {others} accounts that aren't the demo's. Use an empty one: set "
                    f"DATABASE_URL, or move {data.resolve()} away"
                )
            if not replaces:
                _ask_before_deleting(connection)
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    for leftover in ("simulator", "demo"):
        shutil.rmtree(data / leftover, ignore_errors=True)


def _ask_before_deleting(connection: Connection) -> None:
    """Ask at the terminal whether to delete what users made. DemoError without a terminal, or after a no."""
    tables = inspect(connection).get_table_names()
    counts = {
        what: connection.scalar(text(f"SELECT count(*) FROM {table}"))  # noqa: S608  # a name of ours
        for what, table in MADE_BY_USERS.items()
        if table in tables
    }
    made = ", ".join(f"{what}: {count:,}" for what, count in counts.items() if count)
    if not made:
        return
    if not sys.stdin.isatty():
        raise DemoError(f"this would delete what users made in the last demo ({made}): pass --replace to do so")
    if not typer.confirm(f"This deletes what users made in the last demo ({made}). Delete it and start again?"):
        raise DemoError("nothing is deleted: `duecourse up` continues with the last demo")


def _driver_url(stack: Stack) -> str:
    return with_driver(stack.environment["DATABASE_URL"])
