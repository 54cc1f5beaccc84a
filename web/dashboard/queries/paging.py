"""Pages of a long list without counting through it: each begins at a row that was seen, its instant and id."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Row, literal, tuple_

#: Rows of a page.
PAGE = 50
#: An instant with microseconds and its offset, and an id: anything longer is no place of ours.
_LONGEST = 80


@dataclass(frozen=True)
class Place:
    """A row's place in a list that is ordered by an instant and an id, the newest first."""

    at: datetime
    id: UUID

    def __str__(self) -> str:
        return f"{self.at.isoformat()}_{self.id}"


@dataclass(frozen=True)
class Paging:
    """Which page: what comes after a place (older), or before one (newer); by default the newest."""

    after: Place | None = None
    before: Place | None = None

    def where(self, at: ColumnElement[datetime], id_: ColumnElement[UUID]) -> list[ColumnElement[bool]]:
        """Conditions that keep the rows beyond the place; an index on both columns begins right there."""
        row = tuple_(at, id_)
        if self.before is not None:
            return [row > tuple_(literal(self.before.at), literal(self.before.id))]
        if self.after is not None:
            return [row < tuple_(literal(self.after.at), literal(self.after.id))]
        return []

    def order(self, at: ColumnElement[datetime], id_: ColumnElement[UUID]) -> tuple[ColumnElement[Any], ...]:
        """The order to read in: away from the place."""
        return (at, id_) if self.before is not None else (at.desc(), id_.desc())


@dataclass(frozen=True)
class Found:
    """A page's rows, the newest first, and the places of the pages beside it, where there are any."""

    rows: Sequence[Row[Any]]
    newer: Place | None
    older: Place | None


def parse_place(said: str) -> Place | None:
    """Read a place as an address carries it; None for what isn't one."""
    at, _, id_ = said.partition("_")
    if len(said) > _LONGEST:
        return None
    try:
        moment, place_id = datetime.fromisoformat(at), UUID(id_)
    except ValueError:
        return None
    return None if moment.tzinfo is None else Place(moment, place_id)


def found(paging: Paging, read: Sequence[Row[Any]], at: str, size: int = PAGE) -> Found:
    """Make a page of `read`, which was read with one row more than fits. `at` names the column of the instant."""
    has_more, rows = len(read) > size, list(read[:size])
    if not rows:
        return Found((), None, None)
    is_backwards = paging.before is not None
    if is_backwards:
        rows.reverse()
    is_newest = not has_more if is_backwards else paging.after is None
    is_oldest = not is_backwards and not has_more
    first, last = rows[0], rows[-1]
    return Found(
        rows,
        newer=None if is_newest else Place(getattr(first, at), first.id),
        older=None if is_oldest else Place(getattr(last, at), last.id),
    )
