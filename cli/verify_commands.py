"""`duecourse verify`: check every invariant over all rows, and our records against the processor's."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from cli.console import out, plain_errors
from cli.environment import connect_settings
from shared.domain.money import format_minor
from shared.reconciliation.verify import CHECKS, Report, Result, Scope, verify
from shared.reconciliation.verify.check import Check
from shared.reconciliation.verify.run import KEEP
from shared.reconciliation.verify.scope import FORGOTTEN_AFTER
from shared.runtime import build_runtime

DAY = ["%Y-%m-%d"]


def verify_command(
    coverage: Annotated[str | None, typer.Option("--coverage", help="One coverage only.")] = None,
    from_: Annotated[
        datetime | None,
        typer.Option("--from", formats=DAY, help="Invoices issued and charges made from this day (UTC) on."),
    ] = None,
    to: Annotated[
        datetime | None, typer.Option("--to", formats=DAY, help="… up to and including this day (UTC).")
    ] = None,
    no_processor: Annotated[
        bool, typer.Option("--no-processor", help="Our own records only; no request is sent.")
    ] = False,
    forgotten_after: Annotated[
        int,
        typer.Option("--forgotten-after", min=1, metavar="MINUTES", help="What is due for longer is forgotten."),
    ] = int(FORGOTTEN_AFTER / timedelta(minutes=1)),
    show: Annotated[int, typer.Option("--show", min=1, help="Breaks shown of each check; all are counted.")] = KEEP,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON on standard output.")] = False,
) -> None:
    """Check every invariant over all rows, and our records against the processor's. Changes nothing.

    Exit code 1 on any break, or if something could not be checked.
    """
    with plain_errors():
        runtime = build_runtime(connect_settings(), pool_size=2)
        if coverage is not None:
            runtime.policy.coverage(coverage)
        scope = Scope(
            now=runtime.clock.now(),
            machine_now=runtime.machine_now(),
            coverage=coverage,
            from_on=None if from_ is None else from_.date(),
            to_on=None if to is None else to.date(),
            forgotten_after=timedelta(minutes=forgotten_after),
        )
        with _progress() as (on_check, on_charges):
            report = verify(
                runtime.engine,
                scope,
                gateways=None if no_processor else runtime.gateways,
                coverages=runtime.policy.coverages,
                keep=show,
                on_check=on_check,
                on_charges=on_charges,
            )
    if as_json:
        print(json.dumps(report_as_json(report), indent=1, ensure_ascii=False))
    else:
        print_report(out(), report)
    if not report.is_clean:
        raise typer.Exit(1)


def print_report(console: Console, report: Report) -> None:
    """Print the table of checks, then every break with what to do about it."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("check", no_wrap=True)
    table.add_column("what must hold", ratio=1)
    table.add_column("rows", justify="right")
    table.add_column("breaks", justify="right")
    table.add_column("verdict", no_wrap=True)
    for result in report.results:
        table.add_row(
            result.check.name,
            result.check.promise,
            f"{result.looked_at:,}",
            f"{result.broken:,}" if result.broken else "-",
            _verdict(result),
        )
    console.print(table)
    for result in report.results:
        if not result.holds:
            _print_breaks(console, result)
    console.print()
    for line in _last_lines(report):
        console.print(line)


def report_as_json(report: Report) -> dict[str, Any]:
    """The report as what JSON can hold."""
    return {
        "is_clean": report.is_clean,
        "checks": [
            {
                "name": result.check.name,
                "promise": result.check.promise,
                "rows": result.looked_at,
                "broken": result.broken,
                "holds": result.holds,
                "not_checked": result.not_checked,
                "seconds": round(result.seconds, 3),
                "breaks": [{"ids": dict(one.ids), "what": one.what, "do": one.do} for one in result.breaks],
            }
            for result in report.results
        ],
        "sums": [vars(one) for one in report.sums],
        "foreign_charges": report.foreign_charges,
        "open_findings": report.open_findings,
    }


def _print_breaks(console: Console, result: Result) -> None:
    console.print()
    console.print(Text(result.check.name, style="bold red"))
    if result.not_checked:
        console.print(Text(f"  not checked: {result.not_checked}", style="yellow"))
    last_do = None
    for one in result.breaks:
        console.print(Text(f"  {one.what}"))
        if one.do != last_do:
            console.print(Text(f"    to do: {one.do}", style="dim"))
        last_do = one.do
    if result.broken > len(result.breaks):
        console.print(f"  … and {result.broken - len(result.breaks):,} more; --show says how many are listed")


def _verdict(result: Result) -> Text:
    if result.broken:
        return Text("BROKEN", style="bold red")
    return Text("not checked", style="yellow") if result.not_checked else Text("holds", style="green")


def _last_lines(report: Report) -> list[Text]:
    lines = []
    for one in report.sums:
        theirs, ours = format_minor(one.theirs_minor, one.currency), format_minor(one.ours_minor, one.currency)
        lines.append(
            Text(f"{one.coverage}: {one.charges:,} charges at the processor, {theirs}; in our records {ours}")
        )
    if report.foreign_charges:
        lines.append(Text(f"{report.foreign_charges:,} charges at the processor aren't Duecourse's; left out"))
    if report.open_findings:
        lines.append(Text(f"{report.open_findings:,} findings wait for an operator", style="yellow"))
    broken = sum(1 for result in report.results if not result.holds)
    total = len(report.results)
    if broken:
        lines.append(Text(f"{broken} of {total} checks don't hold", style="bold red"))
    else:
        lines.append(Text(f"all {total} checks hold", style="bold green"))
    return lines


@contextmanager
def _progress() -> Iterator[tuple[Callable[[Check], None], Callable[[int], None]]]:
    """A line that says what is being looked at, on a terminal only; nothing is left of it."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("asking the processor", total=None)

        def on_check(check: Check) -> None:
            progress.update(task, description=f"{check.name} ({CHECKS.index(check) + 1} of {len(CHECKS)})")

        def on_charges(count: int) -> None:
            progress.update(task, description=f"the processor's charges: {count:,}")

        yield on_check, on_charges
