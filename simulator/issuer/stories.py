"""Stories: how the issuer of a simulated card answers over time, as data.

A story is a frozen value; `CardHistory` counts how often the card was declined under it. `decline_of` is pure.
Dates are on the business clock, in UTC.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any, ClassVar

DEFAULT_DECLINE = "generic_decline"


@dataclass(frozen=True, kw_only=True)
class Says:
    """The wording of a decline. None means the value in the table of `simulator/issuer/declines.py`."""

    decline_code: str = DEFAULT_DECLINE
    network_decline_code: str | None = None
    advice_code: str | None = None
    network_advice_code: str | None = None


@dataclass(frozen=True, kw_only=True)
class Pays:
    """The card always pays."""

    kind: ClassVar[str] = "pays"


@dataclass(frozen=True, kw_only=True)
class AlwaysDeclines(Says):
    """The card always declines, with this code."""

    kind: ClassVar[str] = "always"


@dataclass(frozen=True, kw_only=True)
class DeclinesThenPays(Says):
    """The card declines `times` times, then pays."""

    kind: ClassVar[str] = "declines_then_pays"
    times: int


@dataclass(frozen=True, kw_only=True)
class InsufficientFundsUntil(Says):
    """Insufficient funds before `date` (business clock, UTC); pays from that day on."""

    kind: ClassVar[str] = "insufficient_funds_until"
    date: date
    decline_code: str = "insufficient_funds"


@dataclass(frozen=True, kw_only=True)
class PaysUntil(Says):
    """Pays before `date` (business clock, UTC); declines from that day on."""

    kind: ClassVar[str] = "pays_until"
    date: date


@dataclass(frozen=True, kw_only=True)
class NeedsAuthentication:
    """Off session the issuer asks for authentication; on session the payment waits in `requires_action`."""

    kind: ClassVar[str] = "needs_authentication"


Story = Pays | AlwaysDeclines | DeclinesThenPays | InsufficientFundsUntil | PaysUntil | NeedsAuthentication

STORIES: dict[str, type[Story]] = {
    story.kind: story
    for story in (Pays, AlwaysDeclines, DeclinesThenPays, InsufficientFundsUntil, PaysUntil, NeedsAuthentication)
}


class StoryError(ValueError):
    """An invalid story; the message says why."""


def story_to_json(story: Story) -> dict[str, Any]:
    """Return a story as JSON types, for `POST /_sim/cards` and the store."""
    fields = {name: value for name, value in asdict(story).items() if value is not None}
    if "date" in fields:
        fields["date"] = fields["date"].isoformat()
    return {"kind": story.kind, **fields}


def story_from_json(told: Mapping[str, Any]) -> Story:
    """Read a story. Raises StoryError for a field that is unknown, missing or not a date."""
    fields = dict(told)
    kind = fields.pop("kind", None)
    if kind not in STORIES:
        raise StoryError(f"story kind {kind!r} is unknown; use one of {', '.join(sorted(STORIES))}")
    if "date" in fields:
        try:
            fields["date"] = date.fromisoformat(str(fields["date"]))
        except ValueError:
            raise StoryError(f"story date {fields['date']!r} is not a date like 2026-11-12") from None
    try:
        return STORIES[kind](**fields)
    except TypeError as error:
        raise StoryError(f"story {kind!r} doesn't fit: {error}") from None
