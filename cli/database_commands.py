"""`duecourse db …`: upgrade the database to this release's schema, or check whether it has it."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from cli.console import plain_errors, print_error
from cli.environment import connect_settings
from shared.db.upgrade import UpgradeError, migration_engine, revisions, upgrade_database

app = typer.Typer(name="db", help="The database's schema.", no_args_is_help=True)


@app.command("upgrade")
def upgrade() -> None:
    """Run the migrations that the database lacks. Safe from several processes at once."""
    with plain_errors(), _plain_upgrade_errors():
        before, after = upgrade_database(connect_settings(), print_error)
    print(f"schema {before or 'empty'} → {after}" if before != after else f"schema {after}: nothing to do")


@app.command("check")
def check() -> None:
    """Check whether the database has this release's schema. Exit code 1 if not."""
    with plain_errors(), migration_engine(connect_settings()).connect() as connection:
        found, wanted = revisions(connection)
    if found == wanted:
        print(f"schema {found}: up to date")
        return
    print_error(f"the schema is {found or 'empty'}, this release needs {wanted}: run `duecourse db upgrade`")
    raise typer.Exit(1)


@contextmanager
def _plain_upgrade_errors() -> Iterator[None]:
    try:
        yield
    except UpgradeError as error:
        print_error(str(error))
        raise typer.Exit(1) from None
