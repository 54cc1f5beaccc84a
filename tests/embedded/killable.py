"""Owners that can be killed, and checks of what they leave running."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

REPOSITORY = Path(__file__).parents[2]
OWNER = Path(__file__).with_name("owner.py")
DEADLINE_S = 20.0


def eventually(condition: Callable[[], object], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Poll until true; fail with `what` after the deadline."""
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {deadline_s:g} s: {what}"
        time.sleep(0.01)


def is_running(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def is_guard(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return "local.embedded.guard" in process.cmdline()
    return False


def holders(folder: Path) -> list[psutil.Process]:
    """Every process that has the folder's lock open: the guard and all its descendants."""
    lock = str(folder / "lock")
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if lock in {file.path for file in process.open_files()}:
                found.append(process)
    return found


@dataclass
class Owner:
    """A process that runs embedded servers; `family` is the guard and its descendants."""

    process: "subprocess.Popen[str]"
    folder: Path
    answer: dict[str, str]
    family: list[psutil.Process]

    @property
    def guard(self) -> psutil.Process:
        return self.family[0]

    def server(self, name: str) -> psutil.Process:
        return next(p for p in self.guard.children() if name in p.name())

    def assert_nothing_is_left(self) -> None:
        eventually(lambda: not any(map(is_running, self.family)), f"end of {self.family}")
        eventually(lambda: not holders(self.folder), f"release of {self.folder}")


def start_owner(folder: Path, way: str = "wait", python: str = sys.executable, **options: object) -> Owner:
    """Start owner.py and wait until its servers answer, or for its error."""
    process = start_owner_only(folder, way, python, **options)
    assert process.stdout is not None
    answer = json.loads(process.stdout.readline())
    try:
        guard = next(p for p in psutil.Process(process.pid).children() if is_guard(p))
        family = [guard, *guard.children(recursive=True)]
    except (psutil.NoSuchProcess, StopIteration):  # some owners end at once
        family = []
    return Owner(process, folder, answer, family)


def start_owner_only(
    folder: Path, way: str, python: str = sys.executable, **options: object
) -> "subprocess.Popen[str]":
    path = f"{REPOSITORY}{os.pathsep}{Path(psutil.__file__).parents[1]}"  # ours, and the wheels
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
        [python, str(OWNER), str(folder), way],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environ,
        **options,
    )
