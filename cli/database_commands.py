"""`duecourse db …`: bring the database to this release's schema, or say whether it is."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg.errors
import typer
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

import migrations
from cli.console import complain, plain_errors
from cli.environment import connect_settings
from shared.settings import Settings

app = typer.Typer(name="db", help="The database's schema.", no_args_is_help=True)

#: One process migrates at a time: a PostgreSQL advisory lock, the text "duemigra" as a number.
UPGRADE_LOCK = int.from_bytes(b"duemigra", "big")
#: Somebody else's migration takes minutes at the very most; then a person should look.
WAIT_FOR_OTHERS_S = 300
#: A migration gives up after 5 s without its lock (migrations/env.py), so that charging isn't stopped for longer.
TRIES, PAUSE_S = 5, 2.0


class UpgradeError(Exception):
    """The schema can't be upgraded; says what to do."""


@app.command("upgrade")
def upgrade() -> None:
    """Run the migrations that this release has and the database hasn't. Safe from several processes at once."""
    with plain_errors(), _plain_upgrade_errors():
        before, after = upgrade_database(connect_settings())
    print(f"schema {before or 'empty'} → {after}" if before != after else f"schema {after}: nothing to do")


@app.command("check")
def check() -> None:
    """Say whether the database has this release's schema; exit code 1 if not."""
    with plain_errors():
        engine = _engine(connect_settings())
        with engine.connect() as connection:
            found, wanted = revisions(connection)
    if found == wanted:
        print(f"schema {found}: up to date")
        return
    complain(f"the schema is {found or 'empty'}, this release needs {wanted}: run `duecourse db upgrade`")
    raise typer.Exit(1)


def upgrade_database(settings: Settings) -> tuple[str | None, str]:
    """Migrate to this release's schema; return the revisions before and after. Makes nothing but the schema.

    Waits while another process migrates. Raises UpgradeError if tables stay locked, or if the schema is a later
    release's.
    """
    engine = _engine(settings)
    with _only_one(engine):
        for attempt in range(1, TRIES + 1):
            with engine.connect() as connection:
                before, wanted = revisions(connection)
                if before is not None and before not in _known_revisions():
                    raise UpgradeError(
                        f"the database has schema {before}, which this release doesn't know: it is a later "
                        "release's. Run that release."
                    )
                try:
                    command.upgrade(_config(connection), "head")
                    return before, wanted
                except DBAPIError as error:
                    if not isinstance(error.orig, psycopg.errors.LockNotAvailable):
                        raise
            if attempt < TRIES:
                complain(f"a table is in use; nothing is half done, trying again ({attempt} of {TRIES})")
                time.sleep(PAUSE_S * attempt)
    raise UpgradeError("a table was in use all the time: stop long queries on the database, then run it again")


def revisions(connection: Connection) -> tuple[str | None, str]:
    """Return the database's revision (None: no schema yet) and the one that this release needs."""
    found = MigrationContext.configure(connection).get_current_revision()
    connection.rollback()
    wanted = _scripts().get_current_head()
    if wanted is None:
        raise UpgradeError("this installation has no migrations; install duecourse again")
    return found, wanted


def _known_revisions() -> frozenset[str]:
    return frozenset(script.revision for script in _scripts().walk_revisions())


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config(None))


def _config(connection: Connection | None) -> Config:
    config = Config()
    folder = str(Path(migrations.__file__).parent)  # wherever the package lies, whatever the directory
    config.set_main_option("script_location", folder.replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _engine(settings: Settings) -> Engine:
    # Not make_engine's limits: a migration sets its own, and waiting for another process isn't idling.
    return create_engine(settings.sqlalchemy_url, poolclass=NullPool, connect_args={"connect_timeout": 10})


@contextmanager
def _only_one(engine: Engine) -> Iterator[None]:
    """Hold the upgrade lock on a connection of its own; the session's end releases it, however it comes."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        deadline = time.monotonic() + WAIT_FOR_OTHERS_S
        said = False
        while not connection.scalar(text("SELECT pg_try_advisory_lock(:lock)"), {"lock": UPGRADE_LOCK}):
            if time.monotonic() > deadline:
                raise UpgradeError("another process has been migrating for five minutes; look at it first")
            if not said:
                complain("another process migrates; waiting for it")
                said = True
            time.sleep(0.2)
        yield


@contextmanager
def _plain_upgrade_errors() -> Iterator[None]:
    try:
        yield
    except UpgradeError as error:
        complain(str(error))
        raise typer.Exit(1) from None
