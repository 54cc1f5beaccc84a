"""`duecourse …`: what people type. Each group of commands is one module of this package."""

import typer

app = typer.Typer(
    name="duecourse",
    help="Issues a month's invoices and collects them: never twice, never forgotten, always explained.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,  # locals hold secrets
)
