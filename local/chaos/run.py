"""One run from its beginning to its account: burn, let go, wait until quiet, judge, report."""

import json
import time
from pathlib import Path

from rich.console import Console

from local.chaos.company import Company, forget_environment, running_company
from local.chaos.console import ProgressLog, print_broken, print_outcome
from local.chaos.context import ChaosContext
from local.chaos.drain import let_go, live_a_calm_day, until_quiet
from local.chaos.executor import Fire
from local.chaos.folder import keep_logs
from local.chaos.outcome import Outcome
from local.chaos.page import write_page
from local.chaos.plan import FIRST_DAY, Plan
from local.chaos.servers import prepare_disk
from local.chaos.verdict import judge
from local.chaos.watch import Watch
from shared.clock import machine_now
from shared.logs import configure_logs


def run(plan: Plan, folder: Path, out: Path, console: Console) -> bool:
    """Run the plan and write the reports into `out`; say whether every promise was kept.

    Raises ChaosError, DemoError, StackError, SupervisorError and EmbeddedError if it can't be run to its end.
    """
    forget_environment()
    configure_logs("chaos", "CRITICAL")  # what we meet in the fire is meant; the processes have logs of their own
    began = time.monotonic()
    kinds = len(plan.counts)
    console.print(
        f"[bold]{len(plan.faults):,} faults[/] of {kinds} kinds, seed {plan.seed} (plan {plan.digest}): "
        f"{len(plan.steps)} steps of virtual time, {plan.accounts} accounts, some {plan.seconds:.0f} s of fire."
    )
    with running_company(folder, plan.accounts, plan.seed, console) as company:
        prepare_disk(company)
        outcome = _burn(company, plan, console, began)
        print_outcome(console, outcome)
        _write(outcome, out, console)
        if not outcome.verdict.is_clean:
            print_broken(console, company, outcome.verdict.broken)
            keep_logs(folder, out)
            console.print(f"\nLogs of all processes: {out / 'logs'}")
    return outcome.verdict.is_clean


def _burn(company: Company, plan: Plan, console: Console, began: float) -> Outcome:
    scene = ChaosContext(company)
    fire_began_at = machine_now()
    with Watch(scene) as watch, ProgressLog(console, plan, scene, watch) as telling:
        fire = Fire(scene, plan, telling.step)
        try:
            fire.burn()
            short = fire.burn_again()
        except BaseException:
            fire.stop_at_once()
            raise
        let_go_s = scene.elapsed_s
        let_go(scene, fire)
        left = until_quiet(scene, telling.quiet)
        quiet_s = scene.elapsed_s - let_go_s
        stuck = None if left else live_a_calm_day(scene)
        left = left or until_quiet(scene, telling.quiet)
    if watch.defect is not None:
        raise watch.defect
    booked = company.rows("SELECT created_at FROM receipts ORDER BY created_at")
    return Outcome(
        plan=plan,
        hits=scene.hits,
        samples=watch.samples,
        booked_s=[round((row.created_at - fire_began_at).total_seconds(), 2) for row in booked],
        verdict=judge(scene, left, short, stuck),
        let_go_s=let_go_s,
        quiet_s=quiet_s,
        total_s=time.monotonic() - began,
        virtual_days=(scene.now().date() - FIRST_DAY).days + 1,
    )


def _write(outcome: Outcome, out: Path, console: Console) -> None:
    as_json = out / "chaos.json"
    as_json.write_text(json.dumps(outcome.to_json(), indent=1), "utf-8")
    (out / "chaos.html").write_text(write_page(outcome), "utf-8")
    console.print(f"\nWritten: {as_json}, {out / 'chaos.html'}")
