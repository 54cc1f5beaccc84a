"""How long a dead server stays down: longer each time while it dies at once, and not at all long otherwise."""

import subprocess
import sys
from typing import Any, cast

import pytest

from local.embedded import guard
from local.embedded.process import ParentWatch, Server, Spawner


class Deaths:
    """Stands for the spawner, and for the watch that ends the loop: each server that it starts is dead at once."""

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
def test_only_a_server_that_dies_at_its_start_waits_for_longer_and_longer(
    monkeypatch: pytest.MonkeyPatch, settled_s: float, pause_s: float
) -> None:
    monkeypatch.setattr(guard, "SETTLED_S", settled_s)
    server = cast(Server, type("Any", (), {"argv": (), "log": None, "death_signal": None, "stdin": b""}))
    running = guard.Running(server, dead())
    deaths = Deaths(3)
    guard._look_after([running], cast(Spawner, deaths), cast(ParentWatch, deaths))
    assert running.pause_s == pause_s
