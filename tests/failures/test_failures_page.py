"""docs/failures.md names a test in each row, and every test that it names is there."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
PAGE = (TESTS.parent / "docs" / "failures.md").read_text()
NAMED = re.findall(r"`([\w/]+\.py)::(\w+)`", PAGE)
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| fault |")]
FAULTS_WITH_ANOTHERS_PROOF = {"SIGTERM later than 5 s after the first"}


@cache
def names_in(path: str) -> set[str]:
    tree = ast.parse((TESTS / path).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


@pytest.mark.parametrize("path", sorted({path for path, _ in NAMED}))
def test_every_test_named_on_the_page_exists(path: str) -> None:
    assert {name for of, name in NAMED if of == path} - names_in(path) == set(), (
        "rename it in docs/failures.md, too"
    )


def test_every_row_of_the_page_names_a_test() -> None:
    assert len(ROWS) > 30
    without = {row.split("|")[1].strip() for row in ROWS if "::test_" not in row}
    assert without == FAULTS_WITH_ANOTHERS_PROOF


def test_every_test_of_this_folder_has_a_row() -> None:
    """But for those about the page itself and about single numbers."""
    ours = {
        (f"failures/{file.name}", name)
        for file in (TESTS / "failures").glob("test_*.py")
        if file != Path(__file__)
        for name in names_in(f"failures/{file.name}")
    }
    assert ours - set(NAMED) == {
        ("failures/test_clocks.py", "test_event_waiting_for_an_operator_is_not_enqueued"),
        (
            "failures/test_database_locks.py",
            "test_session_timeouts_fit_into_the_time_limit_and_the_lease",
        ),
    }
