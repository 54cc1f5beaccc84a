"""Lift a card block: an admin's action for a block that was set in error, with a name and a reason (I14)."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, delete, func, select

from shared.db.billing_events import BillingEvent, Cause, record_event
from shared.db.tables.accounts import accounts, card_blocks, cards, payment_settings
from shared.domain.event_types import EventType
from shared.domain.refusals import NO_REASON, Refused
from shared.operations.audit_log import AuditAction, record_decision


@dataclass(frozen=True)
class BlockedCard:
    """A card that must not be charged: why, since when (business time), and which accounts have it registered."""

    coverage: str
    fingerprint: str
    reason: str
    blocked_at: datetime
    shown_as: str
    accounts: tuple[str, ...]


def blocked_cards(
    connection: Connection, coverage: str | None = None, fingerprint: str | None = None
) -> Sequence[BlockedCard]:
    """Return the blocked cards, the latest first; of one coverage or fingerprint if they are given."""
    of_card = (cards.c.coverage == card_blocks.c.coverage) & (cards.c.fingerprint == card_blocks.c.fingerprint)
    query = (
        select(
            card_blocks,
            func.max(cards.c.brand + " •••• " + cards.c.last4).label("shown_as"),
            func.array_agg(accounts.c.external_id.distinct()).label("accounts"),
        )
        .select_from(
            card_blocks.outerjoin(cards, of_card)
            .outerjoin(payment_settings, payment_settings.c.id == cards.c.settings_id)
            .outerjoin(accounts, accounts.c.id == payment_settings.c.account_id)
        )
        .group_by(*card_blocks.c)
        .order_by(card_blocks.c.blocked_at.desc(), card_blocks.c.fingerprint)
    )
    for column, value in ((card_blocks.c.coverage, coverage), (card_blocks.c.fingerprint, fingerprint)):
        query = query if value is None else query.where(column == value)
    return [
        BlockedCard(
            row.coverage,
            row.fingerprint,
            row.reason,
            row.blocked_at,
            row.shown_as or "card",
            tuple(sorted(name for name in row.accounts if name is not None)),
        )
        for row in connection.execute(query)
    ]


def lift_block(
    connection: Connection, coverage: str, fingerprint: str, seen: BlockedCard | None, cause: Cause
) -> BlockedCard | Refused:
    """Lift the block `seen` in the preview: the card may be charged again.

    Refused if there is none, without a reason, or if it isn't the block of the preview. The next decline of the
    same kind blocks the card again.
    """
    lifted = connection.execute(
        select(card_blocks.c.attempt_id)
        .where(card_blocks.c.coverage == coverage, card_blocks.c.fingerprint == fingerprint)
        .with_for_update()
    ).one_or_none()
    found = blocked_cards(connection, coverage, fingerprint)
    decided = _decide(found[0] if found else None, seen, cause)
    snapshot = {"reason": seen.reason, "accounts": list(seen.accounts)} if seen else {}
    refused = decided if isinstance(decided, Refused) else None
    subject = ("card", f"{coverage} {fingerprint}")
    record_decision(connection, AuditAction.CARD_UNBLOCK, subject, cause, refused, snapshot)
    if isinstance(decided, Refused) or lifted is None:
        return decided
    connection.execute(
        delete(card_blocks).where(card_blocks.c.coverage == coverage, card_blocks.c.fingerprint == fingerprint)
    )
    record_event(
        connection,
        BillingEvent(
            type=EventType.CARD_BLOCK_LIFTED,
            at=cause.at,
            actor=cause.actor,
            reason=cause.reason.strip(),
            before={"reason": decided.reason, "blocked_at": decided.blocked_at.isoformat()},
            data={"coverage": coverage, "fingerprint": fingerprint, "attempt_id": str(lifted.attempt_id)},
        ),
    )
    return decided


def _decide(found: BlockedCard | None, seen: BlockedCard | None, cause: Cause) -> BlockedCard | Refused:
    if found is None:
        return Refused("this card isn't blocked", "see `duecourse cards blocked`")
    if not cause.reason.strip():
        return NO_REASON
    if seen != found:
        return Refused("the block has changed since it was shown", "look at it again")
    return found
