"""Lift a card block: an admin's action for a block that was set in error, with a name and a reason (I14)."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, delete, func, select

from shared.db.billing_events import BillingEvent, Cause, record_event
from shared.db.tables.accounts import accounts, card_blocks, cards, payment_settings
from shared.domain.event_types import EventType
from shared.domain.refusals import NO_REASON, Refused
from shared.operations.audit_log import AuditAction, AuditEntry, record_action


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
    """Lift the block `seen` in the preview; the card may be charged again, and nothing is charged by this.

    Refused if there is none, without a reason, or if it isn't the block of the preview. The next decline of the
    same kind blocks the card again.
    """
    locked = connection.execute(
        select(card_blocks.c.attempt_id)
        .where(card_blocks.c.coverage == coverage, card_blocks.c.fingerprint == fingerprint)
        .with_for_update()
    ).one_or_none()
    found = blocked_cards(connection, coverage, fingerprint)
    refused = None
    if locked is None or not found:
        refused = Refused("this card isn't blocked", "see `duecourse cards blocked`")
    elif not cause.reason.strip():
        refused = NO_REASON
    elif seen != found[0]:
        refused = Refused("the block has changed since it was shown", "look at it again")
    if refused is not None or locked is None:
        refused = refused or NO_REASON
        _audit(connection, coverage, fingerprint, seen, cause, outcome="refused", result={"reason": refused.reason})
        return refused
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
            before={"reason": found[0].reason, "blocked_at": found[0].blocked_at.isoformat()},
            data={"coverage": coverage, "fingerprint": fingerprint, "attempt_id": str(locked.attempt_id)},
        ),
    )
    _audit(connection, coverage, fingerprint, seen, cause, outcome="done", result={})
    return found[0]


def _audit(
    connection: Connection,
    coverage: str,
    fingerprint: str,
    seen: BlockedCard | None,
    cause: Cause,
    outcome: str,
    result: dict[str, str],
) -> None:
    snapshot = {"reason": seen.reason, "accounts": list(seen.accounts)} if seen else {}
    record_action(
        connection,
        AuditEntry(
            AuditAction.CARD_UNBLOCK,
            cause.actor,
            cause.at,
            subject_kind="card",
            subject=f"{coverage} {fingerprint}",
            reason=cause.reason.strip() or None,
            outcome=outcome,
            snapshot=snapshot,
            result=result,
        ),
    )
