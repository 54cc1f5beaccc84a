"""`duecourse up` and `duecourse demo` as a newcomer meets them: a folder, a terminal, Ctrl-C."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from shared.settings import Settings
from tests.processes.conftest import PATIENCE_S, ROOT

pytestmark = pytest.mark.processes

DUECOURSE = [sys.executable, "-m", "cli"]
NOT_OURS = {str(field.validation_alias) for field in Settings.model_fields.values()}
#: Above the processes' own grace; an idle `up` is gone after some two seconds.
STOPPED_WITHIN_S = 50.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a company begins with: a folder with its policy in it."""
    shutil.copy(ROOT / "billing.toml", tmp_path)
    return tmp_path


def environment() -> dict[str, str]:
    """As on a machine where nothing of ours is set; our programs are found as after an installation."""
    kept = {name: value for name, value in os.environ.items() if name not in NOT_OURS}
    return {
        **kept,
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }


def duecourse(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """A second terminal in the same folder."""
    return subprocess.run(
        [*DUECOURSE, *arguments],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Up:
    """A terminal in which `duecourse up` runs, and every process below it that was ever seen."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._says = (folder / "terminal.txt").open("wb")
        self.process = subprocess.Popen(
            [*DUECOURSE, "up"], cwd=folder, env=environment(), stdout=self._says, stderr=self._says
        )
        self.family: set[psutil.Process] = set()

    def wait_until_ready(self) -> dict[str, str]:
        """Wait for /readyz, asked at the address that `env` tells; returns what `env` tells."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            assert self.process.poll() is None, f"it ended: {self.said()}"
            assert time.monotonic() < deadline, f"not ready: {self.said()}"
            running = self._folder / ".duecourse" / "up.json"
            if running.exists():
                in_force: dict[str, str] = json.loads(running.read_text())["environment"]
                try:
                    if httpx.get(f"http://127.0.0.1:{in_force['PORT']}/readyz", trust_env=False).is_success:
                        break
                except httpx.HTTPError:
                    pass
            time.sleep(0.05)
        self.family |= set(psutil.Process(self.process.pid).children(recursive=True))
        return in_force

    def interrupt(self) -> int:
        """Press Ctrl-C; returns the exit code."""
        self.family |= set(psutil.Process(self.process.pid).children(recursive=True))
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(STOPPED_WITHIN_S)

    def left_running(self) -> list[str]:
        return [" ".join(process.cmdline()) for process in self.family if is_alive(process)]

    def said(self) -> str:
        logs = [self._folder / "terminal.txt", *sorted((self._folder / ".duecourse" / "logs").glob("*.log"))]
        return "\n".join(f"--- {log.name}\n{log.read_text(errors='replace')[-2_000:]}" for log in logs)


@contextmanager
def running_up(folder: Path) -> Iterator[Up]:
    up = Up(folder)
    try:
        yield up
    finally:
        if up.process.poll() is None:
            up.process.terminate()
            up.process.wait(STOPPED_WITHIN_S)
        for process in filter(is_alive, up.family):
            process.kill()


def test_up_in_a_fresh_folder_serves_a_second_terminal_stops_at_ctrl_c_and_starts_again(folder: Path) -> None:
    with running_up(folder) as up:
        in_force = up.wait_until_ready()
        told = duecourse(folder, "env", "--json")
        assert json.loads(told.stdout) == in_force
        shell = subprocess.run(
            ["sh", "-c", 'eval "$("$0" -m cli env)" && printf %s "$DATABASE_URL"', sys.executable],
            cwd=folder, env=environment(), capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert shell.stdout == in_force["DATABASE_URL"]
        for command in ("doctor", "verify"):
            done = duecourse(folder, command)
            assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}\n{up.said()}"
        names = {process.name() for process in up.family}
        assert "postgres" in names
        assert names & {"valkey-server", "redis-server"}
        assert up.interrupt() == 0, up.said()
        assert up.left_running() == []
        assert duecourse(folder, "env").returncode == 1, "nothing runs, and env says so"

    with running_up(folder) as again:
        assert again.wait_until_ready()["DATABASE_URL"] == in_force["DATABASE_URL"], "the same data"
        assert again.interrupt() == 0, again.said()
        assert again.left_running() == []


def test_the_demo_keeps_its_promises_and_leaves_nothing_running(folder: Path) -> None:
    before = {process.pid for process in psutil.process_iter()}
    done = duecourse(folder, "demo", "--accounts", "12")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "double charges: 0 · forgotten: 0" in done.stdout
    ours = str(folder)
    left = [
        process.cmdline()
        for process in psutil.process_iter(["cmdline", "cwd"])
        if process.pid not in before and ours in f"{process.info['cwd']} {process.info['cmdline']}"
    ]
    assert left == []
