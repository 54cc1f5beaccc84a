"""Runs the processes of the Procfile: starts, logs, starts again what dies, and stops them all.

One thread does everything (the kernel's "tell the child when its parent dies" is about the parent's thread). If
the supervisor itself is killed, the kernel sends each process one SIGTERM, and the undertaker kills what is still
there after the grace.
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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Self

from rich.console import Console
from rich.text import Text

from local.embedded.orphans import Undertaker, dying_with_us

GRACE_S = 45.0  # above a worker's own 40 s: a charge in flight may finish and be recorded
TURN_S = 0.1  # an order to stop and the end of a process are seen at the latest after this
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 10.0  # before a start again; doubled each time
SETTLED_S = 30.0  # a process that lived this long has the first pause again
LOG_BYTES = 10_000_000  # then the log is put aside as .log.1, and the one before it is dropped
READ_BYTES = 65_536  # what a pipe holds; longer output without a newline is cut
STALLED_S = 3.0  # a terminal that takes no line for so long is stopped; a busy machine takes one
CONSOLE_LINES = 10_000  # waiting for a stopped terminal; beyond it lines are only in the logs
COLOURS = ("cyan", "green", "magenta", "yellow", "blue", "red")


class SupervisorError(RuntimeError):
    """A process didn't come up. The message names it and its log."""


