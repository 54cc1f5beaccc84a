"""Runs migrations, each in a transaction of its own, and never waits long for a lock on a busy database."""

from alembic import context
from sqlalchemy import Connection, create_engine, text

import shared.db.tables.accounts  # the imports fill the metadata
import shared.db.tables.invoices
import shared.db.tables.operators
import shared.db.tables.payments
import shared.db.tables.system  # noqa: F401
from shared.db.columns import metadata
from shared.settings import load_settings


def migrate(connection: Connection) -> None:
    # A migration that can't get its lock in 5 s gives up and is run again, instead of stopping all charging.
    connection.execute(text("SET lock_timeout = '5s'"))
    connection.commit()
    context.configure(connection=connection, target_metadata=metadata, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    migrate(given)
else:
    with create_engine(load_settings().sqlalchemy_url).connect() as own:
        migrate(own)
