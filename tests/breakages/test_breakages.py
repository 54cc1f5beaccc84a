"""The catalogue keeps up with the code: seams and named tests exist. `make breakages` shows what goes red."""

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from sqlalchemy import Engine

from shared.db.columns import metadata
from shared.scheduling.due_work import DUE_WORK
from tests.breakages.breakage import Breakage
from tests.breakages.catalogue import BREAKAGES, MISSES_SOURCE, find
from tests.breakages.run import ROOT, Verdict
from tests.breakages.seams import Rewrite, Sql, Wrap, replaced, unlocked

INVARIANTS = {f"I{number}" for number in range(1, 16)}


@pytest.mark.parametrize("breakage", BREAKAGES, ids=lambda one: one.name)
def test_its_seams_and_its_tests_exist(breakage: Breakage) -> None:
    assert breakage.seams
    for seam in breakage.seams:
        if isinstance(seam, Wrap):
            _, _, before = seam.find()
            assert seam.by(before) is not before
    assert breakage.caught_by
    for test in breakage.caught_by:
        file, name = test.split("::")
        assert name in functions_in(ROOT / "tests" / file), test


def test_every_change_of_the_database_finds_what_it_removes(engine: Engine) -> None:
    for breakage in BREAKAGES:
        with engine.connect() as connection:
            for seam in breakage.seams:
                if isinstance(seam, Sql):
                    seam.execute(connection)
            connection.rollback()


def test_names_are_unique_and_plain() -> None:
    assert [name for name, count in Counter(one.name for one in BREAKAGES).items() if count > 1] == []
    assert all(re.fullmatch(r"[a-z0-9-]+", one.name) for one in BREAKAGES)
    with pytest.raises(LookupError, match="no breakage 'x'"):
        find("x")


def test_every_invariant_is_violated_by_some_breakage() -> None:
    assert {invariant for one in BREAKAGES for invariant in one.invariants} == INVARIANTS


def test_proof_names_every_breakage_and_no_other() -> None:
    section = (ROOT / "docs" / "proof.md").read_text("utf-8").partition("## Guards removed on purpose")[2]
    named = {name for name in re.findall(r"`([a-z0-9-]+)`", section) if not name.endswith("-")}
    assert named == {one.name for one in BREAKAGES if not one.name.startswith("sweep-without-")}


def test_every_source_of_due_work_has_a_test_that_misses_it() -> None:
    assert list(MISSES_SOURCE) == [source.name for source in DUE_WORK]


@pytest.mark.parametrize("seam", [seam for one in BREAKAGES for seam in one.seams if isinstance(seam, Rewrite)])
def test_a_rewriting_changes_one_of_our_statements(seam: Rewrite) -> None:
    lock = "SELECT id FROM {} \nWHERE id = 1 FOR NO KEY UPDATE"
    statements = [lock.format(table) for table in metadata.tables]
    statements += ["SELECT pg_advisory_xact_lock(1)", "SELECT f.id FROM fees f FOR UPDATE OF f"]
    statements += ["INSERT INTO runs (id) VALUES (1) ON CONFLICT (job, period, coverage) DO NOTHING"]
    assert sum(seam.by(statement) != statement for statement in statements) == 1


def test_locks_and_what_matches_are_taken_out_of_statements() -> None:
    by = unlocked("runs").by
    assert by("SELECT id FROM runs WHERE id = 1 FOR UPDATE SKIP LOCKED") == "SELECT id FROM runs WHERE id = 1"
    assert by("SELECT id FROM fees, runs FOR UPDATE") == "SELECT id FROM fees, runs FOR UPDATE"
    assert replaced("b+", "x").by("abba") == "axa"


def test_a_verdict_knows_the_cases_of_a_test() -> None:
    ran = frozenset({"a.py::test_x[1]", "a.py::test_x[2]", "a.py::test_x_and_y"})
    verdict = Verdict(ran, ("a.py::test_x[1]",))
    assert verdict.has_caught("a.py::test_x", is_every_case=False)
    assert not verdict.has_caught("a.py::test_x", is_every_case=True)
    assert not verdict.has_caught("a.py::test_x_and_y", is_every_case=False)


@cache
def functions_in(path: Path) -> frozenset[str]:
    """The names of the test functions in a file."""
    return frozenset(node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef))
