"""The guard, the parent process of the servers: `python -m local.embedded.guard FOLDER`, run by launch.py.

It reads its plan (one line of JSON) from standard input, starts the servers, answers one line of JSON on standard
output, and waits. The end of standard input means that the owner is gone, in whatever way; the guard then stops the
servers. It has its own session, so that a Ctrl-C in the terminal doesn't reach the servers before the workers are
done. A server that dies is restarted on its port.
"""

import contextlib
import fcntl
import json
import os
import secrets as random_secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from local.child_processes import RestartPause, is_alive
from local.embedded.places import data_home, reachable_program, server_identity
from local.embedded.plan import EmbeddedError, Folder, Plan, Urls
from local.embedded.postgres import Postgres
from local.embedded.process import (
    ParentGone,
    ParentWatch,
    Server,
    Spawner,
    free_port,
    open_log,
    stop_all,
    wait_until_ready,
)
from local.embedded.valkey import Valkey

LOCK_PATIENCE_S = 45.0  # an earlier guard may still be stopping, at most 28 s for PostgreSQL
WATCH_S = 0.5  # how often the servers are checked; the end of the owner wakes the guard at once
LONGEST_PAUSE_S = 5.0  # before a restart
SETTLED_S = 5.0  # a server that lived this long starts correctly: its next restart has the first pause again
PORT_TRIES = 5  # another process may take a port between our check and the server's bind


def main() -> int:
    plan = Plan.from_json(_read_line(sys.stdin.fileno()))
    watch = ParentWatch(sys.stdin.fileno())
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: watch.stop())
    try:
        guard(plan, watch)
    except ParentGone:
        return 0
    except (EmbeddedError, OSError) as error:
        _answer({"error": str(error)})
        return 1
    return 0


def guard(plan: Plan, watch: ParentWatch) -> None:
    """Start the servers of the plan, answer, restart dead ones until the owner is gone, stop all."""
    folder = Folder(Path(plan.folder))
    with _locked(folder, plan.owner_pid, watch) as lock_fd:
        spawner = Spawner(server_identity(folder), lock_fd)
        running: list[Running] = []
        try:
            urls = _start(plan, folder, spawner, watch, running)
            state = asdict(urls) | {"owner_pid": plan.owner_pid, "guard_pid": os.getpid()}
            write_private(folder.state, json.dumps(state))
            _answer(asdict(urls))
            _keep_running(running, spawner, watch)
        finally:
            stop_all([(it.server, it.process) for it in running])
            folder.state.unlink(missing_ok=True)


@dataclass
class Running:
    """A server and its current process."""

    server: Server
    process: "subprocess.Popen[bytes]"
    pause: RestartPause = field(default_factory=lambda: RestartPause(LONGEST_PAUSE_S, SETTLED_S))
    restart_at: float = 0.0
    started_at: float = field(default_factory=time.monotonic)


def _start(plan: Plan, folder: Folder, spawner: Spawner, watch: ParentWatch, running: list[Running]) -> Urls:
    home = data_home(folder, spawner.identity)
    secrets, has_new_secrets = _secrets(folder)
    urls = {"database_url": "", "redis_url": ""}
    if plan.valkey is not None:  # first: it starts while PostgreSQL's data folder is created
        open_log(log := folder.log("valkey"))
        program = reachable_program(plan.valkey, spawner.identity)
        valkey = Valkey(program, home, log, secrets["valkey_password"], durable=plan.durable)
        valkey.prepare(spawner)
        started = _start_one(valkey.server, int(secrets["valkey_port"]), spawner, watch, plan, running)
        secrets["valkey_port"] = str(started.port)
        urls["redis_url"] = valkey.url(started.port)
    if plan.postgres is not None:
        open_log(log := folder.log("postgres"))
        program = reachable_program(plan.postgres, spawner.identity)
        postgres = Postgres(program, home, log, durable=plan.durable)
        postgres.prepare(spawner, watch, secrets["postgres_password"], is_new_password=has_new_secrets)
        started = _start_one(postgres.server, int(secrets["postgres_port"]), spawner, watch, plan, running)
        secrets["postgres_port"] = str(started.port)
        urls["database_url"] = postgres.url(started.port, secrets["postgres_password"])
    write_private(folder.secrets, json.dumps(secrets))
    return Urls(**urls)


