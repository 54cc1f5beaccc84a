"""The rejects file: the bad rows as they came, with line, column, value and reason behind them.

Corrected, it can be imported with the same command: it names its columns as the original did, it is UTF-8 with a
mark that wins over --encoding, and the last four columns are ignored. Cells that a spreadsheet would run as a
formula have a ' in front, which is taken off again when such a file is imported.
"""

import contextlib
import csv
import os
import tempfile
from collections.abc import Callable, Iterator
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from cli.importing.layout import REJECT_COLUMNS, Layout
from cli.importing.rows import Problem, with_guard, without_guard
from cli.importing.source import UNREADABLE, Record, Source


class RejectsError(Exception):
    """The rejects file can't be written; the message says where and why."""


def check_place(path: Path, file: str) -> None:
    """Raise RejectsError now rather than after a long import."""
    if file != "-" and path.resolve() == Path(file).resolve():
        raise RejectsError(f"--rejects {path} is the imported file itself; give another name")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise RejectsError(f"{path.parent} can't be written to; give --rejects with another place")


def write_rejects(path: Path, source: Source, layout: Layout, problems: Iterator[Problem]) -> None:
    """Write every bad row once, in the file's order; the file appears complete or not at all, for its owner only.

    Reads the source once more. RejectsError if the disk says no or the source has changed meanwhile.
    """
    known_sha256 = source.sha256
    try:
        handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8-sig", newline="") as out:
                writer = csv.writer(out, delimiter=source.delimiter, lineterminator="\n")
                writer.writerow([*_own_columns(layout), *REJECT_COLUMNS])
                _write_rows(writer.writerow, source, layout, problems)
            if source.sha256 != known_sha256:
                raise RejectsError("the file changed while it was being imported; run the same command again")
            Path(draft).replace(path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                Path(draft).unlink()
    except OSError as error:
        raise RejectsError(f"{path} can't be written: {error.strerror or error}") from None


def _write_rows(
    write: Callable[[list[str]], object], source: Source, layout: Layout, problems: Iterator[Problem]
) -> None:
    records = source.records()
    for line, found in groupby(problems, key=attrgetter("line")):
        record = next((record for record in records if record.line >= line), None)
        if record is None or record.line != line:
            break
        together = list(found)
        cells = [*_own_cells(record, layout), str(line), *(_joined(together, each) for each in REJECT_COLUMNS[1:])]
        write([with_guard(cell).replace("\0", UNREADABLE) for cell in cells])
    for _ in records:  # to the end, for the checksum
        pass


def _own_columns(layout: Layout) -> tuple[str, ...]:
    return layout.header[: -len(REJECT_COLUMNS)] if layout.is_rejects_file else layout.header


def _own_cells(record: Record, layout: Layout) -> list[str]:
    """The row's cells under the original columns; a row that has others than these is whole in `value`."""
    columns = len(_own_columns(layout))
    if len(record.cells) != len(layout.header):
        return [""] * columns
    cells = record.cells[:columns]
    return [without_guard(cell) for cell in cells] if layout.is_rejects_file else cells


def _joined(problems: list[Problem], name: str) -> str:
    return "; ".join(getattr(problem, name) for problem in problems)
