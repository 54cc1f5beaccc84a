"""CONTRIBUTING.md names the tests that there are, and the tiers that make knows."""

import re

from tests.docs.names import ROOT

PAGE = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")


def test_every_folder_of_tests_is_listed_once() -> None:
    table = PAGE.split("| folder below `tests/` |")[1].split("\n\n")[0]
    listed = [
        name for row in re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    ]
    assert sorted(listed) == sorted(folder.parent.name for folder in (ROOT / "tests").glob("*/__init__.py"))


def test_every_make_target_that_is_named_exists() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    named = {
        name for page in pages for name in re.findall(r"^`?make ([a-z-]+)|`make ([a-z-]+)", page.read_text("utf-8"))
    }
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    assert {name for pair in named for name in pair if name} <= targets


def test_the_fast_tier_is_made_of_folders_that_exist() -> None:
    folders = re.findall(r"^FAST := (.*)$", MAKEFILE, re.MULTILINE)[0].split()
    assert folders
    assert all((ROOT / folder / "__init__.py").exists() for folder in folders)
