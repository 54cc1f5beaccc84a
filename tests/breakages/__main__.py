"""`python -m tests.breakages [NAME…]`: break one thing after another, and show which tests notice."""

import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from tests.breakages.breakage import Breakage
from tests.breakages.catalogue import BREAKAGES
from tests.breakages.workshop import ROOT, NotJudgedError, apply, copy_checkout, run_tests
from tests.servers import test_servers

#: Names of red tests shown in the table; the rest is a number.
SHOWN = 3

console = Console()


@dataclass(frozen=True)
class Result:
    """What became of one breakage. `trouble` says why it doesn't count as caught; None if it does."""

    breakage: Breakage
    red: tuple[str, ...]
    took_s: float
    trouble: str | None = None


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Which to break; all, if none is named.")] = None,
    is_list: Annotated[bool, typer.Option("--list", help="Only say what there is.")] = False,
    also: Annotated[
        list[str] | None,
        typer.Option("--also", help="More tests to run (from tests/ on), to see who else notices."),
    ] = None,
    is_markdown: Annotated[bool, typer.Option("--markdown", help="Write the table as Markdown.")] = False,
) -> None:
    """Break one guard after another in a copy of the checkout. Exit 1 if anything isn't caught."""
    chosen = choose(names or [])
    if is_list:
        show_list(chosen)
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that copies, tests and servers go with us
    with test_servers() as running, tempfile.TemporaryDirectory(prefix="duecourse-breakages-") as temporary:
        servers = {"DATABASE_URL": running.database_url}  # tests flush Redis: each run has its own
        whole = Path(temporary) / "whole"
        copy_checkout(ROOT, whole)  # once: others may be editing
        check_unbroken(whole, chosen, also or [], servers)
        results = []
        for breakage in chosen:
            results.append(try_out(breakage, whole, Path(temporary) / breakage.name, also or [], servers))
            tell(results[-1], len(results), len(chosen))
    (show_markdown if is_markdown else show)(results)
    if not all(result.trouble is None for result in results):
        raise typer.Exit(1)


def choose(names: Sequence[str]) -> list[Breakage]:
    """The named breakages, in the order of the list. Exits 2 for a name that there isn't."""
    known = {breakage.name: breakage for breakage in BREAKAGES}
    if unknown := sorted(set(names) - set(known)):
        console.print(f"There is no {', '.join(unknown)}; `python -m tests.breakages --list` shows all.")
        raise typer.Exit(2)
    return [breakage for breakage in BREAKAGES if not names or breakage.name in names]


def check_unbroken(
    whole: Path, chosen: Sequence[Breakage], also: Sequence[str], servers: Mapping[str, str]
) -> None:
    """All that is to go red must be green first: red proves something only then. Exits 1."""
    selection = sorted({*also, *(test for breakage in chosen for test in breakage.caught_by)})
    began = time.monotonic()
    try:
        verdict = run_tests(whole, selection, servers)
    except NotJudgedError as error:
        console.print(f"[red]Nothing was broken yet, and still:[/red] {error}", highlight=False)
        raise typer.Exit(1) from None
    if verdict.red:
        console.print("[red]Red before anything was broken:[/red]", *verdict.red, sep="\n  ", highlight=False)
        raise typer.Exit(1)
    console.print(f"Unbroken: {len(verdict.ran)} tests, all green, {time.monotonic() - began:.0f} s")


def try_out(
    breakage: Breakage, whole: Path, folder: Path, also: Sequence[str], servers: Mapping[str, str]
) -> Result:
    """Break one thing in a fresh copy and run what should notice."""
    began = time.monotonic()
    red: tuple[str, ...] = ()
    trouble = None
    try:
        copy_checkout(whole, folder)
        apply(breakage, folder)
        verdict = run_tests(folder, [*breakage.caught_by, *also], servers)
        red = verdict.red
        asleep = [test for test in breakage.caught_by if not verdict.red_of(test)]
        if asleep:
            trouble = f"not noticed by {', '.join(asleep)}"
    except (NotJudgedError, ValueError) as error:
        trouble = str(error)
    shutil.rmtree(folder, ignore_errors=True)
    return Result(breakage, red, time.monotonic() - began, trouble)


def tell(result: Result, number: int, of: int) -> None:
    """One line as soon as it is known; the table comes at the end."""
    said = f"caught by {len(result.red)}" if result.trouble is None else f"[red]{result.trouble}[/red]"
    console.print(f"{number}/{of} {result.breakage.name}: {said}, {result.took_s:.0f} s", highlight=False)


def show_list(chosen: Sequence[Breakage]) -> None:
    table = Table("breakage", "what is broken", "invariants", "caught by", show_lines=True)
    for breakage in chosen:
        invariants, tests = ", ".join(breakage.invariants), "\n".join(breakage.caught_by)
        table.add_row(breakage.name, breakage.broken, invariants, tests)
    console.print(table)


def show(results: Sequence[Result]) -> None:
    table = Table("breakage", "invariants", "red", "tests", "s", show_lines=True)
    for result in results:
        said = _names(result.red) if result.trouble is None else f"[red]{result.trouble}[/red]"
        table.add_row(
            result.breakage.name,
            ", ".join(result.breakage.invariants),
            str(len(result.red)),
            said,
            f"{result.took_s:.0f}",
        )
    console.print(table)
    caught = sum(result.trouble is None for result in results)
    console.print(f"{caught} of {len(results)} breakages caught")


def show_markdown(results: Sequence[Result]) -> None:
    print("| breakage | what is broken | invariants | caught by | red | s |")
    print("|---|---|---|---|---:|---:|")
    for result in results:
        said = result.trouble or "; ".join(f"`{test}`" for test in result.breakage.caught_by)
        print(
            f"| `{result.breakage.name}` | {result.breakage.broken} | {', '.join(result.breakage.invariants)} "
            f"| {said} | {len(result.red)} | {result.took_s:.0f} |"
        )


def _names(red: Sequence[str]) -> str:
    more = [f"and {len(red) - SHOWN} more"] if len(red) > SHOWN else []
    return "\n".join([*red[:SHOWN], *more])


if __name__ == "__main__":
    typer.run(main)
