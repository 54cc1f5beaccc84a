"""docs/architecture.md shows the layers as import-linter holds them, and files that exist."""

import re
import tomllib

from shared.messaging.jobs import QUEUES, RELEASED_QUEUES
from tests.docs.names import ROOT

PAGE = (ROOT / "docs" / "architecture.md").read_text("utf-8")
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]


def section(heading: str) -> str:
    return PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def first_cells(heading: str) -> list[str]:
    """Return the first cells of a section's table, without its head."""
    return re.findall(r"^\| ([^|]+?) \|", section(heading), re.MULTILINE)[1:]


def layers() -> list[list[str]]:
    """Return the packages of each layer, the topmost first."""
    ordered: list[list[str]] = []
    for contract in CONTRACTS:
        if contract["type"] == "layers":
            prefix = f"{contract['containers'][0]}." if "containers" in contract else ""
            ordered += [[prefix + name.strip() for name in layer.split("|")] for layer in contract["layers"]]
    return [layer for layer in ordered if layer != ["shared"]]  # its own contract says more


def main_path() -> list[str]:
    """Return the files that a newcomer reads, in order."""
    return re.findall(r"^\| \[`([\w/.]+)`\]", section("The main path, in five minutes"), re.MULTILINE)


def test_the_layers_are_those_of_import_linter() -> None:
    shown = [re.findall(r"`([\w.]+)`", cell) for cell in first_cells("Layers")]
    assert [sorted(layer) for layer in shown] == [sorted(layer) for layer in layers()]


def test_every_queue_is_shown_with_the_workers_that_take_from_it() -> None:
    shown = re.findall(r"^\| `(\w+)` \|.*\| ([\w-]+) \|$", section("Queues"), re.MULTILINE)
    procfile = (ROOT / "Procfile").read_text("utf-8")
    takes = re.findall(r"^(worker-\w+):.*--queues ([\w ]+?) --", procfile, re.MULTILINE)
    assert sorted(shown) == sorted(
        (queue, worker) for worker, queues in takes for queue in queues.split() if queue not in RELEASED_QUEUES
    )
    assert {queue for queue, _ in shown} == set(QUEUES)


def test_the_commonest_changes_say_which_files() -> None:
    changes = first_cells("Where does it go?")
    assert len(changes) >= 10
    rows = [line for line in section("Where does it go?").splitlines() if line.startswith("| ")][1:]
    assert all("](" in row for row in rows)


def test_the_main_path_is_twelve_files_at_most() -> None:
    assert 8 <= len(main_path()) <= 12


def test_every_file_that_is_named_exists() -> None:
    named = re.findall(r"`([\w./]+\.(?:py|toml|json|html|md))`", PAGE)
    missing = {name for name in named if "/" in name and not (ROOT / name).exists()}
    assert missing == set()
