"""Engines and transactions: short ones, repeated when PostgreSQL asks for it, never open across a request."""

import random
import time
from collections.abc import Callable
from typing import TypeVar

import psycopg.errors
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.exc import DBAPIError

from shared.settings import Settings

Result = TypeVar("Result")

#: A deadlock's loser needs one repetition; ten mean that something else is wrong and should be seen.
MAX_REPETITIONS = 10

_REPEATABLE = (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure)


def make_engine(settings: Settings, *, pool_size: int = 10) -> Engine:
    """Make an engine: READ COMMITTED, UTC, and no statement waits forever. `in_transaction` outlives a restart."""
    return create_engine(
        settings.sqlalchemy_url,
        pool_size=pool_size,
        max_overflow=5,
        pool_timeout=30,
        connect_args={
            "connect_timeout": 10,
            # Claims and records take milliseconds: a minute means a stuck lock, and the row will be back.
            "options": "-c timezone=UTC -c lock_timeout=60s -c idle_in_transaction_session_timeout=300s",
            "application_name": "duecourse",
        },
    )


def in_transaction(engine: Engine, work: Callable[[Connection], Result]) -> Result:
    """Run `work` in one transaction, again from its start after a deadlock or a serialization failure (I4).

    It also runs again on a new connection if the old one broke: PostgreSQL was restarted, say. If it broke at the
    commit, the first run may have been written, so `work` must look before it acts, as every claim and record
    does. It must do nothing that a rollback doesn't undo, and must not call out to the network. Any other error
    is raised at once, with nothing written.
    """
    broken = 0
    for repetition in range(MAX_REPETITIONS):
        try:
            with engine.begin() as connection:
                return work(connection)
        except DBAPIError as error:
            broken += error.connection_invalidated
            is_repeatable = isinstance(error.orig, _REPEATABLE) or (error.connection_invalidated and broken == 1)
            if not is_repeatable or repetition == MAX_REPETITIONS - 1:
                raise
            time.sleep(random.uniform(0, 0.01 * 2**repetition))  # noqa: S311  # spread, not secrecy
    raise AssertionError("unreachable: the last repetition returns or raises")
