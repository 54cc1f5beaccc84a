"""A payment's story in its page's words: what changed with a move, and buttons where the terminal has commands."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from shared.explain.explanation import AttemptMade, AttemptNotMade, Entry, Moved, Told

#: What the explanation says for the terminal, and what the page has in its place.
_INSTEAD = (
    (re.compile(r"`duecourse payment charge [^`]*`"), "“Charge now”"),
    (re.compile(r"`duecourse attempts look-up[^`]*`"), "“Look up at the processor”"),
    (re.compile(r"`duecourse payment show[^`]*`"), "the payment's page"),
    (re.compile(r"`duecourse doctor[^`]*`"), "the overview"),
)
#: Columns that a move's trail shows and that say nothing to a person.
_NOT_TOLD = frozenset({"state", "paid_at", "first_declined_at", "not_sent_count", "run_id", "requested_by"})
_KINDS = {AttemptMade: "attempt", AttemptNotMade: "not_made", Moved: "moved", Told: "told"}


@dataclass(frozen=True)
class Change:
    """One thing that a move changed besides the state: an instant, or a value in words."""

    name: str
    moment: datetime | None
    text: str


def kind_of(entry: Entry) -> str:
    """Which part of the template tells this entry."""
    return _KINDS[type(entry)]


def for_the_page(what_to_do: str) -> str:
    """Say what to do with the page's own buttons instead of commands of the terminal."""
    for pattern, instead in _INSTEAD:
        what_to_do = pattern.sub(instead, what_to_do)
    return what_to_do


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """What is different after a move."""
    return [
        _change(name, value) for name, value in after.items() if name not in _NOT_TOLD and value != before.get(name)
    ]


def _change(name: str, value: Any) -> Change:
    words = name.replace("_", " ")
    if value is None:
        return Change(words, None, "none")
    if name.endswith(("_at", "_until")):
        try:
            moment = datetime.fromisoformat(str(value))
        except ValueError:
            return Change(words, None, str(value))
        return Change(words, None, "a person decides") if moment.year == 9999 else Change(words, moment, "")
    return Change(words, None, str(value))
