"""Blocks that a network sets for some time only: they end when the same card is registered again after it."""

from datetime import datetime

from sqlalchemy import Connection, delete, select

from shared.db.rows import AttemptRow, CardBlockRow, CardRow, read_one_or_none
from shared.db.tables.accounts import card_blocks
from shared.db.tables.payments import payment_attempts
from shared.domain.declines import Decline, classify


def end_expired_block(connection: Connection, card: CardRow, registered_at: datetime) -> str | None:
    """End the card's block if its time is over; return the reason it had, or None if no block was ended.

    A registration is a SetupIntent that succeeded, so the card's verification passed. Another decline of the same
    kind blocks the card again: it is charged once. Mastercard: advice 03 and 21, 30 days (declines.json).
    `registered_at` is business time.
    """
    is_of_card = (card_blocks.c.coverage == card.coverage, card_blocks.c.fingerprint == card.fingerprint)
    block = read_one_or_none(
        CardBlockRow, connection.execute(select(card_blocks).where(*is_of_card).with_for_update())
    )
    if block is None:
        return None
    attempt = read_one_or_none(
        AttemptRow,
        connection.execute(select(payment_attempts).where(payment_attempts.c.id == block.attempt_id)),
    )
    blocked_for = None if attempt is None else classify(decline_of(attempt)).blocked_for
    if blocked_for is None or registered_at < block.blocked_at + blocked_for:
        return None
    connection.execute(delete(card_blocks).where(*is_of_card))
    return block.reason


def decline_of(attempt: AttemptRow) -> Decline:
    """Return the codes that an attempt's decline came with."""
    return Decline(
        code=attempt.code,
        decline_code=attempt.decline_code,
        advice_code=attempt.advice_code,
        network_advice_code=attempt.network_advice_code,
        network_decline_code=attempt.network_decline_code,
        network=attempt.card_network,
    )
