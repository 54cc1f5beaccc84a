"""Which column of the file is which of ours: `--columns`, `--value`, `--set` and the file's first line."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

from cli.importing.cells import reason_of, shown
from cli.importing.kind import FileKind, draft_of
from cli.importing.source import ImportUsageError, Record

#: What a rejects file has behind the original columns; such a file can be corrected and imported as it is.
REJECT_COLUMNS = ("line", "column", "value", "reason")

#: So many unused columns are named.
UNUSED_SHOWN = 10

#: The option that gives one value for all rows, where it isn't --set; none where that makes no sense.
_ONE_FOR_ALL = {"period": "--period 2026-10", "id": ""}


@dataclass(frozen=True)
class Field:
    """Where a column's value comes from: a cell of the file, or a constant."""

    name: str
    index: int | None
    named: str  # as the file names it, for messages
    constant: str = ""
    translations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Layout:
    """A file's columns as we understand them."""

    header: tuple[str, ...]
    fields: tuple[Field, ...]
    unused: tuple[str, ...]
    is_rejects_file: bool

    def has(self, name: str) -> bool:
        return any(found.name == name for found in self.fields)

    def named(self, name: str) -> str:
        """The file's own name of our column; ours if the file doesn't have it."""
        return next((found.named for found in self.fields if found.name == name), name)

    def notes(self, kind: FileKind) -> list[str]:
        """Name the columns that are not used, with those of ours that they resemble and the file doesn't have."""
        if not self.unused:
            return []
        named = [shown(name) for name in self.unused[:UNUSED_SHOWN]]
        if len(self.unused) > UNUSED_SHOWN:
            named.append(f"{len(self.unused) - UNUSED_SHOWN:,} more")
        notes = [f"columns that are not used: {', '.join(named)}"]
        for ours in kind.columns:
            similar = None if self.has(ours) else nearest(ours, self.unused, cutoff=0.75)
            if similar:
                notes.append(f"if {shown(similar)!r} is our column {ours}, give --columns {ours}={shown(similar)}")
        return notes

    def parameters(self, columns: Iterable[str]) -> dict[str, Any]:
        """Bind parameters for all statements: whether the file has a column, and the file's name for it."""
        columns = tuple(columns)
        flags = {f"has_{name}": self.has(name) for name in columns}
        return flags | {f"named_{name}": self.named(name) for name in columns}


@dataclass(frozen=True)
class ColumnOptions:
    """What the command line says about columns."""

    columns: Mapping[str, str]  # ours to theirs
    values: Mapping[str, Mapping[str, str]]  # ours to (theirs to ours)
    constants: Mapping[str, str]


def parse_column_options(
    names: Sequence[str], columns: Iterable[str], values: Iterable[str], constants: Iterable[str]
) -> ColumnOptions:
    """Read the options; ImportUsageError names the option, what is wrong and the columns there are."""
    ours_to_theirs: dict[str, str] = {}
    for text in columns:
        for part in re.split(r",(?=\s*\w+=)", text):  # a column name may hold a comma
            ours, theirs = _pair(part, "=", "--columns", "account=customerID,amount=MonthlyCharges", names)
            _only_once(ours, ours_to_theirs, "--columns")
            ours_to_theirs[ours] = theirs
    translations: dict[str, dict[str, str]] = {}
    for text in values:
        example = 'payment_method:"Credit card"=card'
        ours, rest = _pair(text, ":", "--value", example, names)
        theirs, equals, meant = rest.rpartition("=")
        if not equals or not meant.strip():
            raise ImportUsageError(f"--value {text!r} needs an = with our value behind it, like {example}")
        _only_once(theirs.strip(), translations.setdefault(ours, {}), f"--value {ours}")
        translations[ours][theirs.strip()] = meant.strip()
    fixed: dict[str, str] = {}
    for text in constants:
        ours, value = _pair(text, "=", "--set", "coverage=global", names)
        _only_once(ours, fixed, "--set")
        fixed[ours] = value
    return ColumnOptions(ours_to_theirs, translations, fixed)


def lay_out(first: Record, kind: FileKind, column_options: ColumnOptions, delimiter: str) -> Layout:
    """Match the first line with our columns; ImportUsageError says what is missing and suggests the nearest."""
    header = tuple(cell.strip() for cell in _header_cells(first, delimiter))
    found = (_field(name, header, column_options, kind) for name in kind.columns)
    fields = [each for each in found if each is not None]
    for ours in column_options.values:
        if not any(found.name == ours and found.index is not None for found in fields):
            raise ImportUsageError(
                f"--value {ours}: the file has no column for {ours}; give --columns {ours}=theirs"
            )
    _check_constants({each.name: each.constant for each in fields if each.index is None}, kind)
    used = {found.index for found in fields}
    is_rejects_file = header[-len(REJECT_COLUMNS) :] == REJECT_COLUMNS
    unused = tuple(name for index, name in enumerate(header) if index not in used and name not in REJECT_COLUMNS)
    return Layout(header, tuple(fields), unused, is_rejects_file)


