"""Read what the eligibility table decides from: one payment's facts, with the card behind them."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, and_, bindparam, select

from shared.db.query_terms import Moment
from shared.db.rows import CardRow, PaymentRow, SettingsRow, read_first
from shared.db.tables.accounts import card_blocks, cards
from shared.db.tables.payments import payments
from shared.domain.dunning import OverBudget
from shared.payments import network_budgets
from shared.payments.eligibility import ATTEMPT_OPEN, WAITS_ITS_TURN, Facts, has_sibling_ahead, payments_with_card

#: The primary card's row (nulls without one) with its block and whether an attempt is open. Built once for claims.
_LOOK = (
    select(
        cards,
        card_blocks.c.reason.label("block_reason"),
        ATTEMPT_OPEN.sql().label("has_open_attempt"),
        has_sibling_ahead().label("has_sibling_ahead"),
    )
    .select_from(
        payments_with_card().outerjoin(
            card_blocks,
            and_(card_blocks.c.coverage == cards.c.coverage, card_blocks.c.fingerprint == cards.c.fingerprint),
        )
    )
    .where(payments.c.id == bindparam("payment_id"))
)

_WAITS_ITS_TURN = select(WAITS_ITS_TURN.sql()).where(payments.c.id == bindparam("payment_id"))


@dataclass(frozen=True)
class Look:
    """The facts about one payment, and the primary card behind them."""

    facts: Facts
    card: CardRow | None
    block_reason: str | None

    @property
    def charged_card(self) -> CardRow:
        """The card to charge. AssertionError without one: the table refuses such a payment before."""
        if self.card is None:
            raise AssertionError("a payment without a card is set aside or refused before its card is read")
        return self.card


def look_at(
    connection: Connection, payment: PaymentRow, settings: SettingsRow, now: datetime, machine_now: datetime
) -> Look:
    """Read the card, its block and whether an attempt is open. A claim calls this under both rows' locks."""
    found = connection.execute(_LOOK, {"payment_id": payment.id, **Moment(now, machine_now).parameters()}).one()
    card = None if found.id is None else read_first(CardRow, found)
    facts = Facts(
        now=now,
        machine_now=machine_now,
        kind=payment.kind,
        state=payment.state,
        lane=payment.lane,
        trigger=payment.trigger,
        requested_by=payment.requested_by,
        next_attempt_at=payment.next_attempt_at,
        held_until=payment.held_until,
        backoff_until=payment.backoff_until,
        pending_close_as=payment.pending_close_as,
        waiting_for_revision_after=payment.waiting_for_revision_after,
        settings_kind=settings.kind,
        card_revision=settings.card_revision,
        has_primary_card=settings.primary_card_id is not None,
        has_customer=settings.stripe_customer_id is not None,
        has_card=card is not None,
        is_card_detached=card is not None and card.detached_at is not None,
        is_card_blocked=found.block_reason is not None,
        has_open_attempt=found.has_open_attempt,
        has_sibling_ahead=found.has_sibling_ahead,
    )
    return Look(facts, card, found.block_reason)


def waits_its_turn(connection: Connection, payment_id: UUID, now: datetime, machine_now: datetime) -> bool:
    """Whether another invoice of the account is charged first, as committed now."""
    parameters = {"payment_id": payment_id, **Moment(now, machine_now).parameters()}
    return bool(connection.execute(_WAITS_ITS_TURN, parameters).scalar_one())


def over_budget(connection: Connection, payment: PaymentRow, look: Look) -> OverBudget | None:
    """Return the budget that forbids one more attempt with the card now, or None.

    Not in the table, because it counts the attempts of other payments too. A claim calls
    `network_budgets.lock_card` first; a preview may be outdated at once.
    """
    card = look.charged_card
    return network_budgets.over_budget(connection, payment.coverage, card.fingerprint, card.network, look.facts.now)
