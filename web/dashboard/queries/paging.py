"""Keyset pagination: each page starts at a cursor, the instant and id of a row already shown."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Row, literal, tuple_

#: Rows per page.
PAGE = 50
#: An instant with microseconds and offset, and an id: anything longer is no valid cursor.
_LONGEST = 80


@dataclass(frozen=True)
class Cursor:
    """A row's position in a list ordered by an instant and an id, newest first."""

    at: datetime
    id: UUID

    def __str__(self) -> str:
        return f"{self.at.isoformat()}_{self.id}"


@dataclass(frozen=True)
class Paging:
    """Which page: the rows after a cursor (older) or before one (newer); by default the newest."""

    after: Cursor | None = None
    before: Cursor | None = None

    def where(self, at: ColumnElement[datetime], id_: ColumnElement[UUID]) -> list[ColumnElement[bool]]:
        """Conditions that keep the rows beyond the cursor; an index on both columns starts right there."""
        row = tuple_(at, id_)
        if self.before is not None:
            return [row > tuple_(literal(self.before.at), literal(self.before.id))]
        if self.after is not None:
            return [row < tuple_(literal(self.after.at), literal(self.after.id))]
        return []

    def order(self, at: ColumnElement[datetime], id_: ColumnElement[UUID]) -> tuple[ColumnElement[Any], ...]:
        """The reading order: away from the cursor."""
        return (at, id_) if self.before is not None else (at.desc(), id_.desc())


@dataclass(frozen=True)
class ResultPage:
    """A page's rows, newest first, and the cursors of the newer and older pages, if there are any."""

    rows: Sequence[Row[Any]]
    newer: Cursor | None
    older: Cursor | None


def parse_cursor(text: str) -> Cursor | None:
    """Read a cursor from the URL; None if it is invalid."""
    at, _, id_ = text.partition("_")
    if len(text) > _LONGEST:
        return None
    try:
        moment, cursor_id = datetime.fromisoformat(at), UUID(id_)
    except ValueError:
        return None
    return None if moment.tzinfo is None else Cursor(moment, cursor_id)


def make_page(paging: Paging, read: Sequence[Row[Any]], at: str, size: int = PAGE) -> ResultPage:
    """Make a page of `read`, which has one row more if there is another page. `at` names the instant's column."""
    has_more, rows = len(read) > size, list(read[:size])
    if not rows:
        return ResultPage((), None, None)
    is_backwards = paging.before is not None
    if is_backwards:
        rows.reverse()
    is_newest = not has_more if is_backwards else paging.after is None
    is_oldest = not is_backwards and not has_more
    first, last = rows[0], rows[-1]
    return ResultPage(
        rows,
        newer=None if is_newest else Cursor(getattr(first, at), first.id),
        older=None if is_oldest else Cursor(getattr(last, at), last.id),
    )
