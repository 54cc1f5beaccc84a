"""`duecourse …`: all commands. Each group is one module of this package."""

import typer

from cli import (
    attempt_commands,
    card_commands,
    clock_commands,
    customer_commands,
    database_commands,
    findings_commands,
    import_commands,
    invoice_commands,
    payment_commands,
    queue_commands,
    runs_commands,
    stripe_account_commands,
    users_commands,
)
from cli.doctor import doctor
from cli.environment import env
from cli.reconcile_commands import reconcile_command
from cli.verify_commands import verify_command
from local.chaos.command import chaos
from local.demo.command import demo
from local.up import up

app = typer.Typer(
    name="duecourse",
    help="Issues a month's invoices and collects them: never twice, never forgotten, always explained.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,  # locals hold secrets
)
for name, command in (
    ("up", up),
    ("demo", demo),
    ("verify", verify_command),
    ("reconcile", reconcile_command),
    ("chaos", chaos),
    ("doctor", doctor),
    ("env", env),
):
    app.command(name)(command)
app.command("audit", hidden=True)(verify_command)  # its name before 0.2.0
for name, group in (
    ("import", import_commands.app),
    ("customers", customer_commands.app),
    ("invoices", invoice_commands.app),
    ("retries", runs_commands.retries_app),
    ("runs", runs_commands.app),
    ("payment", payment_commands.app),
    ("attempts", attempt_commands.app),
    ("cards", card_commands.app),
    ("stripe-accounts", stripe_account_commands.app),
    ("findings", findings_commands.app),
    ("queues", queue_commands.app),
    ("clock", clock_commands.app),
    ("users", users_commands.app),
    ("db", database_commands.app),
):
    app.add_typer(group, name=name)
