"""docs/invariants.md names what enforces each invariant and what tries to break it, and every name exists."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from tests.docs.names import ROOT, names_in

PAGE = (ROOT / "docs" / "invariants.md").read_text("utf-8")
NUMBERS = range(1, 16)
SECTIONS = {
    int(number): section
    for number, section in re.findall(r"^## I(\d+) .*?\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
}
CODE = ("shared", "workers", "web", "scheduler", "cli", "local", "simulator", "migrations", "tests")
RENAMED = "renamed or removed: change docs/invariants.md with it"

#: Everything that refuses a row: indexes, constraints and triggers.
GUARDS = text("""
    SELECT relname FROM pg_class WHERE relkind = 'i' AND relnamespace = 'public'::regnamespace
    UNION SELECT conname FROM pg_constraint WHERE connamespace = 'public'::regnamespace
    UNION SELECT tgname FROM pg_trigger WHERE NOT tgisinternal
""")


def names_under(section: str, heading: str) -> list[str]:
    """Return what stands in backticks in one bullet of a section."""
    bullet = re.search(rf"^- \*\*{heading}\*\*(.*?)(?=^- |\Z)", section, re.MULTILINE | re.DOTALL)
    assert bullet is not None, f"each invariant says what it is {heading.lower()}"
    return re.findall(r"`([^`]+)`", bullet[1])


def cited_invariants() -> Iterator[tuple[str, int]]:
    for folder in CODE:
        for file in sorted((ROOT / folder).rglob("*.py")):
            for number in re.findall(r"\bI(\d+)\b", file.read_text("utf-8")):
                yield file.relative_to(ROOT).as_posix(), int(number)


def test_all_fifteen_are_there() -> None:
    assert list(SECTIONS) == list(NUMBERS)
    listed = re.findall(r"^\| \[I(\d+)\]\(#(i\d+[\w-]*)\)", PAGE, re.MULTILINE)
    assert [int(number) for number, _ in listed] == list(NUMBERS)
    headings = re.findall(r"^## (I\d+ .*)$", PAGE, re.MULTILINE)
    anchors = [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings]
    assert [anchor for _, anchor in listed] == anchors


@pytest.mark.parametrize("number", NUMBERS)
def test_what_enforces_an_invariant_exists(engine: Engine, number: int) -> None:
    names = names_under(SECTIONS[number], "Enforced by")
    with engine.connect() as connection:
        guards = set(connection.scalars(GUARDS))
    missing = [name for name in names if not ("::" in name and is_in_code(name)) and name not in guards]
    assert names
    assert not missing, RENAMED


@pytest.mark.parametrize("number", NUMBERS)
def test_what_tries_to_break_an_invariant_exists(number: int) -> None:
    names = names_under(SECTIONS[number], "Tested by")
    assert names
    assert all(name.startswith("tests/") and "::test_" in name for name in names)
    assert not [name for name in names if not is_in_code(name)], RENAMED


def test_code_cites_only_invariants_of_the_page() -> None:
    assert {(file, number) for file, number in cited_invariants() if number not in NUMBERS} == set()


def test_every_invariant_is_cited_by_the_code_that_keeps_it() -> None:
    cited = {number for file, number in cited_invariants() if not file.startswith(("tests/", "migrations/"))}
    assert cited == set(NUMBERS)


def is_in_code(name: str) -> bool:
    path, _, what = name.partition("::")
    return (ROOT / Path(path)).is_file() and what in names_in(path)
