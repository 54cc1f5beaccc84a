"""The list keeps up with the code: every breakage still fits, and the tests that it names are there.

Whether they go red is what `python -m tests.breakages` shows; that takes minutes.
"""

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from tests.breakages.breakage import Breakage, Patch
from tests.breakages.catalogue import BREAKAGES
from tests.breakages.workshop import ROOT, Verdict, head_of, migration


def test_every_statement_finds_what_it_breaks(engine: Engine) -> None:
    for breakage in BREAKAGES:
        with engine.connect() as connection:
            for statement in breakage.sql:
                connection.execute(text(statement))
            connection.rollback()


@pytest.mark.parametrize("breakage", BREAKAGES, ids=lambda one: one.name)
def test_the_tests_that_catch_it_exist(breakage: Breakage) -> None:
    assert breakage.caught_by
    for test in breakage.caught_by:
        file, name = test.split("::")
        assert name.partition("[")[0] in functions_in(ROOT / "tests" / file), test


def test_names_are_unique_and_plain() -> None:
    assert [name for name, count in Counter(one.name for one in BREAKAGES).items() if count > 1] == []
    assert all(re.fullmatch(r"[a-z0-9_-]+", one.name) for one in BREAKAGES)
    assert all(one.patches or one.sql for one in BREAKAGES)


def test_an_edit_that_does_not_fit_says_so() -> None:
    patch = Patch("x.py", "a", "b")
    assert patch.applied_to("cat") == "cbt"
    for source in ("dog", "banana"):
        with pytest.raises(ValueError, match="not one"):
            patch.applied_to(source)


def test_a_broken_migration_comes_after_all_others() -> None:
    tree = ast.parse(migration(("DROP INDEX x",), head_of(ROOT)))
    values = {
        node.targets[0].id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
    }
    assert values["down_revision"] == max(
        path.name[:4] for path in (ROOT / "migrations" / "versions").glob("0*.py")
    )


def test_a_verdict_knows_the_cases_of_a_test() -> None:
    verdict = Verdict(frozenset(), ("a.py::test_x[1]", "a.py::test_x_and_y"))
    assert verdict.red_of("a.py::test_x") == ["a.py::test_x[1]"]
    assert verdict.red_of("a.py::test_x[1]") == ["a.py::test_x[1]"]
    assert verdict.red_of("a.py::test_x[2]") == []


@cache
def functions_in(path: Path) -> frozenset[str]:
    """The names of the test functions in a file."""
    return frozenset(node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef))
