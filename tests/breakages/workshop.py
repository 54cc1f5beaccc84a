"""Where things are broken: a copy of the checkout, an edit in it, and pytest on it, in processes of its own."""

import os
import shutil
import signal
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from alembic.script import ScriptDirectory

from tests.breakages.breakage import Breakage

ROOT = Path(__file__).resolve().parents[2]
#: Longer than any selection takes on a busy machine (s); what hangs isn't caught, it hangs.
TIME_LIMIT_S = 900
#: Comes after every other migration, whatever their number.
LAST_MIGRATION = "migrations/versions/9999_broken_on_purpose.py"
#: Tests that kill servers, and so need their own.
OWN_SERVERS = ("processes/", "embedded/", "chaos/")
#: Beside everything whose name begins with a dot: what tools leave behind.
NOT_COPIED = ("__pycache__", "*.egg-info", "build", "mutants")


class NotJudgedError(Exception):
    """The tests said nothing about the breakage: they didn't run, or didn't get as far as their first line."""


@dataclass(frozen=True)
class Verdict:
    """What one pytest run said: the node ids (from `tests/` on) that ran, and those of them that went red."""

    ran: frozenset[str]
    red: tuple[str, ...]

    def red_of(self, test: str) -> list[str]:
        """The red cases of a named test; a parametrised one has several."""
        return [node for node in self.red if node == test or node.startswith(f"{test}[")]


def copy_checkout(source: Path, target: Path) -> None:
    """Copy the project's files, tracked or not, without caches, data and the virtual environment."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(".*", *NOT_COPIED), symlinks=True)


def apply(breakage: Breakage, folder: Path) -> None:
    """Edit a copy. ValueError if an edit doesn't fit exactly once."""
    for patch in breakage.patches:
        path = folder / patch.file
        path.write_text(patch.applied_to(path.read_text()))
    if breakage.sql:
        (folder / LAST_MIGRATION).write_text(migration(breakage.sql, head_of(folder)))


def head_of(folder: Path) -> str:
    """The revision of the newest migration."""
    (head,) = ScriptDirectory(str(folder / "migrations")).get_heads()
    return head


def migration(statements: Sequence[str], after: str) -> str:
    """The text of a migration that runs `statements` after revision `after`."""
    lines = "".join(f"    op.execute({statement!r})\n" for statement in statements)
    return (
        '"""Broken on purpose."""\n\nfrom alembic import op\n\n'
        f'revision = "9999"\ndown_revision = "{after}"\nbranch_labels = None\ndepends_on = None\n\n\n'
        f"def upgrade() -> None:\n{lines}"
    )


def run_tests(folder: Path, selection: Sequence[str], servers: Mapping[str, str]) -> Verdict:
    """Run tests (from `tests/` on) in a copy. NotJudgedError if they couldn't be run or didn't end.

    `servers` are the URLs of running ones, which saves seconds; tests that kill servers start their own.
    """
    groups: tuple[tuple[list[str], Mapping[str, str]], ...] = (
        ([test for test in selection if not test.startswith(OWN_SERVERS)], servers),
        ([test for test in selection if test.startswith(OWN_SERVERS)], {}),
    )
    verdicts = [_run_tests(folder, group, environment) for group, environment in groups if group]
    return Verdict(
        frozenset().union(*(verdict.ran for verdict in verdicts)),
        tuple(node for verdict in verdicts for node in verdict.red),
    )


def _run_tests(folder: Path, selection: Sequence[str], servers: Mapping[str, str]) -> Verdict:
    report = folder / "report.xml"
    command = [sys.executable, "-m", "pytest", "--tb=short", "-p", "no:cacheprovider", f"--junitxml={report}"]
    with (folder / "output.txt").open("w+") as output:
        ended = _run(folder, [*command, *(f"tests/{test}" for test in selection)], output.fileno(), servers)
        output.seek(0)
        told = output.read()
    if ended not in (0, 1):  # 1: some went red; all else: interrupted, or nothing could be collected
        raise NotJudgedError(f"pytest ended with {ended}:\n{told[-3000:]}")
    return _read(report)


def _run(folder: Path, command: Sequence[str], output: int, servers: Mapping[str, str]) -> int:
    environment = {
        **os.environ,
        **servers,
        "PYTHONPATH": str(folder),  # before whatever the virtual environment has installed of us
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=output, stderr=output, start_new_session=True
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
        # At its end a diary audits its books: red there is red. At the start nothing was tested yet.
        if error is not None and "on teardown" not in error.get("message", ""):
            raise NotJudgedError(f"{node} didn't get as far as its first line:\n{(error.text or '')[-3000:]}")
        ran.append(node)
        if error is not None or case.find("failure") is not None:
            red.append(node)
    return Verdict(frozenset(ran), tuple(dict.fromkeys(red)))
