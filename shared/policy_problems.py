"""Says what is wrong with billing.toml in words: the key, its value, and what is allowed.

Nothing that a library says reaches the user: what is allowed is the `description` of the key in `shared/policy.py`.
"""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

#: Longer values are cut: the key says where to look.
SHOWN_CHARACTERS = 60
#: The one key that may be left out.
OPTIONAL = "slower"
#: Stands for any name in a table whose keys the user chooses (`coverages.*.currency`), and for the name itself.
ANY, NAME = "*", "[key]"
_LINE_OF_ERROR = re.compile(r"\(at line ([0-9]+), column [0-9]+\)")
_KEY_AND_VALUE = re.compile(r"\s*([A-Za-z0-9_.]+)\s*=\s*(.*?)\s*(?:#.*)?")
_LINES = 'allowed are [table], key = "text" and key = number'

_Path = tuple[str, ...]


class NotReadableError(Exception):
    """The file is not TOML in UTF-8; the message says where, and what to do."""


def read_toml(path: Path, file: type[BaseModel]) -> Mapping[str, Any]:
    """Read a TOML file; NotReadableError says what is wrong with it. FileNotFoundError if it doesn't exist."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise NotReadableError(f"{path} can't be read: {error.strerror}") from None
    if content.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise NotReadableError(f"{path} begins with a byte order mark (BOM); save it as UTF-8 without BOM")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise NotReadableError(f"{path}, line {line} is not UTF-8 text; save the file as UTF-8") from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise NotReadableError(f"{path} can't be used:\n  {_syntax_problem(str(error), text, file)}") from None


def problems_of(error: ValidationError, file: type[BaseModel]) -> list[str]:
    """Return a sentence for each problem that validation found."""
    allowed = dict(_allowed(file, ()))
    return [sentence for problem in error.errors() for sentence in _sentences(problem, allowed)]


def refusal(key: str, value: object, allowed: str) -> str:
    """Say that a key's value is refused, and what is allowed."""
    return f"{key} = {_shown(value)} is refused; allowed is {allowed}"


def _allowed(table: type[BaseModel], path: _Path) -> Iterator[tuple[_Path, str]]:
    """Every key of the file below `path`, with what is allowed there."""
    for name, field in table.model_fields.items():
        here, kind = (*path, name), field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield here, _table_with(kind)
            yield from _allowed(kind, here)
            continue
        yield here, field.description or ""
        if get_origin(kind) is dict:
            of_name, inner = get_args(kind)
            yield (*here, NAME), of_name.__metadata__[0].description
            yield (*here, ANY), _table_with(inner)
            yield from _allowed(inner, (*here, ANY))


def _table_with(table: type[BaseModel]) -> str:
    return f"a table with the keys {', '.join(table.model_fields)}"


def _sentences(problem: Any, allowed: Mapping[_Path, str]) -> Iterator[str]:
    path = tuple(str(part) for part in problem["loc"])
    is_name = path[-1:] == (NAME,)
    key = ".".join(_text(part) for part in path if part != NAME)
    place = _place(path, allowed)
    if problem["type"] == "extra_forbidden":
        names = _names_below(place[:-1], allowed)
        near = get_close_matches(path[-1], names, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        yield f"{key} = {_shown(problem['input'])} is refused: unknown key{hint}; allowed are {', '.join(names)}"
    elif problem["type"] == "missing":
        below = [
            each
            for each in allowed
            if each[: len(place)] == place and not _names_below(each, allowed) and OPTIONAL not in each
        ]
        for each in below if ANY not in place and place != ("coverages",) else [place]:
            yield f"{'.'.join((key, *each[len(place) :]))} is missing; allowed is {allowed[each]}"
    elif is_name:
        yield f"{key} is refused as a name; allowed is {allowed[place]}"
    else:
        yield refusal(key, problem["input"], allowed[place])


def _place(path: _Path, allowed: Mapping[_Path, str]) -> _Path:
    """The path with ANY for names that the user chose. An unknown key stays as it is."""
    place: _Path = ()
    for part in path:
        if part == NAME:
            return (*place[:-1], NAME)
        is_chosen = (*place, part) not in allowed and (*place, ANY) in allowed
        place = (*place, ANY if is_chosen else part)
    return place


def _names_below(place: _Path, allowed: Mapping[_Path, str]) -> list[str]:
    return [each[-1] for each in allowed if each[:-1] == place and each[-1] != NAME]


def _syntax_problem(error: str, text: str, file: type[BaseModel]) -> str:
    """Describe a line that is not TOML, by its key if it has a known one."""
    at = _LINE_OF_ERROR.search(error)
    if at is None:
        return "the file ends within a value or a table; close its quotes and brackets"
    line = text.splitlines()[int(at[1]) - 1]
    if "overwrite" in error or "twice" in error:
        return f"line {at[1]}, {line.strip()}: the same key or table is given twice; allowed is once"
    allowed = {path[-1]: words for path, words in _allowed(file, ())}
    found = _KEY_AND_VALUE.fullmatch(line)
    name = found[1].rsplit(".", 1)[-1] if found else ""
    if found is None or name not in allowed:
        return f"line {at[1]}, {_cut(line.strip())}: can't be read; {_LINES}"
    return f"line {at[1]}, {f'{name} = {_cut(found[2])}'.strip()} is refused; allowed is {allowed[name]}"


def _shown(value: object) -> str:
    """A value as it is written in TOML, on one line."""
    match value:
        case bool():
            shown = "true" if value else "false"
        case str():
            shown = json.dumps(value, ensure_ascii=not value.isprintable())
        case Mapping():
            shown = "{" + ", ".join(f"{_text(str(name))} = {_shown(inner)}" for name, inner in value.items()) + "}"
        case list():
            shown = "[" + ", ".join(map(_shown, value)) + "]"
        case _:
            shown = str(value)
    return _cut(shown)


def _text(name: str) -> str:
    """A key as it is written in TOML."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _cut(json.dumps(name))


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"
