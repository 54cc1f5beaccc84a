"""Stripe's form encoding in, typed parameters out.

`simulator/api/parameters.py` lists every supported parameter with the kind of its value. Any other parameter is
refused with `parameter_unknown`: a processor that silently ignores one would let a wrong call pass every test.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Any
from urllib.parse import parse_qsl

from simulator.api.errors import bad_parameter

MAX_METADATA_KEYS = 50  # docs.stripe.com/api/metadata: 50 keys, 40 characters a key, 500 a value
MAX_METADATA_KEY_CHARS = 40
MAX_METADATA_VALUE_CHARS = 500


class Kind(Enum):
    TEXT = "text"
    INTEGER = "integer"
    BOOLEAN = "boolean"
    TEXTS = "list of texts"
    METADATA = "metadata"
    RANGE = "instant, or a hash of gt, gte, lt, lte"
    GONE = "payment_method_types, which this API version took away"


#: A parameter is a kind of value, one of several words, or a hash of further parameters.
Spec = Mapping[str, "Kind | frozenset[str] | Spec"]

Tree = dict[str, Any]


def decode_form(encoded: str) -> Tree:
    """Read `a[b][0]=c` as nested dicts. Lists stay dicts with the positions as keys."""
    tree: Tree = {}
    for name, value in parse_qsl(encoded, keep_blank_values=True):
        if "[" not in name:
            tree[name] = value
            continue
        *path, last = name.replace("]", "").split("[")
        node = tree
        for part in path:
            below = node.get(part)
            if not isinstance(below, dict):
                below = node[part] = {}
            node = below
        node[last or str(len(node))] = value
    return tree


def typed_parameters(tree: Tree, spec: Spec, within: str = "") -> dict[str, Any]:
    """Check names and values against `spec`; an empty text becomes None, which unsets the field.

    Raises ApiError: 400 `parameter_unknown`, `parameter_invalid_integer`, `parameter_invalid_empty`, …
    """
    typed: dict[str, Any] = {}
    for name, value in tree.items():
        path = f"{within}[{name}]" if within else name
        kind = spec.get(name)
        if kind is None:
            raise bad_parameter(f"Received unknown parameter: {path}", path, "parameter_unknown")
        if isinstance(kind, Kind):
            typed[name] = READERS[kind](value, path)
        elif isinstance(kind, frozenset):
            typed[name] = _word(value, path, kind)
        elif isinstance(value, dict):
            typed[name] = typed_parameters(value, kind, path)
        elif value == "":
            typed[name] = None
        else:
            raise bad_parameter(f"Invalid object for {path}: a hash was expected", path)
    return typed


def _text(value: Any, path: str) -> str | None:
    if not isinstance(value, str):
        raise bad_parameter(f"Invalid string: {path} was given a hash or a list", path)
    return value or None


def _word(value: Any, path: str, words: frozenset[str]) -> str | None:
    text = _text(value, path)
    if text is not None and text not in words:
        raise bad_parameter(f"Invalid {path}: must be one of {', '.join(sorted(words))}", path)
    return text


def _integer(value: Any, path: str) -> int:
    text = _text(value, path) or ""
    if not text.removeprefix("-").isdecimal() or not text.isascii() or len(text) > 18:
        raise bad_parameter(f"Invalid integer: {text}", path, "parameter_invalid_integer")
    return int(text)


def _boolean(value: Any, path: str) -> bool:
    if value not in ("true", "false"):
        raise bad_parameter(f"Invalid boolean: {value}", path)
    return bool(value == "true")


def _texts(value: Any, path: str) -> list[str]:
    items = list(value.values()) if isinstance(value, dict) else [value]
    return [text for item in items if (text := _text(item, path)) is not None]


def _metadata(value: Any, path: str) -> dict[str, str | None]:
    if not isinstance(value, dict):
        if value == "":
            return {}
        raise bad_parameter("Invalid metadata: metadata must be a hash", path)
    read = {key: _text(item, f"{path}[{key}]") for key, item in value.items()}
    for key, text in read.items():
        if len(key) > MAX_METADATA_KEY_CHARS or len(text or "") > MAX_METADATA_VALUE_CHARS:
            raise bad_parameter(f"Metadata {key!r} is too long: keys up to 40, values up to 500 characters", path)
    if len(read) > MAX_METADATA_KEYS:
        raise bad_parameter(f"Metadata has {len(read)} keys: up to {MAX_METADATA_KEYS} are allowed", path)
    return read


def _range(value: Any, path: str) -> dict[str, int]:
    if not isinstance(value, dict):
        return {"gte": _integer(value, path), "lte": _integer(value, path)}
    for bound in value:
        if bound not in ("gt", "gte", "lt", "lte"):
            raise bad_parameter(f"Received unknown parameter: {path}[{bound}]", path, "parameter_unknown")
    return {bound: _integer(instant, f"{path}[{bound}]") for bound, instant in value.items()}


def _gone(value: Any, path: str) -> None:  # noqa: ARG001
    raise bad_parameter(
        f"{path} can no longer be written (since API version 2026-09-30.endive). "
        f"Use allowed_{path} instead, e.g. allowed_{path}[0]=card.",
        path,
        f"{path}_no_longer_supported",
    )


READERS = {
    Kind.GONE: _gone,
    Kind.TEXT: _text,
    Kind.INTEGER: _integer,
    Kind.BOOLEAN: _boolean,
    Kind.TEXTS: _texts,
    Kind.METADATA: _metadata,
    Kind.RANGE: _range,
}
