"""What an importable file is: the model of its rows, and the statements that write them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from functools import cache
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, create_model
from sqlalchemy import Connection

from cli.importing.cells import RowContext
from shared.db.billing_events import Cause
from shared.policy import Policy

Parameters = Mapping[str, Any]

_SQL_TYPES = {str: "text", date: "date", bool: "boolean", int: "bigint"}


class ImportRow(BaseModel):
    """One row. The fields are our columns; a required field is a column that every file and every row must have.

    Fields are validated in order, so that a cell which depends on another one stands behind it.
    """

    model_config = ConfigDict(use_enum_values=True)


@cache
def draft_of(model: type[ImportRow]) -> type[ImportRow]:
    """The same model with nothing required: for what is good in a bad row."""
    optional: dict[str, Any] = {
        name: (Annotated[(found.annotation | None, *found.metadata)], None)  # type: ignore[operator]  # a type, not a value
        for name, found in model.model_fields.items()
        if found.is_required()
    }
    return create_model(f"Draft{model.__name__}", __base__=model, **optional)


@dataclass(frozen=True)
class FileKind:
    """Accounts, services or fees.

    `resolve` makes the temporary table `import_resolved` (line, action: new, changed or unchanged, and whatever
    `write` needs) and adds to `import_problems`; it may lock rows but changes none. After it, `import_good` shows
    the resolved rows without a problem. `write` inserts and updates those; `notes` names what is odd about them but
    not wrong. All run in one transaction, possibly more than once.
    """

    name: str
    model: type[ImportRow]
    context: RowContext
    resolve: Callable[[Connection, Parameters], None]
    write: Callable[[Connection, Parameters, Cause], None]
    notes: Callable[[Connection], list[str]] = lambda _: []
    defaults: Mapping[str, str] = field(default_factory=dict)  # for files that lack these columns
    as_written: tuple[str, ...] = ()  # columns whose text is staged too, as written_…, for messages
    has_amounts: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self.model.model_fields)

    @property
    def staged(self) -> dict[str, str]:
        """The columns of `import_rows` and their SQL types."""
        typed = {name: _sql_type(found.annotation) for name, found in self.model.model_fields.items()}
        return typed | {f"written_{name}": "text" for name in self.as_written}


def only_coverage(policy: Policy) -> dict[str, str]:
    """A default for `coverage`: a file needn't name it if billing.toml has only one."""
    return {"coverage": next(iter(policy.coverages))} if len(policy.coverages) == 1 else {}


def _sql_type(annotation: Any) -> str:
    while args := get_args(annotation):
        annotation = args[0]
    return _SQL_TYPES.get(annotation, "text")  # an enum is text
