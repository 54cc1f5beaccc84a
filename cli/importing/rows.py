"""From a record to the values of one row, with everything that is wrong with it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cli.importing.cells import BadCellError
from cli.importing.layout import Field, Layout
from cli.importing.source import UNREADABLE, Record

#: A cell that starts with one of these is a formula to a spreadsheet (OWASP, CSV injection); wide ones included.
FORMULA_SIGNS = frozenset("=+-@\t\r＝＋－＠")

#: Part of every reason that calls a row a duplicate of another row of its file.
DUPLICATE = "is a duplicate"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a row: the file's line and column, what stands there, and why that can't be used."""

    line: int
    column: str
    value: str
    reason: str


class Row:
    """One row while it is read: values by our column names (None: empty or unusable) and what is wrong with it."""

    def __init__(self, layout: Layout, line: int) -> None:
        self._layout = layout
        self.line = line
        self.values: dict[str, Any] = {}
        self.problems: list[Problem] = []

    def has(self, name: str) -> bool:
        """Whether the file has this column at all; what it doesn't have stays as it is in the database."""
        return self._layout.has(name)

    def refuse(self, name: str, value: str, reason: str) -> None:
        """Report a cell and take its value out, so that no later check builds on it."""
        self.problems.append(Problem(self.line, self._layout.named(name), value, reason))
        self.values[name] = None


#: Checks that need more than one cell; may add values and refuse cells.
CompleteRow = Callable[[Row], None]


class RowReader:
    """Reads records with one layout."""

    def __init__(self, layout: Layout, complete: CompleteRow) -> None:
        self._layout = layout
        self._complete = complete

    def read(self, record: Record) -> tuple[Mapping[str, Any] | None, list[Problem]]:
        """Return the row's values, None if its cells can't be told apart, and all its problems."""
        broken = self._whole_row(record)
        if broken is not None:
            return None, [broken]
        row = Row(self._layout, record.line)
        for found in self._layout.fields:
            _read_cell(row, found, self._text(record, found))
        if record.is_undecodable or any("\0" in cell for cell in record.cells):
            self._unreadable_cells(row, record)
        if self._layout.is_rejects_file:
            self._still_duplicate(row, record)
        self._complete(row)
        return row.values, row.problems

    def _text(self, record: Record, found: Field) -> str:
        if found.index is None:
            return found.constant
        text = record.cells[found.index]
        if self._layout.is_rejects_file:
            text = without_guard(text)
        text = text.strip()
        return found.translations.get(text, text)

    def _whole_row(self, record: Record) -> Problem | None:
        if record.trouble is not None and not record.is_undecodable:
            return Problem(record.line, "", record.text, record.trouble)
        cells, columns = len(record.cells), len(self._layout.header)
        if cells != columns:
            reason = f"has {cells} cells where the first line has {columns}"
            reason += "; put a cell that holds the separator into quotes" if cells > columns else ""
            return Problem(record.line, "", record.text, record.trouble or reason)
        return None

    def _still_duplicate(self, row: Row, record: Record) -> None:
        """A duplicate that comes back as it was would quietly replace the row that it duplicates."""
        *_, value, reason = record.cells
        key = next(found for found in self._layout.fields if found.column.name in ("id", "account"))
        text = self._text(record, key)
        if DUPLICATE in reason and text and text in value:
            row.refuse(
                key.column.name,
                text,
                "was a duplicate and still is; give the row an id of its own, or empty its cell in the column "
                "reason to let it replace the other one",
            )

    def _unreadable_cells(self, row: Row, record: Record) -> None:
        """Name the cells; one that nobody asked for counts too, because the whole row was then misread."""
        known = {problem.column for problem in row.problems}
        before = len(row.problems)
        for name, cell in zip(self._layout.header, record.cells, strict=True):
            if record.is_undecodable and UNREADABLE in cell:
                row.problems = [problem for problem in row.problems if problem.column != name]
                row.problems.append(Problem(record.line, name, cell, record.trouble or ""))
            elif "\0" in cell and name not in known:
                row.problems.append(Problem(record.line, name, cell, "holds the control character U+0000"))
        if record.is_undecodable and len(row.problems) == before == 0:
            row.problems.append(Problem(record.line, "", record.text, record.trouble or ""))


def _read_cell(row: Row, found: Field, text: str) -> None:
    name = found.column.name
    if not text:
        row.values[name] = None
        if found.column.is_required:
            row.refuse(name, "", "is empty; every row needs a value here")
        return
    try:
        row.values[name] = found.column.read(text)
    except BadCellError as error:
        row.refuse(name, text, str(error))


def with_guard(cell: str) -> str:
    """Put a ' before what a spreadsheet would run as a formula."""
    return f"'{cell}" if cell.lstrip("'")[:1] in FORMULA_SIGNS and cell.lstrip("'") else cell


def without_guard(cell: str) -> str:
    """Undo `with_guard`, so that a mended rejects file gives back the ids that it was made from."""
    return cell[1:] if cell.startswith("'") and with_guard(cell) != cell else cell
