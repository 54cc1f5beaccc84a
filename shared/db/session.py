"""Engines and transactions: short, repeated when PostgreSQL requires it, never open across a request."""

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

#: A deadlock's loser needs one repetition; ten mean that something else is wrong and should surface.
MAX_REPETITIONS = 10
#: Longest wait for one lock (s). Ours are held for milliseconds, a run's for its chunk; a longer holder is stuck,
#: and
#: a waiting worker does nothing else: with a sweep every 2 s, soon all of them. Above PostgreSQL's deadlock_timeout
#: of 1 s, so that a deadlock has one loser.
LOCK_TIMEOUT_S = 2
#: How long a transaction keeps trying to get its locks (s): longer than any chunk of ours on a busy machine.
INSIST_FOR_S = 10.0
#: Pauses between repetitions grow from a few milliseconds to this (s).
LONGEST_PAUSE_S = 0.5

_CONNECT_ARGS: dict[str, Any] = {
    "connect_timeout": 10,
    # Both ends detect a lost connection within a minute; the system's defaults take two hours.
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,  # ms
    "application_name": "duecourse",
}
_OPTIONS = {
    "timezone": "UTC",
    "lock_timeout": f"{LOCK_TIMEOUT_S}s",
    # None of our code idles inside a transaction: a process that does was suspended there, and its locks are
    # needed.
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
#: 08 connections, 53 memory, disk and slots, 57P a server that stops or starts: these errors are temporary.
_OUTAGES = ("08", "53", "57P")


def make_engine(settings: Settings, *, pool_size: int = 10, statement_limit_s: int | None = None) -> Engine:
    """Make an engine: READ COMMITTED, UTC, bounded statements. With `in_transaction`, work survives a restart.

    `statement_limit_s` (s) is for processes that serve requests; a command has no limit.
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
    """Run `work` in one transaction; repeat it from its start after a deadlock or a serialization failure (I4).

    It also runs again on a new connection if the old one broke, for example because PostgreSQL restarted. If it
    broke at the commit, the first run may have been written. So `work` must read before it writes, as every claim
    and recording does. It must do nothing that a rollback doesn't undo, and must not use the network.

    It waits up to `insist_for_s` (s) for a lock that another transaction holds. With `outlives_outages` it also
    waits that long for a database that is unreachable, starting, or full. Other errors are raised at once, with
    nothing written.

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
    """Run `work` in one transaction; None if another transaction holds its locks: the row stays due.

    `what` names it in the log. For work that the sweep enqueues again: a waiting worker could do nothing else.
    Otherwise as `in_transaction`.
    """
    try:
        return in_transaction(engine, work, insist_for_s=0.0, step=step)
    except DBAPIError as error:
        if not is_locked(error):
            raise
        log.warning("transaction.locked", what=what, consequence="it stays due, and is enqueued again")
        return None


def by_index_only(connection: Connection, *, limit_s: int | None = None) -> None:
    """Prevent sequential scans in this transaction, and limit its statements to `limit_s`, if given.

    PostgreSQL prefers such scans where it expects a match on nearly every page, and is wrong by a million rows
    where all matches are in one place. Each statement is planned for its own values (one amount is rare, another
    isn't), and none is JIT-compiled: that takes longer than it saves.
    """
    connection.execute(_BY_INDEX_ONLY)
    if limit_s is not None:
        connection.execute(text("SELECT set_config('statement_timeout', :limit, true)"), {"limit": f"{limit_s}s"})


def is_locked(error: Exception) -> bool:
    """Whether another transaction held a lock for longer than we wait."""
    return isinstance(error, DBAPIError) and isinstance(error.orig, psycopg.errors.LockNotAvailable)


def is_outage(error: Exception) -> bool:
    """Whether the database was unreachable or out of resources: temporary errors that the work didn't cause."""
    if not isinstance(error, DBAPIError):
        return isinstance(error, PoolTimeoutError)
    if error.connection_invalidated:
        return True
    sqlstate = error.orig.sqlstate if isinstance(error.orig, psycopg.Error) else None
    if sqlstate is None:  # raised by the driver: it could not connect
        return isinstance(error.orig, psycopg.OperationalError)
    return sqlstate.startswith(_OUTAGES)


def _is_repeatable(error: Exception) -> bool:
    return isinstance(error, DBAPIError) and isinstance(error.orig, _REPEATABLE)


def _is_break(error: Exception) -> bool:
    return isinstance(error, DBAPIError) and error.connection_invalidated
