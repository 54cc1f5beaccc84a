"""The pause before a restart grows only while a server dies during its start."""

import subprocess
import sys
from typing import Any, cast

import pytest

from local.embedded import guard
from local.embedded.process import ParentWatch, Server, Spawner


class DyingServers:
    """Replaces the spawner and the watch: its servers die at once; the loop ends after `count`."""

    def __init__(self, count: int) -> None:
        self.left = count

    def spawn(self, *_: Any) -> "subprocess.Popen[bytes]":
        self.left -= 1
        return dead()

    def is_gone(self, _wait_s: float) -> bool:
        return self.left == 0


def dead() -> "subprocess.Popen[bytes]":
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process


@pytest.mark.parametrize(("settled_s", "pause_s"), [(1_000.0, 1.6), (0.0, 0.4)])
def test_pauses_grow_only_for_a_server_that_dies_during_its_start(
    monkeypatch: pytest.MonkeyPatch, settled_s: float, pause_s: float
) -> None:
    monkeypatch.setattr(guard, "SETTLED_S", settled_s)
    server = cast(Server, type("Any", (), {"argv": (), "log": None, "death_signal": None, "stdin": b""}))
    running = guard.Running(server, dead())
    servers = DyingServers(3)
    guard._keep_running([running], cast(Spawner, servers), cast(ParentWatch, servers))
    assert running.pause.next_s == pause_s
