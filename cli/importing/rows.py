"""From a record to the validated values of one row, and everything that is wrong with it."""

from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from pydantic import ValidationError

from cli.importing.cells import FORMULA_SIGNS, reason_of
from cli.importing.kind import FileKind, ImportRow, draft_of
from cli.importing.layout import Layout
from cli.importing.source import UNREADABLE, Record

#: Part of every reason that calls a row a duplicate of another row of its file.
DUPLICATE = "is a duplicate"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a row: the file's line and column, what stands there, and why that can't be used."""

    line: int
    column: str
    value: str
    reason: str


#: The reason of each unreadable row after a quote that is probably never closed: told once, for all of them.
AFTER_UNCLOSED = "can't be read, because a quote before it is never closed"


class RowReader:
    """Reads the records of one file."""

    def __init__(self, layout: Layout, kind: FileKind) -> None:
        self._layout = layout
        self._kind = kind
        self._constants = {found.name: found.constant for found in layout.fields if found.index is None}
        self._cells = [
            (found.name, found.index, found.translations) for found in layout.fields if found.index is not None
        ]
        # A fee needs an id only if the file has ids.
        self._never_empty = {name for name, each in kind.model.model_fields.items() if each.is_required()} | {"id"}
        self._values = attrgetter(*kind.columns)
        #: The line of a quote that is probably never closed, and how many rows after it can't be read.
        self.unclosed_at: int | None = None
        self.after_unclosed = 0

    def read(self, record: Record) -> tuple[tuple[Any, ...] | None, list[Problem]]:
        """Return the line and the values to stage, None if the cells can't be told apart, and all problems.

        A cell with a problem is staged as NULL, so that no later check builds on it.
        """
        broken = self._whole_row(record)
        if broken is not None:
            return None, [broken]
        texts = self._texts(record)
        row, problems = self._validated(record.line, texts)
        if record.is_undecodable or any("\0" in cell for cell in record.cells):
            problems = self._with_unreadable_cells(record, problems)
        if self._layout.is_rejects_file:
            self._refuse_same_duplicate(record, texts, row, problems)
        written = (texts[name] if getattr(row, name) is not None else None for name in self._kind.as_written)
        return (record.line, *self._values(row), *written), problems

    def _texts(self, record: Record) -> dict[str, str]:
        """The cells by our column names, without the empty ones that may be empty."""
        texts = dict(self._constants)
        for name, index, translations in self._cells:
            text = record.cells[index]
            if self._layout.is_rejects_file:
                text = without_guard(text)
            text = text.strip()
            if translations:
                text = translations.get(text, text)
            if text or name in self._never_empty:
                texts[name] = text
        return texts

    def _validated(self, line: int, texts: dict[str, str]) -> tuple[ImportRow, list[Problem]]:
        try:
            return self._kind.model.model_validate(texts, context=self._kind.context), []
        except ValidationError as invalid:
            errors = {str(error["loc"][0]): error for error in invalid.errors(include_url=False)}
        good = {name: text for name, text in texts.items() if name not in errors}
        problems = [
            Problem(line, self._layout.named(name), texts[name], reason_of(error)) for name, error in errors.items()
        ]
        return draft_of(self._kind.model).model_validate(good, context=self._kind.context), problems

    def _whole_row(self, record: Record) -> Problem | None:
        reason = self._why_no_row(record)
        if reason is None:
            return None
        if self.unclosed_at is not None:
            self.after_unclosed += 1
            return Problem(record.line, "", record.text, AFTER_UNCLOSED)
        if "\n" in record.text:  # a cell that goes on over several lines: the rows after it are misread, too
            self.unclosed_at = record.line
            reason = f"{reason}; is a quote in line {record.line} never closed?"
        return Problem(record.line, "", record.text, reason)

    def _why_no_row(self, record: Record) -> str | None:
        """Return why the record's cells can't be told apart; None if they can."""
        if record.trouble is not None and not record.is_undecodable:
            return record.trouble
        cells, columns = len(record.cells), len(self._layout.header)
        if cells != columns:
            reason = f"has {cells} cells where the first line has {columns}"
            reason += "; put a cell that holds the separator into quotes" if cells > columns else ""
            return record.trouble or reason
        return None

    def _refuse_same_duplicate(
        self, record: Record, texts: dict[str, str], row: ImportRow, problems: list[Problem]
    ) -> None:
        """A rejected duplicate that comes again unchanged would silently replace the row that it duplicates."""
        *_, value, reason = record.cells
        key = "id" if self._layout.has("id") else "account"
        text = texts[key]
        if DUPLICATE in reason and text and text in value:
            setattr(row, key, None)
            advice = (
                "was a duplicate and still is; give the row an id of its own, or empty its cell in the column "
                "reason to let it replace the other one"
            )
            problems.append(Problem(record.line, self._layout.named(key), text, advice))

    def _with_unreadable_cells(self, record: Record, problems: list[Problem]) -> list[Problem]:
        """Name the cells; one in a column that isn't used counts too, because the whole row was then misread."""
        known = {problem.column for problem in problems}
        found = list(problems)
        for name, cell in zip(self._layout.header, record.cells, strict=True):
            if record.is_undecodable and UNREADABLE in cell:
                found = [problem for problem in found if problem.column != name]
                found.append(Problem(record.line, name, cell, record.trouble or ""))
            elif "\0" in cell and name not in known:
                found.append(Problem(record.line, name, cell, "holds the control character U+0000"))
        if record.is_undecodable and not found:
            found.append(Problem(record.line, "", record.text, record.trouble or ""))
        return found


def with_guard(cell: str) -> str:
    """Put a ' before what a spreadsheet would run as a formula."""
    return f"'{cell}" if cell.lstrip("'")[:1] in FORMULA_SIGNS and cell.lstrip("'") else cell


def without_guard(cell: str) -> str:
    """Undo `with_guard`, so that a corrected rejects file gives back the ids that it was made from."""
    return cell[1:] if cell.startswith("'") and with_guard(cell) != cell else cell
