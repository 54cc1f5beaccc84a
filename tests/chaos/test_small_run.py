"""A few faults over a real company of real processes, from the command to its exit code and its reports."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.processes

ROOT = Path(__file__).resolve().parents[2]
#: What a machine with other things to do may take; it takes some 30 s.
PATIENCE_S = 300


def start(out: Path, faults: int) -> "subprocess.Popen[str]":
    argv = [sys.executable, "-m", "cli", "chaos", "--faults", str(faults), "--seed", "1", "--out", str(out)]
    return subprocess.Popen(argv, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def test_a_small_fire_ends_with_books_in_order(tmp_path: Path) -> None:
    chaos = start(tmp_path, 20)
    said, _ = chaos.communicate(timeout=PATIENCE_S)
    assert chaos.returncode == 0, said
    told = json.loads((tmp_path / "chaos.json").read_text())
    assert told["is_clean"]
    assert told["captured_charges"] >= 20
    assert (told["double_charges"], told["forgotten_payments"], told["unsettled_attempts"]) == (0, 0, 0)
    assert set(told["differences_minor"].values()) == {0}
    assert told["verify"]["is_clean"]
    hit, planned = told["faults"]["hit"], told["faults"]["planned"]
    assert sum(planned.values()) == 20
    assert all(hit[kind] >= count for kind, count in planned.items()), f"{planned} planned, {hit} hit"
    page = (tmp_path / "chaos.html").read_text()
    assert "<svg" in page
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    ), "the page needs nothing from elsewhere"
    assert "double 0 · forgotten 0 · unsettled 0" in said


def test_interrupted_it_leaves_nothing_running(tmp_path: Path) -> None:
    chaos = start(tmp_path, 2_000)
    assert chaos.stdout is not None
    chaos.stdout.readline()  # the plan is told: it starts
    deadline = time.monotonic() + PATIENCE_S
    family: set[psutil.Process] = set()
    while not any("workers.actors" in " ".join(cmdline(one)) for one in family):
        assert time.monotonic() < deadline, "the workers never started"
        family |= set(psutil.Process(chaos.pid).children(recursive=True))
        time.sleep(0.1)
    os.kill(chaos.pid, signal.SIGINT)
    said, _ = chaos.communicate(timeout=PATIENCE_S)
    assert chaos.returncode == 130, said
    assert "nothing is left running" in said
    left = [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    assert not left


def cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
