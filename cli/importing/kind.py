"""What an importable file is: its columns, the check of one row, and the statements that bring it in."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from cli.importing.layout import Column, Layout
from cli.importing.rows import CompleteRow
from shared.db.billing_events import Cause

Parameters = Mapping[str, Any]


@dataclass(frozen=True)
class FileKind:
    """Accounts, services or fees.

    `resolve` makes the temporary table `import_resolved` (line, action: new, changed or unchanged, and whatever
    `write` needs) and adds to `import_problems`; it may lock rows but changes none. After it, `import_good` shows
    the resolved rows without a problem. `write` brings those in; `notes` says what is odd about them but not bad.
    All run in one transaction, possibly more than once.
    """

    name: str
    columns: tuple[Column, ...]
    complete: CompleteRow
    staged: Mapping[str, str]  # values of a row that go into import_rows, with their SQL types
    resolve: Callable[[Connection, Parameters], None]
    write: Callable[[Connection, Parameters, Cause], None]
    notes: Callable[[Connection, Parameters], list[str]]
    has_amounts: bool = False

    def parameters(self, layout: Layout) -> dict[str, Any]:
        """Bind parameters for all statements: whether the file has a column, and the file's name for it."""
        flags = {f"has_{column.name}": layout.has(column.name) for column in self.columns}
        return flags | {f"named_{column.name}": layout.named(column.name) for column in self.columns}
