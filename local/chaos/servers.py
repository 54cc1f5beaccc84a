"""Faults of Valkey, PostgreSQL and the processor's rate limit. Whoever begins one ends it."""

import os
import signal
from collections.abc import Callable
from typing import Any

import redis
from sqlalchemy import Connection, text

from local.chaos.company import Company
from local.chaos.context import ChaosContext, NotNow, Strikes
from local.chaos.plan import Planned

#: A full disk is a constraint trigger that refuses commits while the flag is up. The sequence counts what it
#: refused: the only thing that a rollback leaves.
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
#: Between them, every transaction about money writes to one of these.
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
    """Install the trigger that plays the full disk; the flag is down."""
    with company.engine.begin() as connection:
        connection.execute(text(FULL_DISK))
        for table in WRITTEN_TABLES:
            connection.execute(text(_TRIGGER.format(table=table)))


def free_disk(company: Company) -> None:
    """Take the flag down. Raises DBAPIError while PostgreSQL is away."""
    with company.connect() as connection:
        connection.execute(text("UPDATE chaos_disk SET is_full = false"))


def disk_full(scene: ChaosContext, fault: Planned) -> None:
    """For a while every commit that writes about money meets a full disk. It counts if one did."""
    company = scene.company
    before = company.scalar(_REFUSALS)
    try:
        with company.connect() as connection:
            connection.execute(text("UPDATE chaos_disk SET is_full = true"))
        scene.last(fault.get("seconds"))
    finally:
        scene.until_done(lambda: free_disk(company))
    if company.scalar(_REFUSALS) == before:
        raise NotNow("nobody wrote anything")
    scene.landed(fault.kind)


def _postmaster(connection: Connection) -> int:
    return int(str(connection.scalar(text("SELECT pg_read_file('postmaster.pid')"))).split()[0])


def _restart_postgres(number: signal.Signals) -> Callable[[ChaosContext, Planned], None]:
    def strike(scene: ChaosContext, fault: Planned) -> None:
        with scene.company.connect() as connection:
            pid = _postmaster(connection)
        os.kill(pid, number)  # the guard starts it again, on its port
        scene.landed(fault.kind)

    return strike


def connections_terminated(scene: ChaosContext, fault: Planned) -> None:
    """End every session of the database but ours."""
    ended = scene.company.rows(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    if not ended:
        raise NotNow("nobody is connected")
    scene.landed(fault.kind)


#: A row of the table that somebody works with, now or soon: of a payment in flight, else of one that is unpaid.
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


def row_locked(scene: ChaosContext, fault: Planned) -> None:
    """Hold a row's lock in a transaction that does nothing else."""
    query = _ROW_TO_LOCK.format(column=_ID_OF[fault.target])
    with scene.company.engine.connect() as connection, connection.begin():
        row_id = connection.scalar(text(query))
        if row_id is None:
            raise NotNow("no payment is unpaid")
        lock = f"SELECT 1 FROM {fault.target} WHERE id = :id FOR UPDATE"  # noqa: S608  # a table of the plan
        connection.execute(text(lock), {"id": row_id})
        scene.landed(fault.kind)
        scene.last(fault.get("seconds"))


def _client(company: Company) -> "redis.Redis":
    return redis.Redis.from_url(company.redis_url, socket_timeout=3, socket_connect_timeout=2)


def _signal_valkey(number: signal.Signals) -> Callable[[ChaosContext, Planned], None]:
    def strike(scene: ChaosContext, fault: Planned) -> None:
        with _client(scene.company) as client:
            information: Any = client.info("server")
        os.kill(information["process_id"], number)
        scene.landed(fault.kind)

    return strike


def valkey_flushed(scene: ChaosContext, fault: Planned) -> None:
    """Every message is gone."""
    with _client(scene.company) as client:
        client.flushall()
    scene.landed(fault.kind)


def valkey_paused(scene: ChaosContext, fault: Planned) -> None:
    """It takes connections and answers nobody; by itself it goes on after the time."""
    seconds = fault.get("seconds")
    with _client(scene.company) as client:
        client.client_pause(int(seconds * 1000))
    scene.landed(fault.kind)
    scene.last(seconds)


def empty_valkey(company: Company) -> None:
    """Give it its memory back. Raises redis.RedisError while it is away."""
    with _client(company) as client:
        client.config_set("maxmemory", 0)


def valkey_full(scene: ChaosContext, fault: Planned) -> None:
    """Its memory is full: reads go on, every write is refused."""
    try:
        with _client(scene.company) as client:
            client.config_set("maxmemory", 1)
        scene.landed(fault.kind)
        scene.last(fault.get("seconds"))
    finally:
        scene.until_done(lambda: empty_valkey(scene.company))


def rate_limit(scene: ChaosContext, fault: Planned) -> None:
    """For a while the processor takes a few requests a second. It counts if one was refused."""
    armoury = scene.armoury
    before = armoury.refused_by_rate_limit()
    try:
        armoury.set_rate_limit(fault.get("per_second"))
        scene.last(fault.get("seconds"))
        after = armoury.refused_by_rate_limit()
    finally:
        scene.until_done(lambda: armoury.set_rate_limit(None))
    if after <= before:
        raise NotNow("nobody asked more than that")
    scene.landed(fault.kind)


STRIKES: Strikes = {
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
