"""What a person sees while it burns and afterwards."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from cli.payment_text import print_explanation
from cli.verify_commands import print_report
from local.chaos.company import Company
from local.chaos.context import TROUBLES, ChaosContext
from local.chaos.kinds import BY_NAME
from local.chaos.outcome import Outcome
from local.chaos.plan import Plan, Step
from local.chaos.verdict import SHOWN, Broken
from local.chaos.watch import Watch
from shared.clock import machine_now
from shared.explain.explanation import explain_payment

#: Without a terminal a line so often (s), so that a log stays readable.
LINE_EVERY_S = 15.0


class ProgressLog:
    """Progress: a bar on a terminal, else a line now and then."""

    def __init__(self, console: Console, plan: Plan, scene: ChaosContext, watch: Watch) -> None:
        self._console = console
        self._scene = scene
        self._watch = watch
        self._said_at = time.monotonic()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[says]}"),
            TimeElapsedColumn(),
        )
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._progress.add_task("fire", total=len(plan.steps), says="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def step(self, step: Step, _faults: int) -> None:
        """A step of virtual time begins."""
        says = f"{step.to}  {self._so_far()}"
        self._progress.update(self._task, completed=step.number - 1, says=says)
        self._line(f"fire: {says}")

    def quiet(self, left: dict[str, int]) -> None:
        """The fire is over, and this isn't done yet."""
        says = ", ".join(f"{count} {name}" for name, count in left.items())
        self._progress.update(self._task, description="waiting until all is quiet", says=says)
        self._line(f"waiting until all is quiet: {says}")

    def _so_far(self) -> str:
        last = self._watch.last
        if last is None:
            return ""
        hit = self._scene.counts().total()
        return f"{hit:,} faults hit, {last.captured:,} charges booked, {last.due} due, {last.unknown} unknown"

    def _line(self, text: str) -> None:
        if self._console.is_terminal or time.monotonic() - self._said_at < LINE_EVERY_S:
            return
        self._said_at = time.monotonic()
        self._console.print(text, highlight=False)


def print_outcome(console: Console, outcome: Outcome) -> None:
    """Print faults by kind, the audit, and the figures; the verdict last."""
    console.print(_kinds(outcome), "")
    print_report(console, outcome.verdict.report)
    console.print()
    table = Table(title="After the fire", title_justify="left", show_header=False, show_edge=False, pad_edge=False)
    table.add_column("figure", no_wrap=True)
    table.add_column("value")
    for name, words in outcome.figures():
        table.add_row(name, words)
    console.print(table, "")
    verdict = outcome.verdict
    colour = "green" if verdict.is_clean else "red"
    console.print(
        Text(
            f"double {verdict.double} · forgotten {verdict.forgotten} · unsettled {verdict.unsettled} · difference "
            f"{', '.join(f'{value} {name}' for name, value in verdict.differences_minor.items()) or '0'}",
            style=f"bold {colour}",
        )
    )


def print_broken(console: Console, company: Company, broken: list[Broken]) -> None:
    """Print every break, with the trail of the payments in question; PostgreSQL must be up."""
    told: set[object] = set()
    for each in broken:
        console.print()
        console.print(Text(each.what, style="bold red"))
        for payment_id in each.payments:
            if payment_id in told or len(told) >= SHOWN:
                continue
            told.add(payment_id)
            console.print()
            try:
                with company.connect() as connection:
                    now = company.runtime.clock.now()
                    explanation = explain_payment(connection, company.stack.policy, payment_id, now, machine_now())
            except (*TROUBLES, LookupError) as error:
                console.print(f"payment {payment_id}: {error}", markup=False)
                continue
            print_explanation(console, explanation)


def _kinds(outcome: Outcome) -> Table:
    table = Table(title="Faults by kind", title_justify="left", show_edge=False, pad_edge=False)
    table.add_column("struck")
    table.add_column("kind", no_wrap=True)
    table.add_column("what happens", ratio=1)
    table.add_column("planned", justify="right")
    table.add_column("hit", justify="right")
    planned, group = outcome.planned(), None
    for name, hit in outcome.hit().items():
        kind = BY_NAME[name]
        if group is not None and kind.group is not group:
            table.add_section()
        table.add_row(
            "" if kind.group is group else kind.group, name, kind.does, str(planned.get(name, 0)), str(hit)
        )
        group = kind.group
    return table
