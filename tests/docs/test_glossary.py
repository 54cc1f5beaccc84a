"""docs/glossary.md has an entry for every term that the code shows: the lists come from the code, not from here."""

import re
from collections.abc import Iterable
from enum import StrEnum
from inspect import getmembers, isclass
from itertools import pairwise

import pytest
from sqlalchemy import CheckConstraint

import shared.db.tables.invoices
import shared.db.tables.operators
import shared.db.tables.payments
import shared.db.tables.system  # noqa: F401  # together they fill the metadata
from shared.db.columns import metadata
from shared.domain import states
from shared.domain.declines import DeclineCategory
from shared.domain.roles import Role
from shared.messaging import jobs
from tests.docs.names import ROOT
from web.dashboard.request_context import NAVIGATION

PAGE = (ROOT / "docs" / "glossary.md").read_text("utf-8")
TEMPLATES = ROOT / "web" / "dashboard" / "templates"
SECTIONS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))


def is_ours(name: str, what: type[object]) -> bool:
    return issubclass(what, StrEnum) and what is not StrEnum and what.__name__ == name  # not its short alias


#: Every enumeration whose words are stored or shown.
ENUMS = [
    *(enum for name, enum in getmembers(states, isclass) if is_ours(name, enum)),
    Role,
    DeclineCategory,
]
#: Tables in which a null means something about money.
MONEY_TABLES = ("payments", "payment_intents", "payment_attempts", "receipts", "invoices", "runs", "stripe_events")


def rows(heading: str) -> list[list[str]]:
    """Return the cells of a section's tables, without their heads."""
    lines = SECTIONS[heading].splitlines()
    of_tables = [line for line, below in pairwise([*lines, ""]) if line.startswith("| ") and "|---" not in below]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in of_tables]


def terms(heading: str) -> list[str]:
    return [term.strip().strip("`") for row in rows(heading) for term in row[0].split(",")]


def is_explained(words: Iterable[str], heading: str) -> None:
    assert sorted(terms(heading)) == sorted(words), (
        f"docs/glossary.md, {heading}: add, rename or take out its entry"
    )


def test_every_entry_says_something_once() -> None:
    for heading in SECTIONS:
        assert rows(heading), heading
        assert all(all(row) for row in rows(heading)), heading
    for heading in set(SECTIONS) - {"Other words in the database"}:
        assert len(terms(heading)) == len(set(terms(heading))), heading


@pytest.mark.parametrize("enum", ENUMS, ids=lambda enum: enum.__name__)
def test_every_word_of_an_enumeration_is_explained(enum: type[StrEnum]) -> None:
    is_explained(enum, re.sub(r"(?<=[a-z])(?=[A-Z])", " ", enum.__name__).capitalize())


def test_every_other_word_that_a_column_may_hold_is_explained() -> None:
    of_enums = [{str(word) for word in enum} for enum in ENUMS]
    allowed = {
        (f"{table.name}.{match[1]}", word)
        for table in metadata.tables.values()
        for check in table.constraints
        if isinstance(check, CheckConstraint) and (match := re.fullmatch(r"(\w+) IN \((.*)\)", str(check.sqltext)))
        if (words := set(re.findall(r"'(\w+)'", match[2]))) not in of_enums
        for word in words
    }
    assert {
        (column.strip("`"), word.strip("`")) for word, column, _ in rows("Other words in the database")
    } == allowed


def test_every_table_is_explained() -> None:
    is_explained(metadata.tables, "Tables")


def test_every_column_that_may_be_null_on_the_way_of_money_is_explained() -> None:
    nullable = {
        f"{name}.{column.name}"
        for name in MONEY_TABLES
        for column in metadata.tables[name].columns
        if column.nullable
    }
    existing = {f"{table.name}.{column.name}" for table in metadata.tables.values() for column in table.columns}
    assert nullable - set(terms("Columns")) == set()
    assert set(terms("Columns")) - existing == set()


def test_every_queue_and_job_is_explained() -> None:
    is_explained(jobs.QUEUES, "Queues")
    names = {
        job.name for _, job in getmembers(jobs, isclass) if isinstance(getattr(job, "name", None), str)
    }  # the protocol's is a property
    is_explained([*names, jobs.MONTHLY_INVOICES, jobs.DAILY_RETRIES, jobs.RECONCILIATION], "Jobs")


def test_every_page_of_the_dashboard_is_explained() -> None:
    titles = {
        title
        for template in TEMPLATES.glob("*.html")
        for title in re.findall(r"{% block title %}([\w ]+){% endblock %}", template.read_text("utf-8"))
    }
    pages = {name for _, name, _ in NAVIGATION} | titles - {"Charge a payment now"}  # an action, not a page's name
    assert pages - set(terms("Pages of the dashboard")) == set()
