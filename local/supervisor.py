"""Runs the processes of the Procfile: starts them, logs their output, restarts what dies, and stops them all.

One thread does everything, because the kernel's signal at the death of the parent is bound to the parent's thread.
If the supervisor itself is killed, the kernel sends SIGTERM to each process, and the OrphanKiller kills what is
left after the grace period.
"""

import contextlib
import itertools
import os
import queue
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Self

from rich.console import Console
from rich.text import Text

from local.child_processes import (
    LOG_BYTES,
    OrphanKiller,
    RestartPause,
    describe_exit,
    dying_with_us,
    has_ended,
    kill_group,
    private_log,
    rotate_log,
)

GRACE_S = 45.0  # above a worker's own 40 s: a charge in flight may finish and be recorded
LOOP_S = 0.1  # a stop request and the end of a process are noticed within this time
LONGEST_PAUSE_S = 10.0  # before a restart
SETTLED_S = 30.0  # a process that lived this long has the first pause again
READ_BYTES = 65_536  # the size of a pipe; longer output without a newline is cut
STALLED_S = 3.0  # a terminal that takes no line for this long is stopped (Ctrl-S)
CONSOLE_LINES = 10_000  # buffered for a stopped terminal; further lines are only in the logs
COLOURS = ("cyan", "green", "magenta", "yellow", "blue", "red")


class SupervisorError(RuntimeError):
    """A process didn't start. The message names it and its log."""


