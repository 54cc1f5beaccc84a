"""The schema's revision, and upgrading the database to this release's schema."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg.errors
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

import migrations
from shared.settings import Settings

#: One process migrates at a time: a PostgreSQL advisory lock, the text "duemigra" as a number.
UPGRADE_LOCK = int.from_bytes(b"duemigra", "big")
#: Another process's migration takes minutes at most; after that the operator should check it.
WAIT_FOR_OTHERS_S = 300
#: A migration gives up after 5 s without its lock (migrations/env.py), so that charging isn't stopped for longer.
TRIES, PAUSE_S = 5, 2.0


class UpgradeError(Exception):
    """The schema can't be upgraded; says what to do."""


def upgrade_database(settings: Settings, say: Callable[[str], None]) -> tuple[str | None, str]:
    """Migrate to this release's schema; return the revisions before and after. Creates only the schema.

    Waits while another process migrates, and reports that with `say`. Raises UpgradeError if tables stay locked, or
    if the schema is from a later release.
    """
    engine = migration_engine(settings)
    with _only_one(engine, say):
        for attempt in range(1, TRIES + 1):
            with engine.connect() as connection:
                before, wanted = revisions(connection)
                if before is not None and before not in _known_revisions():
                    raise UpgradeError(
                        f"the database has schema {before}, which this release doesn't know: it is from a "
                        "later release. Run that release."
                    )
                try:
                    command.upgrade(_config(connection), "head")
                    return before, wanted
                except DBAPIError as error:
                    if not isinstance(error.orig, psycopg.errors.LockNotAvailable):
                        raise
            if attempt < TRIES:
                say(f"a table is in use; nothing is half done, trying again ({attempt} of {TRIES})")
                time.sleep(PAUSE_S * attempt)
    raise UpgradeError("a table stayed in use: stop long queries on the database, then run the command again")


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
    folder = str(Path(migrations.__file__).parent)  # independent of the working directory
    config.set_main_option("script_location", folder.replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def migration_engine(settings: Settings) -> Engine:
    # Not make_engine's limits: a migration sets its own, and it may idle while another process migrates.
    return create_engine(settings.sqlalchemy_url, poolclass=NullPool, connect_args={"connect_timeout": 10})


@contextmanager
def _only_one(engine: Engine, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the upgrade lock on its own connection; the end of the session releases it."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        deadline = time.monotonic() + WAIT_FOR_OTHERS_S
        is_waiting = False
        while not connection.scalar(text("SELECT pg_try_advisory_lock(:lock)"), {"lock": UPGRADE_LOCK}):
            if time.monotonic() > deadline:
                raise UpgradeError("another process has been migrating for five minutes; check that process first")
            if not is_waiting:
                say("another process is migrating; waiting for it")
                is_waiting = True
            time.sleep(0.2)
        yield
