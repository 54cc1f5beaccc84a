"""One chaos run: execute the plan, release the faults, wait for no pending work, assess, report."""

import json
import time
from pathlib import Path

from rich.console import Console

from local.chaos.company import Company, forget_environment, running_company
from local.chaos.console import ProgressLog, print_broken, print_outcome
from local.chaos.context import ChaosContext
from local.chaos.drain import advance_fault_free_day, release_faults, wait_for_no_pending_work
from local.chaos.executor import Executor
from local.chaos.folder import keep_logs
from local.chaos.outcome import Outcome
from local.chaos.plan import FIRST_DAY, Plan
from local.chaos.plot import write_plot
from local.chaos.servers import prepare_disk
from local.chaos.verdict import assess
from local.chaos.watch import Watch
from shared.clock import machine_now
from shared.logs import configure_logs


def run(plan: Plan, folder: Path, out: Path, console: Console) -> bool:
    """Run the plan, write the reports into `out`, and return whether every promise was kept.

    Raises ChaosError, DemoError, StackError, SupervisorError and EmbeddedError if the run can't be completed.
    """
    forget_environment()
    configure_logs("chaos", "CRITICAL")  # errors are expected here; the processes have logs of their own
    started = time.monotonic()
    console.print(
        f"[bold]{len(plan.faults):,} faults[/] of {len(plan.counts)} kinds, seed {plan.seed} (plan {plan.digest}): "
        f"{len(plan.steps)} steps of virtual time, {plan.accounts} accounts, a fault phase of some "
        f"{plan.seconds:.0f} s."
    )
    with running_company(folder, plan.accounts, plan.seed, console) as company:
        prepare_disk(company)
        outcome = _execute(company, plan, console, started)
        print_outcome(console, outcome)
        _write(outcome, out, console)
        if not outcome.verdict.is_clean:
            print_broken(console, company, outcome.verdict.broken)
            keep_logs(folder, out)
            console.print(f"\nLogs of all processes: {out / 'logs'}")
    return outcome.verdict.is_clean


def _execute(company: Company, plan: Plan, console: Console, started: float) -> Outcome:
    context = ChaosContext(company)
    first_fault_at = machine_now()
    with Watch(context) as watch, ProgressLog(console, plan, context, watch) as progress:
        executor = Executor(context, plan, progress.step)
        try:
            executor.run_plan()
            short = executor.rerun_missing()
        except BaseException:
            executor.abort()
            raise
        fault_phase_s = context.elapsed_s
        release_faults(context, executor)
        left = wait_for_no_pending_work(context, progress.draining)
        drain_phase_s = context.elapsed_s - fault_phase_s
        stuck = None if left else advance_fault_free_day(context)
        left = left or wait_for_no_pending_work(context, progress.draining)
    if watch.defect is not None:
        raise watch.defect
    receipts = company.rows("SELECT created_at FROM receipts ORDER BY created_at")
    return Outcome(
        plan=plan,
        hits=context.hits,
        samples=watch.samples,
        receipts_at_s=[round((row.created_at - first_fault_at).total_seconds(), 2) for row in receipts],
        verdict=assess(context, left, short, stuck),
        fault_phase_s=fault_phase_s,
        drain_phase_s=drain_phase_s,
        total_s=time.monotonic() - started,
        virtual_days=(context.now().date() - FIRST_DAY).days + 1,
    )


def _write(outcome: Outcome, out: Path, console: Console) -> None:
    as_json, plot = out / "chaos.json", out / "chaos.svg"
    as_json.write_text(json.dumps(outcome.to_json(), indent=1), "utf-8")
    write_plot(outcome, plot)
    console.print(f"\nWritten: {as_json}, {plot}")
