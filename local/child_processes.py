"""Shared by the supervisor and the servers' guard: process groups, death with the parent, restarts, log files.

Standard library only: the guard starts without site-packages. Why there are two process keepers:
docs/decisions/0022-two-process-keepers.md.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

FIRST_PAUSE_S = 0.2  # before the first restart; doubled at each further one
LOG_BYTES = 10_000_000  # a longer log is renamed to .log.1, and the one before it is dropped
PR_SET_PDEATHSIG = 1  # linux/prctl.h

# Becomes the process itself: exec after asking for SIGTERM at the death of the parent (PR_SET_PDEATHSIG is 1).
# A program and not preexec_fn, which isn't safe in a process with threads.
_DIE_WITH_PARENT = """
import ctypes, os, signal, sys
signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and the program would inherit that
ctypes.CDLL(None).prctl(1, 15, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent is gone")
try:
    os.execvp(sys.argv[2], sys.argv[2:])
except OSError as error:
    sys.exit(f"can't run {sys.argv[2]}: {error}")
"""

# Reads "+group" and "-group". At the end of input the parent is gone: wait for the grace, then kill.
_ORPHAN_KILLER = """
import os, signal, sys, time
groups = set()
for line in sys.stdin:
    (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
def tell(number, call=os.killpg):
    for group in list(groups):
        try:
            call(group, number)
        except OSError:
            groups.discard(group)
if sys.platform != "linux":
    tell(signal.SIGTERM, os.kill)
end = time.monotonic() + float(sys.argv[1])
while groups and time.monotonic() < end:
    tell(0)
    time.sleep(0.05)
tell(signal.SIGKILL)
"""


def kill_group(pid: int) -> None:
    """SIGKILL the group that the process leads; nothing happens if there is none any more."""
    with contextlib.suppress(OSError):
        os.killpg(pid, signal.SIGKILL)


def has_ended(pid: int) -> bool:
    """Whether a child has ended. It isn't reaped: its id stays reserved until its group is killed, too."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def is_alive(pid: int) -> bool:
    """Whether any process runs; a zombie doesn't."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    return stat.rpartition(")")[2].split()[0] != "Z"


def describe_exit(exit_code: int) -> str:
    """Describe a return code of subprocess, in which a negative number is a signal."""
    return f"ended by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"exited with {exit_code}"


def private_log(log: Path) -> BinaryIO:
    """Open a log to append to. Only its owner may read it: an error may name a customer."""
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.fchmod(descriptor, 0o600)  # one that an earlier release made
    return os.fdopen(descriptor, "ab")


def rotate_log(log: Path, max_bytes: int = LOG_BYTES) -> None:
    """Rename a log that is longer than `max_bytes`; one old log is kept."""
    if log.exists() and log.stat().st_size > max_bytes:
        log.replace(log.with_suffix(".log.1"))


@dataclass
class RestartPause:
    """The pause before a restart: doubled at each, and the first one again for a process that lived `settled_s`."""

    longest_s: float
    settled_s: float
    next_s: float = field(default=FIRST_PAUSE_S, init=False)

    def after_life_of(self, lived_s: float) -> float:
        """Return the pause after a process that lived so long, and double the next one."""
        if lived_s >= self.settled_s:
            self.next_s = FIRST_PAUSE_S
        pause_s = self.next_s
        self.next_s = min(pause_s * 2, self.longest_s)
        return pause_s


def load_prctl() -> Callable[..., int] | None:
    """Load prctl before any fork; None on systems other than Linux."""
    if not sys.platform.startswith("linux"):
        return None
    prctl: Callable[..., int] = ctypes.CDLL(None).prctl
    return prctl


def dying_with_us(argv: Sequence[str]) -> list[str]:
    """Wrap `argv` so that the kernel sends it SIGTERM when the thread that starts it ends.

    Only Linux can do that; elsewhere this returns `argv`, and the OrphanKiller sends SIGTERM.
    """
    if sys.platform != "linux":
        return list(argv)
    return [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *argv]


class OrphanKiller:
    """A small process that, `grace_s` seconds after our death, kills what is left of the groups it was given."""

    def __init__(self, grace_s: float) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _ORPHAN_KILLER, str(grace_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def add(self, group: int) -> None:
        self._send(f"+{group}\n")

    def remove(self, group: int) -> None:
        self._send(f"-{group}\n")

    def close(self) -> None:
        """End it and wait for it; it ends at once if no group is left."""
        self._process.communicate()

    def _send(self, order: str) -> None:
        assert self._process.stdin is not None  # noqa: S101  # for mypy: it is a pipe
        try:
            self._process.stdin.write(order.encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it was killed; the kernel's SIGTERM still works
