"""Stored cards with a story: one row per card, with its story and the counts of its answers."""

import json
from dataclasses import dataclass
from typing import Any

from simulator.issuer.stories import Story, story_from_json, story_to_json
from simulator.store.ids import IdMint
from simulator.store.store import Store

_COLUMNS = "account, fingerprint, token, card, story, declined, paid"


@dataclass(frozen=True)
class StoryCard:
    """`face` is the visible part of the card: brand, last4, expiry. `token` is None for a test card's number."""

    account: str
    fingerprint: str
    token: str | None
    face: dict[str, Any]
    story: Story
    declined: int = 0
    paid: int = 0

    def to_json(self) -> dict[str, Any]:
        return {
            "account": self.account,
            "fingerprint": self.fingerprint,
            "token": self.token or "",
            **self.face,
            "story": story_to_json(self.story),
            "declined": self.declined,
            "paid": self.paid,
        }


def find(store: Store, account: str, fingerprint: str) -> StoryCard | None:
    row = store.db.execute(
        f"SELECT {_COLUMNS} FROM cards WHERE account = ? AND fingerprint = ?",  # noqa: S608
        (account, fingerprint),
    ).fetchone()
    return _card(row) if row else None


def by_token(store: Store, account: str, token: str) -> StoryCard | None:
    row = store.db.execute(
        f"SELECT {_COLUMNS} FROM cards WHERE token = ? AND account = ?",  # noqa: S608
        (token, account),
    ).fetchone()
    return _card(row) if row else None


def make(store: Store, mint: IdMint, account: str, face: dict[str, Any], story: Story) -> StoryCard:
    """Create a card with a number of its own."""
    fingerprint = mint.new("fp").removeprefix("fp_")[-16:]
    card = StoryCard(account, fingerprint, mint.new("pm_story"), face, story)
    store.db.execute(
        "INSERT INTO cards (account, fingerprint, token, card, story) VALUES (?, ?, ?, ?, ?)",
        (account, fingerprint, card.token, json.dumps(face), json.dumps(story_to_json(story))),
    )
    return card


def tell(store: Store, account: str, fingerprint: str, face: dict[str, Any], story: Story) -> StoryCard:
    """Give a card a new story with counts at zero. Any card may get one, also Stripe's test cards."""
    store.db.execute(
        "INSERT INTO cards (account, fingerprint, card, story) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (account, fingerprint) DO UPDATE SET story = excluded.story, declined = 0, paid = 0",
        (account, fingerprint, json.dumps(face), json.dumps(story_to_json(story))),
    )
    card = find(store, account, fingerprint)
    if card is None:
        raise LookupError(f"the card {fingerprint} vanished while its story was told")
    return card


def remember(store: Store, card: StoryCard, *, has_paid: bool) -> None:
    """Count the card's answer."""
    column = "paid" if has_paid else "declined"
    store.db.execute(
        f"UPDATE cards SET {column} = {column} + 1 WHERE account = ? AND fingerprint = ?",  # noqa: S608
        (card.account, card.fingerprint),
    )


def _card(row: tuple[Any, ...]) -> StoryCard:
    account, fingerprint, token, face, story, declined, paid = row
    return StoryCard(
        account, fingerprint, token, json.loads(face), story_from_json(json.loads(story)), declined, paid
    )
