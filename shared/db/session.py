"""Engines and transactions: short ones, repeated when PostgreSQL asks for it, never open across a request."""

import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

import psycopg.errors
import structlog
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from shared.failpoints import reach_edge
from shared.settings import Settings

log = structlog.get_logger()

Result = TypeVar("Result")

#: A deadlock's loser needs one repetition; ten mean that something else is wrong and should be seen.
MAX_REPETITIONS = 10
#: A wait for one lock (s). Ours are held for milliseconds, a run's for its chunk; what takes longer is stuck, and a
#: worker that waited for it would do nothing else: with a sweep every 2 s, soon all of them. Above PostgreSQL's
#: deadlock_timeout of 1 s, so that a deadlock has one loser.
LOCK_TIMEOUT_S = 2
#: How long a transaction goes on trying to get its locks (s): beyond every chunk of ours on a busy machine.
INSIST_FOR_S = 10.0
#: Pauses between repetitions grow from a few milliseconds to this (s).
LONGEST_PAUSE_S = 0.5

_CONNECT_ARGS: dict[str, Any] = {
    "connect_timeout": 10,
    # Both ends notice within a minute that the other is gone; the system's defaults take two hours.
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,  # ms
    "application_name": "duecourse",
}
_OPTIONS = {
    "timezone": "UTC",
    "lock_timeout": f"{LOCK_TIMEOUT_S}s",
    # Nothing of ours thinks inside a transaction: who does was stopped there, and its locks are needed.
    "idle_in_transaction_session_timeout": "60s",
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}
_BY_INDEX_ONLY = text("""
    SELECT set_config('enable_seqscan', 'off', true), set_config('plan_cache_mode', 'force_custom_plan', true),
           set_config('jit', 'off', true)
""")
_REPEATABLE = (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure)
#: 08 connections, 53 memory, disk and slots, 57P a server that stops or starts: these pass by themselves.
_OUTAGES = ("08", "53", "57P")


def make_engine(settings: Settings, *, pool_size: int = 10, statement_limit_s: int | None = None) -> Engine:
    """Make an engine: READ COMMITTED, UTC, and no statement waits forever. `in_transaction` outlives a restart.

    `statement_limit_s` (s) is for processes that answer to somebody; a command may take its time.
    """
    options = dict(_OPTIONS)
    if statement_limit_s is not None:
        options["statement_timeout"] = f"{statement_limit_s}s"
    return create_engine(
        settings.sqlalchemy_url,
        pool_size=pool_size,
        max_overflow=5,
        pool_timeout=30,
        connect_args={
            **_CONNECT_ARGS,
            "options": " ".join(f"-c {name}={value}" for name, value in options.items()),
        },
    )


def in_transaction(
    engine: Engine,
    work: Callable[[Connection], Result],
    *,
    insist_for_s: float = INSIST_FOR_S,
    outlives_outages: bool = False,
    step: str | None = None,
) -> Result:
    """Run `work` in one transaction, again from its start after a deadlock or a serialization failure (I4).

    It also runs again on a new connection if the old one broke: PostgreSQL was restarted, say. If it broke at the
    commit, the first run may have been written, so `work` must look before it acts, as every claim and record
    does. It must do nothing that a rollback doesn't undo, and must not call out to the network.

    A lock that somebody else holds is waited for up to `insist_for_s` (s); so is, with `outlives_outages`, a
    database that is away, starting, or full. Any other error is raised at once, with nothing written.

    A `step` ("tick.run") names three failpoints: `<step>.begun` before it, `<step>.before_commit` at the end of
    `work`, `<step>.committed` after it.
    """
    reach_edge(step, "begun")
    give_up_at = time.monotonic() + insist_for_s
    repetition = deadlocks = breaks = 0
    while True:
        try:
            with engine.begin() as connection:
                result = work(connection)
                reach_edge(step, "before_commit")
        except (DBAPIError, PoolTimeoutError) as error:
            deadlocks += _is_repeatable(error)
            breaks += _is_break(error)
            is_cheap = deadlocks < MAX_REPETITIONS if _is_repeatable(error) else _is_break(error) and breaks == 1
            is_worth_waiting = is_locked(error) or (outlives_outages and is_outage(error))
            if not is_cheap and not (is_worth_waiting and time.monotonic() < give_up_at):
                raise
        else:
            reach_edge(step, "committed")
            return result
        time.sleep(random.uniform(0, min(LONGEST_PAUSE_S, 0.01 * 2**repetition)))  # noqa: S311  # spread, not secrecy
        repetition = min(repetition + 1, 10)


def in_turn(
    engine: Engine, work: Callable[[Connection], Result], what: str, *, step: str | None = None
) -> Result | None:
    """Run `work` in one transaction; None if somebody else holds what it needs: the row stays due.

    `what` it is, for the log. For work that a sweep rings for again: waiting would keep a worker from the others.
    Otherwise as `in_transaction`.
    """
    try:
        return in_transaction(engine, work, insist_for_s=0.0, step=step)
    except DBAPIError as error:
        if not is_locked(error):
            raise
        log.warning("transaction.locked", what=what, consequence="it stays due, and is rung for again")
        return None


def by_index_only(connection: Connection, *, limit_s: int | None = None) -> None:
    """Keep PostgreSQL from reading whole tables in this transaction, and its statements within `limit_s`, if given.

    It prefers them where it expects a row on nearly every page, and is wrong by a million rows where what is looked
    for is all in one place. Each statement has a plan for its own values (one amount is rare, another isn't), and
    none is compiled: that takes longer than what it saves.
    """
    connection.execute(_BY_INDEX_ONLY)
    if limit_s is not None:
        connection.execute(text("SELECT set_config('statement_timeout', :limit, true)"), {"limit": f"{limit_s}s"})


def is_locked(error: Exception) -> bool:
    """Whether somebody else held a lock for longer than we wait."""
    return isinstance(error, DBAPIError) and isinstance(error.orig, psycopg.errors.LockNotAvailable)


def is_outage(error: Exception) -> bool:
    """Whether the database was out of reach or out of room: what passes without a change of the work."""
    if not isinstance(error, DBAPIError):
        return isinstance(error, PoolTimeoutError)
    if error.connection_invalidated:
        return True
    sqlstate = error.orig.sqlstate if isinstance(error.orig, psycopg.Error) else None
    if sqlstate is None:  # the driver's own word: it could not connect
        return isinstance(error.orig, psycopg.OperationalError)
    return sqlstate.startswith(_OUTAGES)


def _is_repeatable(error: Exception) -> bool:
    return isinstance(error, DBAPIError) and isinstance(error.orig, _REPEATABLE)


def _is_break(error: Exception) -> bool:
    return isinstance(error, DBAPIError) and error.connection_invalidated
