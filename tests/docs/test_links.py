"""Every link in the documents leads somewhere, and every document is reached from the README."""

import re
from functools import cache
from pathlib import Path

import pytest

from tests.docs.names import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\]\(([^)\s]+)\)")
#: From the README, a newcomer is at any document's links after so many clicks.
CLICKS = 2


@cache
def links(page: Path) -> tuple[str, ...]:
    """Return the targets of a page's links into this repository."""
    return tuple(target for target in LINK.findall(page.read_text("utf-8")) if "://" not in target)


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page: Path) -> None:
    broken = []
    for target in links(page):
        path, _, anchor = target.partition("#")
        to = (page.parent / path).resolve() if path else page
        if not to.exists() or (anchor and anchor not in anchors(to)):
            broken.append(target)
    assert broken == []


def test_every_document_is_reached_from_the_readme() -> None:
    reached = frontier = {ROOT / "README.md"}
    for _ in range(CLICKS):
        frontier = {
            (page.parent / target.partition("#")[0]).resolve() for page in frontier for target in links(page)
        }
        frontier = {page for page in frontier if page in PAGES}
        reached = reached | frontier
    assert set(PAGES) - reached == set()
