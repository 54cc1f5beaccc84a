"""`python -m tests.breakages [NAME…]`: remove one guard after another, and show which tests notice."""

import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from tests.breakages.breakage import Breakage
from tests.breakages.catalogue import BREAKAGES, find
from tests.breakages.run import NotJudgedError, run_tests
from tests.servers import test_servers

console = Console()


@dataclass(frozen=True)
class Result:
    """What became of one breakage. `trouble` says why it doesn't count as caught; None if it does."""

    breakage: Breakage
    red: tuple[str, ...]
    took_s: float
    trouble: str | None = None


def main(
    names: Annotated[
        list[str] | None, typer.Argument(help="Which guards to remove; all, if none is named.")
    ] = None,
    is_list: Annotated[bool, typer.Option("--list", help="Only list them.")] = False,
    also: Annotated[
        list[str] | None,
        typer.Option("--also", help="More tests to run (from tests/ on), to see who else notices."),
    ] = None,
    is_markdown: Annotated[bool, typer.Option("--markdown", help="List them as a Markdown table.")] = False,
) -> None:
    """Remove one guard after another. Exit 1 if anything isn't caught."""
    chosen = choose(names or [])
    if is_list or is_markdown:
        (show_markdown if is_markdown else show_list)(chosen)
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that tests and servers end with this process
    with test_servers() as running:
        servers = {"DATABASE_URL": running.database_url}  # tests flush Redis: each run has its own
        check_unbroken(chosen, also or [], servers)
        results = []
        for number, breakage in enumerate(chosen, 1):
            result = try_out(breakage, also or [], servers)
            results.append(result)
            said = result.trouble or f"caught by {len(result.red)}"
            console.print(
                f"{number}/{len(chosen)} {breakage.name}: {said}, {result.took_s:.0f} s",
                highlight=False,
                markup=False,
            )
            console.print(
                *(f"    {test}" for test in result.red), sep="\n", highlight=False, markup=False, soft_wrap=True
            )
    caught = sum(result.trouble is None for result in results)
    console.print(f"{caught} of {len(results)} breakages caught")
    if caught < len(results):
        raise typer.Exit(1)


def choose(names: Sequence[str]) -> list[Breakage]:
    """The named breakages, or all. Exits 2 for a name that isn't one."""
    try:
        return [find(name) for name in names] or list(BREAKAGES)
    except LookupError as error:
        console.print(str(error.args[0]), highlight=False)
        raise typer.Exit(2) from None


def check_unbroken(chosen: Sequence[Breakage], also: Sequence[str], servers: Mapping[str, str]) -> None:
    """All that is to go red must be green first: red proves something only then. Exits 1."""
    selection = sorted({*also, *(test for breakage in chosen for test in breakage.caught_by)})
    began = time.monotonic()
    try:
        verdict = run_tests(selection, servers)
    except NotJudgedError as error:
        console.print(f"[red]Nothing was removed yet, and still:[/red] {error}", highlight=False)
        raise typer.Exit(1) from None
    if verdict.red:
        console.print("[red]Red before anything was removed:[/red]", *verdict.red, sep="\n  ", highlight=False)
        raise typer.Exit(1)
    took_s = time.monotonic() - began
    console.print(f"Nothing removed: {len(verdict.ran)} tests, all green, {took_s:.0f} s")


def try_out(breakage: Breakage, also: Sequence[str], servers: Mapping[str, str]) -> Result:
    """Remove one guard and run what should notice."""
    began = time.monotonic()
    red: tuple[str, ...] = ()
    trouble = None
    try:
        verdict = run_tests([*breakage.caught_by, *also], servers, breakage.name)
        red = verdict.red
        green = [
            test
            for test in breakage.caught_by
            if not verdict.has_caught(test, is_every_case=breakage.is_every_case)
        ]
        if green:
            trouble = f"NOT CAUGHT by {', '.join(green)}"
    except NotJudgedError as error:
        trouble = f"NOT JUDGED: {error}"
    return Result(breakage, red, time.monotonic() - began, trouble)


def show_list(chosen: Sequence[Breakage]) -> None:
    table = Table("breakage", "what is removed", "invariants", "caught by", show_lines=True)
    for breakage in chosen:
        table.add_row(breakage.name, breakage.broken, ", ".join(breakage.invariants), "\n".join(breakage.caught_by))
    console.print(table)


def show_markdown(chosen: Sequence[Breakage]) -> None:
    print("| breakage | what is broken | invariants | must go red |")
    print("|---|---|---|---|")
    for breakage in chosen:
        tests = "; ".join(f"`{test}`" for test in breakage.caught_by)
        print(f"| `{breakage.name}` | {breakage.broken} | {', '.join(breakage.invariants)} | {tests} |")


if __name__ == "__main__":
    typer.run(main)
