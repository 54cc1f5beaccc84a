"""Starts and stops servers for the guard: their user, death with the guard, log, port and readiness."""

import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from local.child_processes import PR_SET_PDEATHSIG, kill_group, load_prctl, private_log, rotate_log
from local.embedded.plan import LOOPBACK, EmbeddedError

NOBODY = 65534  # uid and gid of the servers when we are root: postgres refuses root
POLL_S = 0.005  # how often readiness is checked; a start takes tens of these


@dataclass(frozen=True)
class Identity:
    """The user that the servers run as, if it isn't ours."""

    uid: int
    gid: int


@dataclass(frozen=True)
class Server:
    """How to run one server on one port."""

    name: str
    port: int
    argv: tuple[str, ...]
    log: Path
    is_ready: Callable[[], bool]
    stop_signals: tuple[tuple[signal.Signals, float], ...]  # each with the seconds it may take
    death_signal: signal.Signals  # what the kernel sends when the guard was killed
    stdin: bytes = b""
    hint: str = ""  # what to do if it can't start with its data


class ParentGone(Exception):  # noqa: N818  # not an error: the normal end
    """The parent closed its pipe or died, or the guard got a signal to stop."""


class ParentWatch:
    """Detects the end of the parent: the pipe on `fd` ends, or the guard has another parent.

    Both are checked: a process that the parent forked without exec may hold the pipe open for longer.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._parent = os.getppid()
        self._stopped, self._stop = os.pipe()  # a pipe, so that a signal ends a wait

    def stop(self) -> None:
        """Report the parent as gone from now on; may be called in a signal handler."""
        os.write(self._stop, b"x")

    def is_gone(self, wait_s: float = 0.0) -> bool:
        """Wait at most `wait_s` seconds for the end of the parent; return whether it is gone."""
        if os.getppid() != self._parent:
            return True
        readable, _, _ = select.select([self._fd, self._stopped], [], [], wait_s)
        return self._stopped in readable or (self._fd in readable and not os.read(self._fd, 4096))

    def check(self, wait_s: float = 0.0) -> None:
        if self.is_gone(wait_s):
            raise ParentGone


class Spawner:
    """Starts children that end with this process and hold its lock as long as they live."""

    def __init__(self, identity: Identity | None, lock_fd: int) -> None:
        self.identity = identity
        self._lock_fd = lock_fd
        self._prctl = load_prctl()

    def spawn(
        self, argv: Sequence[str], log: Path, death_signal: signal.Signals, stdin: bytes = b""
    ) -> "subprocess.Popen[bytes]":
        """Start `argv` in a session of its own, output appended to `log`. Raises EmbeddedError."""
        as_user = (
            {"user": self.identity.uid, "group": self.identity.gid, "extra_groups": []} if self.identity else {}
        )
        guard = os.getpid()

        def die_with_guard() -> None:  # runs after the change of user, which clears the setting
            if self._prctl is not None:
                self._prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
                if os.getppid() != guard:
                    os._exit(1)

        with private_log(log) as output:
            try:
                process = subprocess.Popen(  # type: ignore[call-overload]  # the three options as one dict
                    list(argv),
                    stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    cwd="/",
                    env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},  # none of our secrets
                    start_new_session=True,
                    pass_fds=(self._lock_fd,),
                    umask=0o077,
                    preexec_fn=die_with_guard,  # safe: the guard has one thread
                    **as_user,
                )
            except (OSError, subprocess.SubprocessError) as error:
                user = f" as uid {self.identity.uid}" if self.identity else ""
                raise EmbeddedError(f"Can't start {argv[0]}{user}: {error}") from error
        if stdin:
            try:
                process.stdin.write(stdin)
                process.stdin.close()
            except BrokenPipeError:
                pass  # it died at once; the caller's wait reports its log
        return process  # type: ignore[no-any-return]


def run_to_end(process: "subprocess.Popen[bytes]", watch: ParentWatch, what: str, log: Path) -> None:
    """Wait for a program that should exit with 0; kill it if the parent is gone. Raises EmbeddedError."""
    try:
        while process.poll() is None:
            watch.check(POLL_S)
    except ParentGone:
        kill_group(process.pid)
        process.wait()
        raise
    if process.returncode:
        raise EmbeddedError(f"{what} failed (exit {process.returncode}).\n{log_tail(log)}")


def wait_until_ready(
    server: Server, process: "subprocess.Popen[bytes]", watch: ParentWatch, timeout_s: float
) -> None:
    """Poll until the server answers. Raises EmbeddedError with the tail of its log if it dies or takes too long."""
    deadline = time.monotonic() + timeout_s
    while True:
        if process.poll() is not None:
            what = f"{server.name} ended during its start (exit {process.returncode}). {server.hint}".rstrip()
            raise EmbeddedError(f"{what}\n{log_tail(server.log)}")
        if server.is_ready():
            return
        if time.monotonic() > deadline:
            raise EmbeddedError(f"{server.name} isn't ready after {timeout_s:g} s.\n{log_tail(server.log)}")
        watch.check(POLL_S)


def stop_all(running: Sequence[tuple[Server, "subprocess.Popen[bytes]"]]) -> None:
    """Stop all servers in parallel: each signal of a server's list in turn, then SIGKILL to its process group."""
    started = time.monotonic()
    next_step = {server.name: (0, started) for server, _ in running}
    while True:
        left = [(server, process) for server, process in running if process.poll() is None]
        if not left:
            return
        now = time.monotonic()
        for server, process in left:
            step, due_at = next_step[server.name]
            if now < due_at:
                continue
            if step < len(server.stop_signals):
                wanted, patience_s = server.stop_signals[step]
                process.send_signal(wanted)
                next_step[server.name] = (step + 1, now + patience_s)
            else:
                kill_group(process.pid)
                next_step[server.name] = (step, now + 1.0)
        time.sleep(POLL_S)


def free_port(preferred: int = 0) -> int:
    """Return a free TCP port of the loopback: the preferred one if possible."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as both servers do
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            chosen: int = probe.getsockname()[1]
            return chosen
    raise EmbeddedError(f"No free TCP port on {LOOPBACK}.")


def open_log(log: Path) -> None:
    """Create the log's folder, and rotate a long log."""
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    log.parent.chmod(0o700)  # one that an earlier release made
    rotate_log(log)


def log_tail(log: Path, lines: int = 15) -> str:
    """Return the last lines of a log for an error message."""
    try:
        with log.open("rb") as text:
            text.seek(max(0, log.stat().st_size - 8_000))
            tail = text.read().decode(errors="replace").splitlines()[-lines:]
    except OSError:
        tail = []
    return "\n".join([f"Last lines of {log}:", *(f"  {line}" for line in tail)])