@dataclass(frozen=True)
class Process:
    """One line of the Procfile."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)  # added to ours
    count: int = 1  # above 1 the processes are called name.1, name.2, …
    is_release: bool = False  # runs once, before the others, which need its exit 0
    is_ready: Callable[[], bool] | None = None  # polled by wait_until_ready; None: ready once started
    pass_fds: tuple[int, ...] = ()  # open files that it inherits, e.g. a listening socket


def read_procfile(path: Path) -> list[Process]:
    """Read the processes of a Procfile, in its order; `release` runs once, before the others."""
    lines = (line.strip() for line in path.read_text().splitlines())
    pairs = (line.split(":", 1) for line in lines if line and not line.startswith("#"))
    # Through a shell, as in every Procfile runner, so that ${NAME:-default} works; exec replaces the shell.
    return [
        Process(name.strip(), ["/bin/sh", "-c", f"exec {command.strip()}"], is_release=name.strip() == "release")
        for name, command in pairs
    ]


@dataclass
class _Instance:
    """A process and its current state."""

    process: Process
    name: str
    log_path: Path
    pause: RestartPause
    popen: "subprocess.Popen[bytes] | None" = None
    output_fd: int = -1
    unfinished_line: bytes = b""
    exit_code: int | None = None  # of its last end; negative: the signal
    restarts: int = 0
    started_at: float = 0.0
    start_at: float | None = None  # when it will be restarted
    added_env: Mapping[str, str] = field(default_factory=dict)


class Supervisor:
    """Keeps processes running. For a program: a `with` block, or `start` and `stop`. For a terminal: `run`."""

    def __init__(
        self,
        processes: Sequence[Process],
        log_dir: Path,
        on_line: Callable[[str, str], None] | None = None,
        *,
        quiet: bool = False,
        grace_s: float = GRACE_S,
        longest_pause_s: float = LONGEST_PAUSE_S,
    ) -> None:
        """`on_line(name, line)` is called from the supervisor's thread; `quiet` prints nothing on the console.

        `longest_pause_s` limits the pause before a restart.
        """
        self._instances: dict[str, _Instance] = {}
        for process in processes:
            for number in range(1, process.count + 1):
                name = process.name if process.count == 1 else f"{process.name}.{number}"
                log, pause = log_dir / f"{name}.log", RestartPause(longest_pause_s, SETTLED_S)
                self._instances[name] = _Instance(process, name, log, pause)
        self._log_dir = log_dir
        self._on_line = on_line
        self._console = None if quiet else _ConsoleWriter(list(self._instances))
        self._grace_s = grace_s
        self._selector = selectors.DefaultSelector()
        self._stopping, self._has_started, self._is_done = (threading.Event() for _ in range(3))
        self._exit_code = 0
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._keep, name="supervisor", daemon=True)

    def start(self) -> None:
        """Start in the background and return at once."""
        self._log_dir.mkdir(parents=True, exist_ok=True)
        self._log_dir.chmod(0o700)
        self._thread.start()

    def wait_until_ready(self, timeout_s: float) -> None:
        """Wait until the release has exited and every process is ready. Raises SupervisorError."""
        deadline = time.monotonic() + timeout_s
        self._await(self._has_started.is_set, deadline, "the release")
        for name, it in self._instances.items():
            if not it.process.is_release:
                self._await(it.process.is_ready or partial(self._is_running, name), deadline, name)

    def stop(self, grace_s: float | None = None) -> int:
        """Send SIGTERM to each process once, and SIGKILL to the groups left after the grace. Returns as `wait`."""
        if grace_s is not None:
            self._grace_s = grace_s
        self._stopping.set()
        return self.wait()

    def wait(self) -> int:
        """Wait until all processes have ended.

        Returns 0 if nothing had to be killed, else 1; the exit code of the release if that isn't 0.
        """
        if self._thread.ident is not None:
            # In short waits: a signal that arrives just before a wait is handled only when the wait returns.
            while not self._is_done.wait(LOOP_S):
                pass
        if self._error is not None:
            raise self._error
        return self._exit_code

    def run(self) -> int:
        """Run in the foreground until SIGINT or SIGTERM. Returns as `wait`.

        The signal may arrive several times (Ctrl-C, make, Procfile runners): each process gets one SIGTERM.
        """

        first = threading.Lock()

        def on_signal(_number: int, _frame: FrameType | None) -> None:
            # A second signal may arrive inside Event.set, whose lock isn't reentrant: only the first may enter.
            if first.acquire(blocking=False):
                self._stopping.set()

        before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            self.start()
            return self.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def pid_of(self, name: str) -> int | None:
        """Return the current process id; None while it isn't running."""
        popen = self._instances[name].popen
        return popen.pid if popen else None

    @contextmanager
    def started_with(self, name: str, variables: Mapping[str, str]) -> Iterator[None]:
        """Add variables to a process's environment whenever it is started inside the block. Of two blocks the first
        end counts.
        """
        it = self._instances[name]
        it.added_env = variables
        try:
            yield
        finally:
            it.added_env = {}

    def restarts(self, name: str) -> int:
        """Return how often it was restarted."""
        return self._instances[name].restarts

    def exit_codes(self) -> dict[str, int | None]:
        """Return each process's last exit code; negative for a signal, None if it never ended."""
        return {name: it.exit_code for name, it in self._instances.items()}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _is_running(self, name: str) -> bool:
        return self._instances[name].popen is not None

    def _await(self, condition: Callable[[], bool], deadline: float, what: str) -> None:
        while not condition():
            if self._is_done.is_set() or time.monotonic() > deadline:
                raise SupervisorError(f"{what} didn't start. Its log: {self._log_dir}/{what.split()[-1]}.log")
            time.sleep(0.02)

    # What follows runs in the supervisor's thread.

    def _keep(self) -> None:
        self._orphan_killer = OrphanKiller(self._grace_s)
        try:
            if self._release():
                for it in self._instances.values():
                    if not it.process.is_release:
                        self._spawn(it)
                self._has_started.set()
                while not self._stopping.is_set():
                    self._loop_once()
            self._stop_all()
        except BaseException as error:  # raised by wait; the OrphanKiller does the work of _stop_all
            self._error = error
        finally:
            self._orphan_killer.close()
            self._selector.close()
            if self._console is not None:
                self._console.close()
            self._is_done.set()

    def _release(self) -> bool:
        for it in self._instances.values():
            if it.process.is_release:
                self._spawn(it)
                while it.popen is not None and not self._stopping.is_set():
                    self._loop_once()
                if it.exit_code:
                    self._line(it, f"[supervisor] {describe_exit(it.exit_code)}; nothing else is started")
                    self._exit_code = max(it.exit_code, 1)  # that of a signal is negative
                    return False
        return not self._stopping.is_set()

    def _spawn(self, it: _Instance) -> None:
        # Finds the programs of our virtual environment even if it isn't activated.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        it.output_fd, write_end = os.pipe()
        os.set_blocking(it.output_fd, False)
        self._selector.register(it.output_fd, selectors.EVENT_READ, it)
        it.started_at, it.start_at = time.monotonic(), None
        try:
            it.popen = subprocess.Popen(
                dying_with_us(it.process.argv),
                stdin=subprocess.DEVNULL,
                stdout=write_end,
                stderr=write_end,
                env={**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1", **it.process.env, **it.added_env},
                pass_fds=it.process.pass_fds,
                start_new_session=True,  # a Ctrl-C in the terminal is ours to pass on, once
            )
        finally:
            os.close(write_end)
        self._orphan_killer.add(it.popen.pid)

    def _loop_once(self) -> None:
        """Wait a moment for output; then handle ended processes and due restarts."""
        for key, _ in self._selector.select(LOOP_S):
            if self._read(key.data) == b"":
                self._selector.unregister(key.fd)
        now = time.monotonic()
        for it in self._instances.values():
            if it.popen is not None and has_ended(it.popen.pid):
                self._handle_end(it, it.popen, now)
            elif it.start_at is not None and now >= it.start_at and not self._stopping.is_set():
                it.restarts += 1
                self._spawn(it)

    def _handle_end(self, it: _Instance, popen: "subprocess.Popen[bytes]", now: float) -> None:
        """Kill the rest of its group while its id is still reserved, reap it, and schedule a restart."""
        kill_group(popen.pid)
        it.exit_code = popen.wait()
        self._orphan_killer.remove(popen.pid)
        for _ in range(16):  # the rest of the pipe; limited, as a process that left the group may still write
            if not self._read(it):
                break
        with contextlib.suppress(KeyError):
            self._selector.unregister(it.output_fd)
        os.close(it.output_fd)
        if it.unfinished_line:
            self._line(it, it.unfinished_line.decode(errors="replace"))
        it.popen, it.unfinished_line = None, b""
        if self._stopping.is_set() or it.process.is_release:
            return
        pause_s = it.pause.after_life_of(now - it.started_at)
        it.start_at = now + pause_s
        self._line(it, f"[supervisor] {describe_exit(it.exit_code)}; restarting in {pause_s:g} s")

    def _stop_all(self) -> None:
        self._stopping.set()
        for it in self._instances.values():
            if it.popen is not None:
                os.kill(it.popen.pid, signal.SIGTERM)  # not popen.terminate, which may reap it
        deadline = time.monotonic() + self._grace_s
        while running := [it for it in self._instances.values() if it.popen is not None]:
            self._loop_once()
            if time.monotonic() > deadline:
                deadline = float("inf")
                self._exit_code = self._exit_code or 1
                for it in running:
                    if it.popen is not None:
                        self._line(it, f"[supervisor] still running {self._grace_s:g} s after SIGTERM: killed")
                        kill_group(it.popen.pid)

    def _read(self, it: _Instance) -> bytes | None:
        """Read the process's output; b"" at the end, None if there is nothing now."""
        try:
            data = os.read(it.output_fd, READ_BYTES)
        except BlockingIOError:
            return None
        *lines, it.unfinished_line = (it.unfinished_line + data).split(b"\n")
        if len(it.unfinished_line) > READ_BYTES:
            lines, it.unfinished_line = [*lines, it.unfinished_line], b""
        for line in lines:
            self._line(it, line.decode(errors="replace").rstrip("\r"))
        return data

    def _line(self, it: _Instance, text: str) -> None:
        with contextlib.suppress(OSError):  # a full disk must not stop a worker
            rotate_log(it.log_path, LOG_BYTES)
            with private_log(it.log_path) as log:
                log.write(f"{text}\n".encode())
        if self._on_line is not None:
            self._on_line(it.name, text)
        if self._console is not None:
            self._console.write(it.name, text)


class _ConsoleWriter:
    """Prints in its own thread: a stopped terminal (Ctrl-S) must not stop the supervisor."""

    def __init__(self, names: Sequence[str]) -> None:
        self._width = max(map(len, names), default=0)
        self._colours = dict(zip(names, itertools.cycle(COLOURS), strict=False))
        self._console = Console(highlight=False, soft_wrap=True)
        self._lines: queue.Queue[tuple[str, str] | None] = queue.Queue(CONSOLE_LINES)
        self._thread = threading.Thread(target=self._print, name="console", daemon=True)
        self._thread.start()

    def write(self, name: str, line: str) -> None:
        with contextlib.suppress(queue.Full):
            self._lines.put_nowait((name, line))

    def close(self) -> None:
        """Wait until the buffer is printed, as long as the terminal takes lines."""
        with contextlib.suppress(queue.Full):
            self._lines.put_nowait(None)
        left = -1
        while self._thread.is_alive() and self._lines.qsize() != left:
            left = self._lines.qsize()
            self._thread.join(STALLED_S)

    def _print(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # the reader is gone; the logs continue
            while (item := self._lines.get()) is not None:
                name, line = item
                prefix = Text(f"{name:<{self._width}} │ ", style=self._colours[name])
                self._console.print(prefix + Text.from_ansi(line))
