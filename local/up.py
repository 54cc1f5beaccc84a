"""`duecourse up`: all processes of the Procfile in one terminal, with embedded servers unless others are set."""

import typer
from rich.console import Console

from local import embedded
from local.stack import DATA, GRACE_S, StackError, announced, prepared_stack
from local.supervisor import Supervisor, SupervisorError
from shared.policy import PolicyError


def up() -> None:
    """Run servers, simulator, web, scheduler and workers until Ctrl-C.

    DATABASE_URL, REDIS_URL and STRIPE_API_KEYS are used if set; otherwise PostgreSQL and Valkey run embedded in
    .duecourse/, and a simulator replaces Stripe. Logs are written to .duecourse/logs/.
    """
    console = Console(stderr=True, highlight=False)
    try:
        with prepared_stack() as stack, announced(stack, DATA):
            console.print(f"[bold]Duecourse[/] runs on {stack.web_url}. Logs: {DATA}/logs. Stop with Ctrl-C.")
            if stack.simulator_url:
                console.print(f"Cards are charged at the simulator ({stack.simulator_url}): no money moves.")
            console.print('In a second terminal: eval "$(duecourse env)", then psql "$DATABASE_URL".')
            raise typer.Exit(Supervisor(stack.processes, DATA / "logs", grace_s=GRACE_S).run())
    except (StackError, SupervisorError, PolicyError, embedded.EmbeddedError) as error:
        console.print(f"[red]{error}[/]")
        raise typer.Exit(1) from None
