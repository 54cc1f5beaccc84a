"""Faults of Valkey, PostgreSQL and the processor's rate limit. Each function ends the fault it starts."""

import os
import signal
from collections.abc import Callable
from typing import Any

import redis
from sqlalchemy import Connection, text

from local.chaos.company import Company
from local.chaos.context import ChaosContext, Injectors, NotPossibleNow
from local.chaos.plan import Planned

#: The full disk is a constraint trigger that rejects commits while the flag is set. A sequence counts the
#: rejections, because a rollback doesn't undo it.
FULL_DISK = """
    CREATE TABLE chaos_disk (is_full boolean NOT NULL);
    INSERT INTO chaos_disk VALUES (false);
    CREATE SEQUENCE chaos_disk_refusals;
    CREATE FUNCTION chaos_disk_is_full() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF (SELECT is_full FROM chaos_disk) THEN
            PERFORM nextval('chaos_disk_refusals');
            RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100';
        END IF;
        RETURN NULL;
    END $$;
"""
_TRIGGER = """
    CREATE CONSTRAINT TRIGGER chaos_disk_is_full AFTER INSERT OR UPDATE ON {table}
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION chaos_disk_is_full()
"""
#: Every transaction about money writes to at least one of these.
WRITTEN_TABLES = (
    "payment_attempts",
    "payments",
    "payment_intents",
    "receipts",
    "stripe_events",
    "invoices",
    "runs",
)
_REFUSALS = "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM chaos_disk_refusals"


def prepare_disk(company: Company) -> None:
    """Create the trigger for the full disk; the flag is not set."""
    with company.engine.begin() as connection:
        connection.execute(text(FULL_DISK))
        for table in WRITTEN_TABLES:
            connection.execute(text(_TRIGGER.format(table=table)))


def free_disk(company: Company) -> None:
    """Clear the flag. Raises DBAPIError while PostgreSQL is down."""
    with company.connect() as connection:
        connection.execute(text("UPDATE chaos_disk SET is_full = false"))


def disk_full(context: ChaosContext, fault: Planned) -> None:
    """Reject every commit about money for a while. It is a hit if at least one was rejected."""
    company = context.company
    before = company.scalar(_REFUSALS)
    try:
        with company.connect() as connection:
            connection.execute(text("UPDATE chaos_disk SET is_full = true"))
        context.wait(fault.get("seconds"))
    finally:
        context.retry_until_done(lambda: free_disk(company))
    if company.scalar(_REFUSALS) == before:
        raise NotPossibleNow("no commit was rejected")
    context.record_hit(fault.kind)


def _postmaster(connection: Connection) -> int:
    return int(str(connection.scalar(text("SELECT pg_read_file('postmaster.pid')"))).split()[0])


def _restart_postgres(number: signal.Signals) -> Callable[[ChaosContext, Planned], None]:
    def inject(context: ChaosContext, fault: Planned) -> None:
        with context.company.connect() as connection:
            pid = _postmaster(connection)
        os.kill(pid, number)  # the guard restarts it on its port
        context.record_hit(fault.kind)

    return inject


def connections_terminated(context: ChaosContext, fault: Planned) -> None:
    """Terminate every session of the database except this one."""
    ended = context.company.rows(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    if not ended:
        raise NotPossibleNow("no other session is connected")
    context.record_hit(fault.kind)


#: A row that a worker uses now or soon: of a payment with an open attempt, else of an unpaid one.
_ROW_TO_LOCK = """
    SELECT {column} FROM payments p
    LEFT JOIN payment_attempts a ON a.payment_id = p.id AND a.state IN ('started', 'unknown')
    LEFT JOIN payment_intents i ON i.payment_id = p.id AND i.closed_reason IS NULL
    WHERE {column} IS NOT NULL AND p.state IN ('due', 'retry_scheduled', 'needs_payment_method')
    ORDER BY a.started_at DESC NULLS LAST, p.state = 'due' DESC, p.next_attempt_at LIMIT 1
"""
_ID_OF = {
    "payments": "p.id",
    "accounts": "p.account_id",
    "payment_settings": "p.settings_id",
    "payment_intents": "i.id",
}


def row_locked(context: ChaosContext, fault: Planned) -> None:
    """Hold a row's lock in an idle transaction."""
    query = _ROW_TO_LOCK.format(column=_ID_OF[fault.target])
    with context.company.engine.connect() as connection, connection.begin():
        row_id = connection.scalar(text(query))
        if row_id is None:
            raise NotPossibleNow("no payment is unpaid")
        lock = f"SELECT 1 FROM {fault.target} WHERE id = :id FOR UPDATE"  # noqa: S608  # a table of the plan
        connection.execute(text(lock), {"id": row_id})
        context.record_hit(fault.kind)
        context.wait(fault.get("seconds"))


def _client(company: Company) -> "redis.Redis":
    return redis.Redis.from_url(company.redis_url, socket_timeout=3, socket_connect_timeout=2)


def _signal_valkey(number: signal.Signals) -> Callable[[ChaosContext, Planned], None]:
    def inject(context: ChaosContext, fault: Planned) -> None:
        with _client(context.company) as client:
            information: Any = client.info("server")
        os.kill(information["process_id"], number)
        context.record_hit(fault.kind)

    return inject


def valkey_flushed(context: ChaosContext, fault: Planned) -> None:
    """Delete every message."""
    with _client(context.company) as client:
        client.flushall()
    context.record_hit(fault.kind)


def valkey_paused(context: ChaosContext, fault: Planned) -> None:
    """Pause Valkey: it accepts connections but answers no client until the time is over."""
    seconds = fault.get("seconds")
    with _client(context.company) as client:
        client.client_pause(int(seconds * 1000))
    context.record_hit(fault.kind)
    context.wait(seconds)


def empty_valkey(company: Company) -> None:
    """Remove the memory limit. Raises redis.RedisError while Valkey is down."""
    with _client(company) as client:
        client.config_set("maxmemory", 0)


def valkey_full(context: ChaosContext, fault: Planned) -> None:
    """Fill Valkey's memory: it answers reads and rejects every write."""
    try:
        with _client(context.company) as client:
            client.config_set("maxmemory", 1)
        context.record_hit(fault.kind)
        context.wait(fault.get("seconds"))
    finally:
        context.retry_until_done(lambda: empty_valkey(context.company))


def rate_limit(context: ChaosContext, fault: Planned) -> None:
    """Let the processor take a few requests a second for a while. It is a hit if at least one was refused."""
    fault_queue = context.fault_queue
    before = fault_queue.refused_by_rate_limit()
    try:
        fault_queue.set_rate_limit(fault.get("per_second"))
        context.wait(fault.get("seconds"))
        after = fault_queue.refused_by_rate_limit()
    finally:
        context.retry_until_done(lambda: fault_queue.set_rate_limit(None))
    if after <= before:
        raise NotPossibleNow("no request exceeded the limit")
    context.record_hit(fault.kind)


INJECTORS: Injectors = {
    "rate_limit": rate_limit,
    "valkey_killed": _signal_valkey(signal.SIGKILL),
    "valkey_restarted": _signal_valkey(signal.SIGTERM),
    "valkey_flushed": valkey_flushed,
    "valkey_paused": valkey_paused,
    "valkey_full": valkey_full,
    "postgres_fast": _restart_postgres(signal.SIGINT),
    "postgres_immediate": _restart_postgres(signal.SIGQUIT),
    "connections_terminated": connections_terminated,
    "row_locked": row_locked,
    "disk_full": disk_full,
}
