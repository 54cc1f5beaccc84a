"""`duecourse up` and `duecourse demo` as a new user runs them: a folder, a terminal, Ctrl-C."""

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
#: Longer than the processes' grace; an idle `up` ends after some two seconds.
STOPPED_WITHIN_S = 50.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A new company's folder, with its policy."""
    shutil.copy(ROOT / "billing.toml", tmp_path)
    return tmp_path


def environment() -> dict[str, str]:
    """The environment of a machine without our variables, with our programs on PATH."""
    kept = {name: value for name, value in os.environ.items() if name not in NOT_OURS}
    return {
        **kept,
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }


def duecourse(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a command as in a second terminal in the same folder."""
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
    """`duecourse up` as in a terminal, and all its child processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._terminal = (folder / "terminal.txt").open("wb")
        self.process = subprocess.Popen(
            [*DUECOURSE, "up"], cwd=folder, env=environment(), stdout=self._terminal, stderr=self._terminal
        )
        self.family: set[psutil.Process] = set()

    def wait_until_ready(self) -> dict[str, str]:
        """Wait for /readyz at the address that `env` prints; returns the environment."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            assert self.process.poll() is None, f"it ended: {self.output()}"
            assert time.monotonic() < deadline, f"not ready: {self.output()}"
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


def test_up_runs_in_a_fresh_folder_stops_at_ctrl_c_and_starts_again(folder: Path) -> None:
    with running_up(folder) as up:
        in_force = up.wait_until_ready()
        printed = duecourse(folder, "env", "--json")
        assert json.loads(printed.stdout) == in_force
        shell = subprocess.run(
            ["sh", "-c", 'eval "$("$0" -m cli env)" && printf %s "$DATABASE_URL"', sys.executable],
            cwd=folder, env=environment(), capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert shell.stdout == in_force["DATABASE_URL"]
        for command in ("doctor", "verify"):
            done = duecourse(folder, command)
            assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}\n{up.output()}"
        # A session of PostgreSQL that was one of the family may have ended by now.
        names = {process.name() for process in up.family if is_alive(process)}
        assert "postgres" in names
        assert names & {"valkey-server", "redis-server"}
        assert up.interrupt() == 0, up.output()
        assert up.left_running() == []
        assert duecourse(folder, "env").returncode == 1, "env reports that nothing runs"

    with running_up(folder) as again:
        assert again.wait_until_ready()["DATABASE_URL"] == in_force["DATABASE_URL"], "the same data"
        assert again.interrupt() == 0, again.output()
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
