"""Run tests against the working tree with a guard removed, each time in a pytest process of its own."""

import os
import signal
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CHILD_PROCESSES = Path(__file__).with_name("child_processes")
#: Longer than any selection takes on a busy machine (s); what hangs is not caught, it hangs.
TIME_LIMIT_S = 900
#: Tests that kill servers, and so need their own.
OWN_SERVERS = ("processes/", "embedded/", "chaos/")


class NotJudgedError(Exception):
    """The tests said nothing about the breakage: they didn't run, or didn't get as far as their first line."""


@dataclass(frozen=True)
class Verdict:
    """What one pytest run said: the node ids (from `tests/` on) that ran, and those of them that went red."""

    ran: frozenset[str]
    red: tuple[str, ...]

    def has_caught(self, test: str, *, is_every_case: bool) -> bool:
        """Whether a named test went red: one of its cases, or each."""
        cases = [node for node in self.ran if node == test or node.startswith(f"{test}[")]
        red = [node for node in cases if node in self.red]
        return bool(red) and (not is_every_case or len(red) == len(cases))


def run_tests(selection: Sequence[str], servers: Mapping[str, str], breakage: str = "") -> Verdict:
    """Run tests (from `tests/` on) with a guard removed, if one is named. NotJudgedError if they couldn't be run.

    `servers` are the URLs of running ones, which saves seconds; tests that kill servers start their own.
    """
    groups: tuple[tuple[list[str], Mapping[str, str]], ...] = (
        ([test for test in selection if not test.startswith(OWN_SERVERS)], servers),
        ([test for test in selection if test.startswith(OWN_SERVERS)], {}),
    )
    verdicts = [_run_group(group, {**environment, "BREAK": breakage}) for group, environment in groups if group]
    return Verdict(
        frozenset().union(*(verdict.ran for verdict in verdicts)),
        tuple(node for verdict in verdicts for node in verdict.red),
    )


def _run_group(selection: Sequence[str], environment: Mapping[str, str]) -> Verdict:
    with tempfile.TemporaryDirectory(prefix="duecourse-breakages-") as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "--tb=short", "-p", "no:cacheprovider"]
        command += ["-p", "tests.breakages.plugin", f"--junitxml={report}"]
        with (Path(folder) / "output.txt").open("w+") as output:
            ended = _run([*command, *(f"tests/{test}" for test in selection)], output.fileno(), environment)
            output.seek(0)
            told = output.read()
        if ended not in (0, 1):  # 1: some went red; all else: interrupted, or nothing could be collected
            raise NotJudgedError(f"pytest ended with {ended}:\n{told[-3000:]}")
        return _read(report)


def _run(command: Sequence[str], output: int, environment: Mapping[str, str]) -> int:
    paths = os.pathsep.join((str(ROOT), str(CHILD_PROCESSES)))
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **environment, "PYTHONPATH": paths},
        stdout=output,
        stderr=output,
        start_new_session=True,
    )
    try:
        return process.wait(TIME_LIMIT_S)
    except subprocess.TimeoutExpired:
        raise NotJudgedError(f"the tests didn't end within {TIME_LIMIT_S} s") from None
    finally:
        if process.poll() is None:  # ours: a session of its own, and so a group of its own
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _read(report: Path) -> Verdict:
    ran: list[str] = []
    red: list[str] = []
    for case in ElementTree.parse(report).iter("testcase"):  # noqa: S314  # pytest wrote it
        node = f"{case.get('classname', '').removeprefix('tests.').replace('.', '/')}.py::{case.get('name')}"
        error = case.find("error")
        # At its end a diary verifies its records: red there is red. At the start nothing was tested yet.
        if error is not None and "on teardown" not in error.get("message", ""):
            raise NotJudgedError(f"{node} didn't get as far as its first line:\n{(error.text or '')[-3000:]}")
        ran.append(node)
        if error is not None or case.find("failure") is not None:
            red.append(node)
    return Verdict(frozenset(ran), tuple(dict.fromkeys(red)))
