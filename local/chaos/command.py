"""`duecourse chaos`: run a plan of faults against a company in a folder of its own, and report."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from local import embedded

#: The default folder of the reports.
OUT = Path(".duecourse/chaos")
#: Width of the output when it goes to a pipe or file.
PIPE_WIDTH = 150


def chaos(
    faults: Annotated[int, typer.Option(min=1, max=100_000, help="Number of planned faults.")] = 2_000,
    seed: Annotated[int, typer.Option(help="The same seed and number make the same plan.")] = 1,
    out: Annotated[
        Path, typer.Option(help="Folder for chaos.json, chaos.svg and, after a failure, the logs.")
    ] = OUT,
    plan_only: Annotated[bool, typer.Option("--plan", help="Print the plan as JSON and exit.")] = False,
) -> None:
    """Bill virtual months while faults of every kind are injected, then check every charge. No money moves.

    Starts everything in a fresh folder and leaves nothing running. Exit code 1 if a promise is broken.
    """
    from local.chaos.plan import make_plan

    plan = make_plan(faults, seed)
    if plan_only:
        print(json.dumps(plan.to_json(), indent=1))
        return
    from local.chaos.company import sigterm_as_ctrl_c
    from local.chaos.executor import ChaosError
    from local.chaos.folder import run_folder
    from local.chaos.run import run
    from local.demo.two_months import DemoError
    from local.stack import StackError
    from local.supervisor import SupervisorError

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=PIPE_WIDTH)
    out.mkdir(parents=True, exist_ok=True)
    try:
        with sigterm_as_ctrl_c(), run_folder(out) as folder:
            is_clean = run(plan, folder, out, console)
    except KeyboardInterrupt:
        console.print("[yellow]stopped; nothing is left running[/]")
        raise typer.Exit(130) from None
    except (ChaosError, DemoError, StackError, SupervisorError, embedded.EmbeddedError) as error:
        console.print(f"[red]{error}[/]")
        raise typer.Exit(1) from None
    raise typer.Exit(0 if is_clean else 1)
