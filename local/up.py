"""`duecourse up`: everything of the Procfile in one terminal, embedded parts where nothing is set."""

import typer
from rich.console import Console

from local import embedded
from local.stack import DATA, GRACE_S, StackError, announced, prepared_stack
from local.supervisor import Supervisor, SupervisorError
from shared.policy import PolicyError


def up() -> None:
    """Run servers, simulator, web, scheduler and workers until Ctrl-C.

    DATABASE_URL, REDIS_URL and STRIPE_API_KEYS are used where set; otherwise PostgreSQL and Valkey run embedded in
    .duecourse/, and a simulator takes the place of Stripe. Logs are kept in .duecourse/logs/.
    """
    console = Console(stderr=True, highlight=False)
    try:
        with prepared_stack() as stack, announced(stack, DATA):
            console.print(f"[bold]Duecourse[/] on {stack.web_url}; logs in {DATA}/logs; Ctrl-C stops all.")
            if stack.simulator_url:
                console.print(f"Cards are charged at the simulator, {stack.simulator_url}: no money moves.")
            console.print('In another terminal: eval "$(duecourse env)", then psql "$DATABASE_URL".')
            raise typer.Exit(Supervisor(stack.processes, DATA / "logs", grace_s=GRACE_S).run())
    except (StackError, SupervisorError, PolicyError, embedded.EmbeddedError) as error:
        console.print(f"[red]{error}[/]")
        raise typer.Exit(1) from None
