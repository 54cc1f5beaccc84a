"""For parents that may be killed: their children must not outlive them. Standard library only."""

import os
import subprocess
import sys
from collections.abc import Sequence

# Becomes the process itself: exec after asking for SIGTERM at the death of the parent (PR_SET_PDEATHSIG is 1).
# A program and not preexec_fn, which isn't safe in a process with threads.
_DIE_WITH_PARENT = """
import ctypes, os, signal, sys
signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and what we become would inherit that
ctypes.CDLL(None).prctl(1, 15, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent is gone")
try:
    os.execvp(sys.argv[2], sys.argv[2:])
except OSError as error:
    sys.exit(f"can't run {sys.argv[2]}: {error}")
"""

# Reads "+group" and "-group". At the end of input the parent is gone: wait for the grace, then kill.
_UNDERTAKER = """
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


def dying_with_us(argv: Sequence[str]) -> list[str]:
    """The command that runs `argv` such that the kernel sends it SIGTERM when the thread that starts it ends.

    Only Linux can; elsewhere it is `argv`, and the undertaker sends SIGTERM.
    """
    if sys.platform != "linux":
        return list(argv)
    return [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *argv]


class Undertaker:
    """A small process that kills, `grace_s` seconds after our death, what is left of the groups it was told of."""

    def __init__(self, grace_s: float) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _UNDERTAKER, str(grace_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def add(self, group: int) -> None:
        self._tell(f"+{group}\n")

    def remove(self, group: int) -> None:
        self._tell(f"-{group}\n")

    def close(self) -> None:
        """Dismiss it; returns when it is gone, at once if no group is left."""
        self._process.communicate()

    def _tell(self, order: str) -> None:
        assert self._process.stdin is not None  # noqa: S101  # for mypy: it is a pipe
        try:
            self._process.stdin.write(order.encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # somebody killed it; SIGTERM by the kernel remains
