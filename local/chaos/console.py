"""Console output during and after a run."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from cli.payment_text import print_explanation
from cli.verify_commands import print_report
from local.chaos.catalogue import BY_NAME
from local.chaos.company import Company
from local.chaos.context import EXPECTED_ERRORS, ChaosContext
from local.chaos.outcome import Outcome
from local.chaos.plan import Plan, Step
from local.chaos.verdict import SHOWN, Broken
from local.chaos.watch import Watch
from shared.clock import machine_now
from shared.explain.explanation import explain_payment

#: Without a terminal, one line per this many seconds, so that a log stays readable.
LINE_EVERY_S = 15.0


class ProgressLog:
    """Progress: a bar on a terminal, else a line every LINE_EVERY_S."""

    def __init__(self, console: Console, plan: Plan, context: ChaosContext, watch: Watch) -> None:
        self._console = console
        self._context = context
        self._watch = watch
        self._printed_at = time.monotonic()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[status]}"),
            TimeElapsedColumn(),
        )
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._progress.add_task("injecting faults", total=len(plan.steps), status="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def step(self, step: Step, _faults: int) -> None:
        """A step of virtual time starts."""
        status = f"{step.to}  {self._counts()}"
        self._progress.update(self._task, completed=step.number - 1, status=status)
        self._line(f"injecting faults: {status}")

    def draining(self, left: dict[str, int]) -> None:
        """The fault phase is over; `left` is the open work."""
        status = ", ".join(f"{count} {name}" for name, count in left.items())
        self._progress.update(self._task, description="waiting for open work", status=status)
        self._line(f"waiting for open work: {status}")

    def _counts(self) -> str:
        last = self._watch.last
        if last is None:
            return ""
        hit = self._context.counts().total()
        return f"{hit:,} faults hit, {last.captured:,} charges captured, {last.due} due, {last.unknown} unknown"

    def _line(self, text: str) -> None:
        if self._console.is_terminal or time.monotonic() - self._printed_at < LINE_EVERY_S:
            return
        self._printed_at = time.monotonic()
        self._console.print(text, highlight=False)


def print_outcome(console: Console, outcome: Outcome) -> None:
    """Print the faults by kind, the checks of verify, the metrics and, last, the summary."""
    console.print(_kinds(outcome), "")
    print_report(console, outcome.verdict.report)
    console.print()
    table = Table(title="Result", title_justify="left", show_header=False, show_edge=False, pad_edge=False)
    table.add_column("metric", no_wrap=True)
    table.add_column("value")
    for name, words in outcome.metrics():
        table.add_row(name, words)
    console.print(table, "")
    colour = "green" if outcome.verdict.is_clean else "red"
    console.print(Text(outcome.summary(), style=f"bold {colour}"))


def print_broken(console: Console, company: Company, broken: list[Broken]) -> None:
    """Print every broken promise and explain its payments; PostgreSQL must be up."""
    printed: set[object] = set()
    for each in broken:
        console.print()
        console.print(Text(each.what, style="bold red"))
        for payment_id in each.payments:
            if payment_id in printed or len(printed) >= SHOWN:
                continue
            printed.add(payment_id)
            console.print()
            try:
                with company.connect() as connection:
                    now = company.runtime.clock.now()
                    explanation = explain_payment(connection, company.stack.policy, payment_id, now, machine_now())
            except (*EXPECTED_ERRORS, LookupError) as error:
                console.print(f"payment {payment_id}: {error}", markup=False)
                continue
            print_explanation(console, explanation)


def _kinds(outcome: Outcome) -> Table:
    table = Table(title="Faults by kind", title_justify="left", show_edge=False, pad_edge=False)
    table.add_column("where")
    table.add_column("kind", no_wrap=True)
    table.add_column("description", ratio=1)
    table.add_column("planned", justify="right")
    table.add_column("hit", justify="right")
    planned, group = outcome.planned(), None
    for name, hit in outcome.hit().items():
        kind = BY_NAME[name]
        if group is not None and kind.group is not group:
            table.add_section()
        table.add_row(
            "" if kind.group is group else kind.group, name, kind.description, str(planned.get(name, 0)), str(hit)
        )
        group = kind.group
    return table
