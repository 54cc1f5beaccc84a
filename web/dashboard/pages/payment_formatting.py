"""A payment's explanation as its page shows it: what a state change changed, and buttons instead of commands."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from shared.domain.calendar import waits_for_operator
from shared.explain.explanation import Attempt, Entry, OtherEvent, SkippedAttempt, StateChange, shown_changes

#: Commands in the explanation, and the page's buttons that replace them.
_BUTTONS = (
    (re.compile(r"`duecourse payment charge [^`]*`"), "“Charge now”"),
    (re.compile(r"`duecourse payment release [^`]*`"), "“Release the hold”"),
    (re.compile(r"`duecourse attempts look-up[^`]*`"), "“Look up at the processor”"),
    (re.compile(r"`duecourse payment show[^`]*`"), "the payment's page"),
    (re.compile(r"`duecourse doctor[^`]*`"), "the overview"),
)
_KINDS = {Attempt: "attempt", SkippedAttempt: "skipped", StateChange: "state_change", OtherEvent: "other"}


@dataclass(frozen=True)
class Change:
    """One column that a state change changed besides the state: an instant, or a value as text."""

    name: str
    moment: datetime | None
    text: str


def kind_of(entry: Entry) -> str:
    """Return which part of the template shows this entry."""
    return _KINDS[type(entry)]


def with_buttons(what_to_do: str) -> str:
    """Replace commands of the terminal with the page's own buttons."""
    for pattern, button in _BUTTONS:
        what_to_do = pattern.sub(button, what_to_do)
    return what_to_do


def changes(change: StateChange) -> list[Change]:
    """Return what a state change changed, as far as an operator needs it."""
    return [_change(name, value) for name, value in shown_changes(change).items()]


def _change(name: str, value: Any) -> Change:
    words = name.replace("_", " ")
    if value is None:
        return Change(words, None, "none")
    if name.endswith(("_at", "_until")):
        try:
            moment = datetime.fromisoformat(str(value))
        except ValueError:
            return Change(words, None, str(value))
        return (
            Change(words, None, "an operator releases it")
            if waits_for_operator(moment)
            else Change(words, moment, "")
        )
    return Change(words, None, str(value).replace("_", " ") if name == "trigger" else str(value))
