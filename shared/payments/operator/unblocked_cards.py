"""Lift a card's block and charge what waited for that: the card is good, so its customer has nothing to do."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, literal, or_, select

from shared.accounts.lifted_blocks import BlockedCard, lift_block
from shared.accounts.standing import lock_account
from shared.db.billing_events import Cause
from shared.db.query_terms import is_, one_of
from shared.db.tables.accounts import card_blocks, cards, payment_settings
from shared.db.tables.payments import payment_attempts, payments
from shared.domain.refusals import Refused
from shared.domain.states import WAITING_FOR_CARD, Lane, SettingsKind, Trigger
from shared.messaging.jobs import ChargePayment
from shared.payments.eligibility import CLOSE_PENDING, HELD, MONTHLY, Clocks, none_of
from shared.payments.locked_rows import lock_collectable_monthly
from shared.payments.parking import FORBIDDEN_BY_NETWORK
from shared.payments.state_changes import make_due_now


@dataclass(frozen=True)
class Behind:
    """A payment that a block keeps from being charged; minor units."""

    payment_id: UUID
    account_id: UUID
    amount_minor: int
    currency: str


def payments_behind(connection: Connection, coverage: str, fingerprint: str, now: datetime) -> list[Behind]:
    """Return the payments that wait because of this block alone.

    Those parked for it, and the one whose decline set it. One that waits for another reason of the same card, such
    as its expiry, isn't among them, nor one that an operator holds or closes. `now` is business time.
    """
    declined_with = select(payment_attempts.c.payment_id).where(
        payment_attempts.c.id == card_blocks.c.attempt_id, payment_attempts.c.payment_id == payments.c.id
    )
    rows = connection.execute(
        select(payments.c.id, payments.c.account_id, payments.c.amount_minor, payments.c.currency)
        .join(payment_settings, payment_settings.c.id == payments.c.settings_id)
        .join(cards, cards.c.id == payment_settings.c.primary_card_id)
        .join(
            card_blocks,
            (card_blocks.c.coverage == cards.c.coverage) & (card_blocks.c.fingerprint == cards.c.fingerprint),
        )
        .where(
            card_blocks.c.coverage == coverage,
            card_blocks.c.fingerprint == fingerprint,
            cards.c.detached_at.is_(None),
            is_(payment_settings.c.kind, SettingsKind.CARD),
            one_of(payments.c.state, WAITING_FOR_CARD),
            MONTHLY.sql(),
            *none_of((HELD, CLOSE_PENDING), Clocks(now=literal(now))),
            payments.c.waiting_for_revision_after == payment_settings.c.card_revision,
            or_(payments.c.state_reason.startswith(FORBIDDEN_BY_NETWORK), declined_with.exists()),
        )
        .order_by(payments.c.account_id, payments.c.id)
    )
    return [Behind(*row) for row in rows]


def unblock_card(
    connection: Connection, coverage: str, fingerprint: str, seen: BlockedCard | None, cause: Cause
) -> tuple[ChargePayment, ...] | Refused:
    """Lift the block, and make due what waited for that; return what to enqueue after the commit."""
    behind = payments_behind(connection, coverage, fingerprint, cause.at)
    for account_id in sorted({each.account_id for each in behind}):
        lock_account(connection, account_id)
    locked = [
        payment
        for account_id in sorted({each.account_id for each in behind})
        for payment in lock_collectable_monthly(connection, account_id, coverage)
    ]
    waiting = {
        each.payment_id for each in payments_behind(connection, coverage, fingerprint, cause.at)
    }  # again, under the locks
    lifted = lift_block(connection, coverage, fingerprint, seen, cause)
    if isinstance(lifted, Refused):
        return lifted
    return tuple(
        ChargePayment(payment.id, Lane.INTERACTIVE)
        for payment in locked
        if payment.id in waiting and make_due_now(connection, payment, Lane.INTERACTIVE, Trigger.OPERATOR, cause)
    )