def _start_one(
    server_on: Callable[[int], Server],
    preferred_port: int,
    spawner: Spawner,
    watch: ParentWatch,
    plan: Plan,
    running: list[Running],
) -> Server:
    for attempt in range(PORT_TRIES):
        server = server_on(free_port(0 if attempt else preferred_port))
        log_start = server.log.stat().st_size if server.log.exists() else 0
        process = spawner.spawn(server.argv, server.log, server.death_signal, server.stdin)
        running.append(Running(server, process))
        try:
            wait_until_ready(server, process, watch, plan.start_timeout_s)
        except EmbeddedError:
            is_port_taken = b"ddress already in use" in server.log.read_bytes()[log_start:]
            if process.poll() is None or not is_port_taken or attempt == PORT_TRIES - 1:
                raise
            running.pop()
        else:
            return server
    raise AssertionError("unreachable")


def _keep_running(running: list[Running], spawner: Spawner, watch: ParentWatch) -> None:
    """Wait for the end of the owner; until then restart dead servers, with growing pauses."""
    while not watch.is_gone(WATCH_S):
        now = time.monotonic()
        for it in running:
            if it.process.poll() is None:
                continue
            if it.restart_at == 0.0:
                it.restart_at = now + it.pause.after_life_of(now - it.started_at)
            elif now >= it.restart_at:
                it.restart_at, it.started_at = 0.0, now
                it.process = spawner.spawn(it.server.argv, it.server.log, it.server.death_signal, it.server.stdin)


def _secrets(folder: Folder) -> tuple[dict[str, str], bool]:
    """Return passwords (hexadecimal: they need no quoting) and last ports, and whether they are new."""
    try:
        kept = json.loads(folder.secrets.read_text())
    except FileNotFoundError:
        fresh = {f"{server}_password": random_secrets.token_hex(24) for server in ("postgres", "valkey")}
        fresh |= {"postgres_port": "0", "valkey_port": "0"}
        return fresh, True
    except (OSError, ValueError) as error:
        raise EmbeddedError(f"Can't read {folder.secrets}: {error}. Remove it to create new secrets.") from error
    return kept, False


@contextlib.contextmanager
def _locked(folder: Folder, owner_pid: int, watch: ParentWatch) -> Iterator[int]:
    """Lock the folder. The servers inherit the lock: it is free only when the last of them has ended."""
    lock_fd = os.open(folder.lock, os.O_RDWR | os.O_CREAT, 0o600)
    _give_to_owner_of(folder.path, lock_fd)
    deadline = time.monotonic() + LOCK_PATIENCE_S
    while True:
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            pids = [int(pid) for pid in os.pread(lock_fd, 100, 0).split()]
            if len(pids) == 2 and all(is_alive(pid) for pid in pids):
                raise EmbeddedError(
                    f"Another Duecourse (pid {pids[0]}) runs its servers on {folder.path}. Stop it, use its "
                    f"servers (`duecourse env` prints their URLs), or use another folder."
                ) from None
            if time.monotonic() > deadline:
                raise EmbeddedError(
                    f"Servers of an earlier run still hold {folder.lock}; `fuser {folder.lock}` lists them."
                ) from None
            watch.check(0.02)
    os.ftruncate(lock_fd, 0)
    os.pwrite(lock_fd, f"{owner_pid} {os.getpid()}\n".encode(), 0)
    try:
        yield lock_fd
    finally:
        os.close(lock_fd)


def write_private(path: Path, text: str) -> None:
    """Replace a file atomically; only its owner can read it."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    _give_to_owner_of(path.parent, descriptor)
    with os.fdopen(descriptor, "w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(descriptor)
    fresh.replace(path)


def _give_to_owner_of(folder: Path, descriptor: int) -> None:
    """Keep the folder's owner as the owner of the file, so that a run as root doesn't lock the user out."""
    if os.geteuid() == 0:
        os.fchown(descriptor, folder.stat().st_uid, folder.stat().st_gid)


def _read_line(fd: int) -> str:
    """Read one line, byte by byte: the rest must stay in the pipe for select."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(fd, 1)
        if not byte:
            raise SystemExit(0)  # the owner died before it sent the plan
        line += byte
    return line.decode()


def _answer(value: dict[str, str]) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(sys.stdout.fileno(), json.dumps(value).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(main())