def nearest(word: str, words: Iterable[str], cutoff: float = 0.5) -> str | None:
    """The most similar of `words`, whatever their case; None if none is similar."""
    by_folded = {_folded(each): each for each in words}
    close = get_close_matches(_folded(word), by_folded, n=1, cutoff=cutoff)
    return by_folded[close[0]] if close else None


def _field(ours: str, header: tuple[str, ...], column_options: ColumnOptions, kind: FileKind) -> Field | None:
    theirs = column_options.columns.get(ours, ours)
    if theirs in header:
        if ours in column_options.constants:
            raise ImportUsageError(
                f"--set {ours}: the file has its own column {theirs!r} for that; leave --set out"
            )
        if Counter(header)[theirs] > 1:
            raise ImportUsageError(f"the file has two columns {theirs!r}; rename one of them")
        return Field(ours, header.index(theirs), theirs, translations=column_options.values.get(ours, {}))
    if ours in column_options.columns:
        raise ImportUsageError(
            f"--columns {ours}={theirs}: the file has no column {theirs!r}{_did_you_mean(theirs, header)}"
            f" It has: {', '.join(header)}"
        )
    constant = column_options.constants.get(ours, kind.defaults.get(ours))
    if constant is not None:
        return Field(ours, None, ours, constant=constant.strip())
    if kind.model.model_fields[ours].is_required():
        similar = nearest(ours, header)
        hint = f"; the nearest is {similar!r}" if similar else ""
        option = _ONE_FOR_ALL.get(ours, f"--set {ours}=VALUE")
        one_for_all = f", or give one value for all rows with {option}" if option else ""
        raise ImportUsageError(
            f"the file has no column {ours!r}, which {kind.name} need{hint}. Say which one it is with "
            f"--columns {ours}={similar or 'THEIRS'}{one_for_all}. "
            f"The file has: {', '.join(header)}"
        )
    return None


def _header_cells(first: Record, delimiter: str) -> list[str]:
    if first.trouble is not None:
        raise ImportUsageError(f"line {first.line}, which must name the columns, {first.trouble}")
    if len(first.cells) == 1:
        other = next((sign for sign in ";\t|," if sign != delimiter and sign in first.cells[0]), None)
        if other is not None:
            word = "tab" if other == "\t" else f"'{other}'"
            raise ImportUsageError(
                f"the first line has only one column; is the file separated by {word}? Then give --delimiter {word}"
            )
    return first.cells


def _check_constants(constants: Mapping[str, str], kind: FileKind) -> None:
    for name, text in constants.items():
        if not text and kind.model.model_fields[name].is_required():
            raise ImportUsageError(f"--set {name}= is empty; every row needs a value")
    try:
        draft_of(kind.model).model_validate({k: v for k, v in constants.items() if v}, context=kind.context)
    except ValidationError as invalid:
        error = invalid.errors(include_url=False)[0]
        name = str(error["loc"][0])
        text = constants[name]
        raise ImportUsageError(f"--set {name}={text}: {text!r} {reason_of(error)}") from None


def _pair(text: str, sign: str, option: str, example: str, names: Sequence[str]) -> tuple[str, str]:
    ours, found, rest = text.partition(sign)
    ours, rest = ours.strip(), rest if sign == ":" else rest.strip()
    if not found or (sign == "=" and option == "--columns" and not rest):
        raise ImportUsageError(f"{option} {text!r} isn't understood; write it like {option} {example}")
    if ours not in names:
        raise ImportUsageError(
            f"{option}: we have no column {ours!r}{_did_you_mean(ours, names)} The columns are: {', '.join(names)}"
        )
    return ours, rest


def _only_once(key: str, taken: Mapping[str, object], option: str) -> None:
    if key in taken:
        raise ImportUsageError(f"{option} names {key!r} twice; say which one is meant")


def _did_you_mean(word: str, words: Iterable[str]) -> str:
    similar = nearest(word, words)
    return f"; did you mean {similar!r}?" if similar else "."


def _folded(word: str) -> str:
    return re.sub(r"[\s_-]", "", word.casefold())