@dataclass(frozen=True)
class Process:
    """One line of the Procfile."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)  # added to ours
    count: int = 1  # above 1 they are called name.1, name.2, …
    is_release: bool = False  # runs once, before the others, which need its exit 0
    is_ready: Callable[[], bool] | None = None  # asked by wait_until_ready; None: ready when started
    pass_fds: tuple[int, ...] = ()  # open files that it inherits, a listening socket say


def read_procfile(path: Path) -> list[Process]:
    """The processes of a Procfile, in its order; `release` is the one that runs first, once."""
    lines = (line.strip() for line in path.read_text().splitlines())
    pairs = (line.split(":", 1) for line in lines if line and not line.startswith("#"))
    # Through a shell, as every Procfile runner does, so that ${NAME:-default} works; exec keeps the process ours.
    return [
        Process(name.strip(), ["/bin/sh", "-c", f"exec {command.strip()}"], is_release=name.strip() == "release")
        for name, command in pairs
    ]


@dataclass
class _Instance:
    """A process as it runs now."""

    process: Process
    name: str
    log_path: Path
    popen: "subprocess.Popen[bytes] | None" = None
    output_fd: int = -1
    unfinished_line: bytes = b""
    exit_code: int | None = None  # of its last end; negative: the signal
    restarts: int = 0
    pause_s: float = FIRST_PAUSE_S
    started_at: float = 0.0
    start_at: float | None = None  # when it is to be started again


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
        """`on_line(name, line)` is called from the supervisor's thread; `quiet` keeps the console free.

        `longest_pause_s` bounds the pause before a process is started again.
        """
        self._instances: dict[str, _Instance] = {}
        for process in processes:
            for number in range(1, process.count + 1):
                name = process.name if process.count == 1 else f"{process.name}.{number}"
                self._instances[name] = _Instance(process, name, log_dir / f"{name}.log")
        self._log_dir = log_dir
        self._on_line = on_line
        self._console = None if quiet else _ConsoleWriter(list(self._instances))
        self._grace_s = grace_s
        self._longest_pause_s = longest_pause_s
        self._selector = selectors.DefaultSelector()
        self._stopping, self._has_started, self._is_done = (threading.Event() for _ in range(3))
        self._exit_code = 0
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._keep, name="supervisor", daemon=True)

    def start(self) -> None:
        """Begin, and return at once."""
        self._log_dir.mkdir(parents=True, exist_ok=True)
        self._thread.start()

    def wait_until_ready(self, timeout_s: float) -> None:
        """Wait until the releases are through and every process is ready. Raises SupervisorError."""
        deadline = time.monotonic() + timeout_s
        self._await(self._has_started.is_set, deadline, "the release")
        for name, it in self._instances.items():
            if not it.process.is_release:
                self._await(it.process.is_ready or partial(self._is_running, name), deadline, name)

    def stop(self, grace_s: float | None = None) -> int:
        """SIGTERM to each process once; SIGKILL to the group of what is left after the grace. Returns as `wait`."""
        if grace_s is not None:
            self._grace_s = grace_s
        self._stopping.set()
        return self.wait()

    def wait(self) -> int:
        """Wait for the end of everything.

        Returns 0 after a stop in which nothing had to be killed, else 1, or what a failed release exited with.
        """
        if self._thread.ident is not None:
            # In turns: a signal that arrives just before we begin to wait is handled only when we look up again.
            while not self._is_done.wait(TURN_S):
                pass
        if self._error is not None:
            raise self._error
        return self._exit_code

    def run(self) -> int:
        """In the foreground: until SIGINT or SIGTERM. Returns as `wait`.

        They may come more than once (Ctrl-C, make and Procfile runners pass them on): each process gets one.
        """

        first = threading.Lock()

        def on_signal(_number: int, _frame: FrameType | None) -> None:
            # A second signal may come inside Event.set, whose lock isn't reentrant: only the first may enter.
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
        """The process id now; None while it isn't running."""
        popen = self._instances[name].popen
        return popen.pid if popen else None

    def restarts(self, name: str) -> int:
        """How often it was started again."""
        return self._instances[name].restarts

    def exit_codes(self) -> dict[str, int | None]:
        """What each process last exited with; negative is the signal, None when it never ended."""
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
                raise SupervisorError(f"{what} didn't come up. Its log: {self._log_dir}/{what.split()[-1]}.log")
            time.sleep(0.02)

    # What follows runs in the supervisor's thread.

    def _keep(self) -> None:
        self._undertaker = Undertaker(self._grace_s)
        try:
            if self._release():
                for it in self._instances.values():
                    if not it.process.is_release:
                        self._spawn(it)
                self._has_started.set()
                while not self._stopping.is_set():
                    self._turn()
            self._stop_all()
        except BaseException as error:  # raised again by wait; the undertaker does what _stop_all would have
            self._error = error
        finally:
            self._undertaker.close()
            self._selector.close()
            if self._console is not None:
                self._console.close()
            self._is_done.set()

    def _release(self) -> bool:
        for it in self._instances.values():
            if it.process.is_release:
                self._spawn(it)
                while it.popen is not None and not self._stopping.is_set():
                    self._turn()
                if it.exit_code:
                    self._line(it, f"[supervisor] {_how(it.exit_code)}; nothing else is started")
                    self._exit_code = max(it.exit_code, 1)  # a signal's is negative
                    return False
        return not self._stopping.is_set()

    def _spawn(self, it: _Instance) -> None:
        # Programs of our own virtual environment are found without its activation.
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
                env={**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1", **it.process.env},
                pass_fds=it.process.pass_fds,
                start_new_session=True,  # a Ctrl-C in the terminal is ours to pass on, once
            )
        finally:
            os.close(write_end)
        self._undertaker.add(it.popen.pid)

    def _turn(self) -> None:
        """Wait a moment for output; then look who ended and who is to start again."""
        for key, _ in self._selector.select(TURN_S):
            if self._read(key.data) == b"":
                self._selector.unregister(key.fd)
        now = time.monotonic()
        for it in self._instances.values():
            if it.popen is not None and _has_ended(it.popen.pid):
                self._bury(it, it.popen, now)
            elif it.start_at is not None and now >= it.start_at and not self._stopping.is_set():
                it.restarts += 1
                self._spawn(it)

    def _bury(self, it: _Instance, popen: "subprocess.Popen[bytes]", now: float) -> None:
        """Take the leftovers of its group along while its number is still its own, then plan a new start."""
        _kill_group(popen.pid)
        it.exit_code = popen.wait()
        self._undertaker.remove(popen.pid)
        for _ in range(16):  # what the pipe still holds; a bound, as something may have left the group and write on
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
        if now - it.started_at >= SETTLED_S:
            it.pause_s = FIRST_PAUSE_S
        it.start_at = now + it.pause_s
        self._line(it, f"[supervisor] {_how(it.exit_code)}; starting it again in {it.pause_s:g} s")
        it.pause_s = min(it.pause_s * 2, self._longest_pause_s)

    def _stop_all(self) -> None:
        self._stopping.set()
        for it in self._instances.values():
            if it.popen is not None:
                os.kill(it.popen.pid, signal.SIGTERM)  # not popen.terminate, which may reap
        deadline = time.monotonic() + self._grace_s
        while running := [it for it in self._instances.values() if it.popen is not None]:
            self._turn()
            if time.monotonic() > deadline:
                deadline = float("inf")
                self._exit_code = self._exit_code or 1
                for it in running:
                    if it.popen is not None:
                        self._line(it, f"[supervisor] still running {self._grace_s:g} s after SIGTERM: killed")
                        _kill_group(it.popen.pid)

    def _read(self, it: _Instance) -> bytes | None:
        """Take what the process has written; b"" at the end, None when there is nothing now."""
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
        with contextlib.suppress(OSError):  # a full disk stops no worker
            if it.log_path.exists() and it.log_path.stat().st_size > LOG_BYTES:
                it.log_path.replace(it.log_path.with_suffix(".log.1"))
            with it.log_path.open("a") as log:
                log.write(text + "\n")
        if self._on_line is not None:
            self._on_line(it.name, text)
        if self._console is not None:
            self._console.write(it.name, text)


class _ConsoleWriter:
    """Prints from a thread of its own: a terminal that is stopped (Ctrl-S) must not stop the supervisor."""

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
        """Wait for what is still to be printed, as long as the terminal takes any of it."""
        with contextlib.suppress(queue.Full):
            self._lines.put_nowait(None)
        left = -1
        while self._thread.is_alive() and self._lines.qsize() != left:
            left = self._lines.qsize()
            self._thread.join(STALLED_S)

    def _print(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # nobody reads any more; the logs go on
            while (item := self._lines.get()) is not None:
                name, line = item
                prefix = Text(f"{name:<{self._width}} │ ", style=self._colours[name])
                self._console.print(prefix + Text.from_ansi(line))


def _has_ended(pid: int) -> bool:
    """Whether it ended, without reaping it: so its number stays taken until its group is gone too."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _kill_group(pid: int) -> None:
    with contextlib.suppress(OSError):
        os.killpg(pid, signal.SIGKILL)


def _how(exit_code: int) -> str:
    return f"ended by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"exited with {exit_code}"
