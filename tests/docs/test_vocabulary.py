"""Retired names stay retired: they are left in migrations, in stored values and in what old links need."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
#: Retired name → the name of the field that took its place (docs/glossary.md).
RETIRED = {
    r"aftermath": "outcome handlers",
    r"in doubt": "unknown",
    r"somebody": "a user, an operator, a customer or another process",
    r"whoever": "the user or process",
    r"armoury": "fault queue",
    r"crash[ _-]?points?": "failpoint",
    r"ending_as": "pending_close_as",
    r"trail": "billing events",
    r"TrailEvent": "BillingEvent",
    r"what_next": "next step",
    r"lane_pauses": "queue_pauses",
    r"process_beats": "heartbeats",
}
#: History, and rows or messages as releases wrote them.
EXEMPT = (
    "migrations/versions/",
    "docs/decisions/",
    "CHANGELOG.md",
    "requirements.txt",
    "tests/docs/test_vocabulary.py",
    "tests/migrations/",
    "tests/failures/released_messages.jsonl",
)


def texts() -> Iterator[tuple[str, str]]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for path in listed.splitlines():
        if not path.startswith(EXEMPT) and Path(path).suffix in {".py", ".md", ".toml", ".html", ""}:
            yield path, (ROOT / path).read_text("utf-8")


@pytest.mark.parametrize("retired", RETIRED)
def test_a_retired_name_is_used_nowhere(retired: str) -> None:
    name = re.compile(rf"(?<![A-Za-z])(?:{retired})(?![A-Za-z])", re.IGNORECASE)
    found = [
        f"{path}:{number}: {line.strip()}"
        for path, text in texts()
        for number, line in enumerate(text.splitlines(), 1)
        if name.search(line)
    ]
    assert found == [], f"say {RETIRED[retired]!r}"
