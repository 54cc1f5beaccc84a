"""`duecourse reconcile`: compare our records of some days with the processor's charges, in this process."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any
from uuid import uuid4

import typer
from rich.console import Console
from rich.progress import Progress as ProgressLine
from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from cli.console import operator, out, plain_errors, print_error
from cli.environment import connect_settings
from shared.db.session import in_transaction
from shared.reconciliation.chunk import Reconciliation
from shared.reconciliation.client import Processor, ProcessorUnavailableError
from shared.reconciliation.progress import NoJournal, Progress
from shared.reconciliation.runner import delete_listed_charges, run_chunk
from shared.reconciliation.window import Window, window_of_days
from shared.runtime import Runtime, build_runtime

DAY = ["%Y-%m-%d"]


@dataclass(frozen=True)
class Reconciled:
    """The result for one coverage; `unfinished` is the reason if the processor didn't answer."""

    coverage: str
    progress: Progress
    unfinished: str | None

    @property
    def is_clean(self) -> bool:
        return self.unfinished is None and not any(self.progress.found.values())


def reconcile_command(
    from_: Annotated[datetime, typer.Option("--from", formats=DAY, help="From this day (UTC) on,")],
    to: Annotated[datetime, typer.Option("--to", formats=DAY, help="up to and including this day (UTC).")],
    coverage: Annotated[str | None, typer.Option("--coverage", help="One coverage. [default: all of them]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON on standard output.")] = False,
) -> None:
    """Compare our records of some days with the processor's charges; fix what can be fixed, list the rest.

    The same as the nightly reconciliation, for any days. Repeating it is harmless. Exit code 1 if there are
    findings for an operator, or if the processor didn't answer.
    """
    with plain_errors():
        runtime = build_runtime(connect_settings(), pool_size=2)
        if coverage is not None:
            runtime.policy.coverage(coverage)
        try:
            window = window_of_days(from_.date(), to.date(), runtime.clock.now())
        except ValueError as error:
            raise LookupError(f"--from and --to: {error}") from None
        wanted = [coverage] if coverage is not None else list(runtime.policy.coverages)
        results = [reconcile_window(runtime, code, window, operator()) for code in wanted]
    if as_json:
        print(json.dumps([_as_json(result) for result in results], indent=1))
    else:
        _print(out(), results)
    if not all(result.is_clean for result in results):
        raise typer.Exit(1)


def reconcile_window(runtime: Runtime, coverage: str, window: Window, actor: str) -> Reconciled:
    """Reconcile one coverage completely, in this process; the stored list of charges is deleted afterwards."""
    progress = Progress(window, events_from=window.begins_at)
    gateway = runtime.gateways.get(coverage)
    if gateway is None:
        return Reconciled(coverage, progress, f"STRIPE_API_KEYS has no key for {coverage}")
    reconciliation = Reconciliation(uuid4(), coverage, window, runtime, Processor(gateway), actor)
    try:
        with _progress_line(coverage) as line:
            while not progress.is_over:
                line(progress)
                progress = run_chunk(reconciliation, progress, NoJournal()) or progress
    except ProcessorUnavailableError as error:
        return Reconciled(coverage, progress, str(error))
    finally:
        in_transaction(runtime.engine, lambda connection: delete_listed_charges(connection, reconciliation.id))
    return Reconciled(coverage, progress, None)


def _print(console: Console, results: list[Reconciled]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for result in results:
        table.add_column(result.coverage, justify="right")
    counted = [result.progress.counts for result in results]
    found = [result.progress.found for result in results]
    for name in dict.fromkeys(name for counts in counted for name in counts):
        table.add_row(name.replace("_", " "), *(f"{counts.get(name, 0):,}" for counts in counted))
    for kind in dict.fromkeys(kind for counts in found for kind in counts):
        table.add_row(f"found: {kind}", *(f"{counts.get(kind, 0):,}" for counts in found))
    console.print(table)
    for result in results:
        if result.unfinished:
            print_error(
                f"{result.coverage}: not finished: {result.unfinished}. Nothing is half done; rerun the command "
                "when the processor answers (`duecourse doctor`)."
            )
    if any(any(counts.values()) for counts in found):
        console.print("For an operator: duecourse findings list")
    elif all(result.is_clean for result in results):
        console.print("Our records and the processor's charges agree.", style="green")


def _as_json(result: Reconciled) -> dict[str, Any]:
    window = result.progress.window
    return {
        "coverage": result.coverage,
        "from_at": window.begins_at.isoformat(),
        "until_at": window.ends_at.isoformat(),
        "is_clean": result.is_clean,
        "unfinished": result.unfinished,
        **result.progress.counted(),
    }


@contextmanager
def _progress_line(coverage: str) -> Iterator[Any]:
    """A line that says how far it is, on a terminal only; nothing is left of it."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with ProgressLine(*columns, console=console, transient=True, disable=not console.is_terminal) as line:
        task = line.add_task(coverage, total=None)

        def show(progress: Progress) -> None:
            charges = progress.counts.get("charges", 0)
            line.update(task, description=f"{coverage}: {progress.phase}, {charges:,} charges compared")

        yield show
