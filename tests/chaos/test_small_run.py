"""A small chaos run with real processes, from the command to its exit code and its reports."""

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
#: Limit for a busy machine; a run takes some 30 s.
TIMEOUT_S = 300


def start(out: Path, faults: int) -> "subprocess.Popen[str]":
    argv = [sys.executable, "-m", "cli", "chaos", "--faults", str(faults), "--seed", "1", "--out", str(out)]
    return subprocess.Popen(argv, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def test_a_small_run_keeps_every_promise(tmp_path: Path) -> None:
    chaos = start(tmp_path, 20)
    output, _ = chaos.communicate(timeout=TIMEOUT_S)
    assert chaos.returncode == 0, output
    report = json.loads((tmp_path / "chaos.json").read_text())
    assert report["is_clean"]
    assert report["captured_charges"] >= 20
    assert (report["double_charges"], report["forgotten_payments"], report["unsettled_attempts"]) == (0, 0, 0)
    assert set(report["differences_minor"].values()) == {0}
    assert report["verify"]["is_clean"]
    hit, planned = report["faults"]["hit"], report["faults"]["planned"]
    assert sum(planned.values()) == 20
    assert all(hit[kind] >= count for kind, count in planned.items()), f"{planned} planned, {hit} hit"
    plot = (tmp_path / "chaos.svg").read_text()
    assert "<svg" in plot
    assert "http://" not in plot.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    ), "the plot needs nothing from elsewhere"
    assert "double 0 · forgotten 0 · unsettled 0" in output


def test_an_interrupted_run_leaves_nothing_running(tmp_path: Path) -> None:
    chaos = start(tmp_path, 2_000)
    assert chaos.stdout is not None
    chaos.stdout.readline()  # the plan is printed: it starts
    deadline = time.monotonic() + TIMEOUT_S
    children: set[psutil.Process] = set()
    while not any("workers.actors" in " ".join(cmdline(one)) for one in children):
        assert time.monotonic() < deadline, "the workers never started"
        children |= set(psutil.Process(chaos.pid).children(recursive=True))
        time.sleep(0.1)
    os.kill(chaos.pid, signal.SIGINT)
    output, _ = chaos.communicate(timeout=TIMEOUT_S)
    assert chaos.returncode == 130, output
    assert "nothing is left running" in output
    left = [one for one in children if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    assert not left


def cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
