"""Process heartbeats: upsert a row every 10 s, delete it on shutdown.

A heartbeat delays nothing: it has its own thread and transaction. One that can't be written is logged once and
skipped.
"""

import os
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import structlog
from dramatiq.broker import Broker
from dramatiq.middleware import Middleware
from dramatiq.worker import Worker
from sqlalchemy import Connection, Engine, delete, select
from sqlalchemy.dialects.postgresql import insert

from shared.clock import machine_now
from shared.db.tables.operators import heartbeats

log = structlog.get_logger()

#: Often enough that a death is noticed within half a minute; one small write per process.
EVERY_S = 10.0
#: Three missed heartbeats. A process whose clock is this far off counts as lost too; `doctor` names such clocks.
LOST_AFTER = timedelta(seconds=30)
#: A killed process leaves its row; it is deleted after a day.
KEPT_FOR = timedelta(days=1)
#: Old rows are deleted once per this many heartbeats, about once an hour.
DELETE_OLD_EVERY = 360

WEB, SCHEDULER, WORKER = "web", "scheduler", "worker"


@dataclass(frozen=True)
class LiveProcess:
    """One live process. Both times are machine time."""

    kind: str
    host: str
    pid: int
    queues: tuple[str, ...]
    threads: int | None
    release: str | None
    started_at: datetime
    seen_at: datetime


def live_processes(connection: Connection, machine_now: datetime) -> list[LiveProcess]:
    """Return the processes with a heartbeat within LOST_AFTER, by kind and age."""
    rows = connection.execute(
        select(heartbeats)
        .where(heartbeats.c.seen_at.between(machine_now - LOST_AFTER, machine_now + LOST_AFTER))
        .order_by(heartbeats.c.kind, heartbeats.c.started_at, heartbeats.c.process)
    )
    return [
        LiveProcess(
            kind=row.kind,
            host=str(row.data.get("host", "")),
            pid=int(row.data.get("pid", 0)),
            queues=tuple(row.data.get("queues", ())),
            threads=row.data.get("threads"),
            release=row.data.get("release"),
            started_at=row.started_at,
            seen_at=row.seen_at,
        )
        for row in rows
    ]


class Heartbeats:
    """One process's heartbeats. `data` describes the process: its queues and threads."""

    def __init__(
        self,
        engine: Callable[[], Engine],
        kind: str,
        data: Mapping[str, Any] | None = None,
        machine_now: Callable[[], datetime] = machine_now,
    ) -> None:
        self._engine, self._kind, self._machine_now = engine, kind, machine_now
        self._started_at = machine_now()
        self._data = {"host": socket.gethostname(), "pid": os.getpid(), "release": _release(), **(data or {})}
        self._process = f"{kind} {self._data['host']} {os.getpid()} {self._started_at.isoformat()}"
        self._sent = 0
        self._has_error = False
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, every_s: float = EVERY_S) -> None:
        """Send a heartbeat now and every `every_s`, in a thread of its own."""
        self._thread = threading.Thread(target=self._run, args=(every_s,), name="beats", daemon=True)
        self._thread.start()

    def stop(self, within_s: float = 1.0) -> None:
        """Delete the row, but give up after `within_s`: a shutdown doesn't wait for an unreachable database."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(within_s)

    def send(self) -> None:
        """Send one heartbeat. Never raises."""
        self._try_in_transaction(self._write)
        if self._sent % DELETE_OLD_EVERY == 0:
            self._try_in_transaction(self._delete_old)
        self._sent += 1

    def _run(self, every_s: float) -> None:
        while not self._stopping.is_set():
            self.send()
            self._stopping.wait(every_s)
        self._try_in_transaction(self._remove)

    def _write(self, connection: Connection) -> None:
        now = self._machine_now()
        row = insert(heartbeats).values(
            process=self._process, kind=self._kind, data=self._data, started_at=self._started_at, seen_at=now
        )
        connection.execute(row.on_conflict_do_update(index_elements=["process"], set_={"seen_at": now}))

    def _delete_old(self, connection: Connection) -> None:
        old = heartbeats.c.seen_at < self._machine_now() - KEPT_FOR
        connection.execute(delete(heartbeats).where(old))

    def _remove(self, connection: Connection) -> None:
        connection.execute(delete(heartbeats).where(heartbeats.c.process == self._process))

    def _try_in_transaction(self, work: Callable[[Connection], None]) -> None:
        try:
            with self._engine().begin() as connection:
                work(connection)
        except Exception as error:  # whatever it is, a heartbeat must not end its process
            if not self._has_error:
                self._has_error = True
                log.warning("heartbeat.missed", error=type(error).__name__, consequence="this process looks dead")
        else:
            if self._has_error:
                self._has_error = False
                log.info("heartbeat.sent_again")


class WorkerHeartbeats(Middleware):
    """A worker process's heartbeats, from its first thread to its last message."""

    def __init__(self, engine: Callable[[], Engine]) -> None:
        self._engine = engine
        self._heartbeats: Heartbeats | None = None

    def after_worker_boot(self, broker: Broker, worker: Worker) -> None:
        queues: Sequence[str] = sorted(worker.consumer_whitelist or broker.get_declared_queues())
        self._heartbeats = Heartbeats(self._engine, WORKER, {"queues": queues, "threads": worker.worker_threads})
        self._heartbeats.start()

    def after_worker_shutdown(self, broker: Broker, worker: Worker) -> None:  # noqa: ARG002  # Dramatiq's signature
        if self._heartbeats is not None:
            self._heartbeats.stop()


def _release() -> str | None:
    try:
        return version("duecourse")
    except PackageNotFoundError:
        return None
