"""May this card be charged once more? Permanent card blocks, and the networks' attempt budgets (I2, dunning)."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, any_, bindparam, case, exists, func, or_, select, tuple_
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.types import DateTime, Integer, Text

from shared.db.query_terms import is_
from shared.db.rows import CardBlockRow, read_one_or_none
from shared.db.tables.accounts import card_blocks, cards, payment_settings
from shared.db.tables.payments import payment_attempts, payments
from shared.domain.declines import network_budgets
from shared.domain.dunning import OverBudget, check_network_budget, tries_left
from shared.domain.states import DECLINED_ATTEMPT, OPEN_ATTEMPT, AttemptKind, PaymentState

#: An issuer declined it or may still decline it. A success, a cancellation, an attempt that reached no issuer: none
#: of these is a decline, so the networks' limits don't count them.
_USES_BUDGET = (
    is_(payment_attempts.c.kind, AttemptKind.CHARGE),
    or_(*(is_(payment_attempts.c.state, state) for state in sorted({*OPEN_ATTEMPT, *DECLINED_ATTEMPT}))),
)
#: The longest window of any network's rule: older attempts can't matter.
LONGEST_WINDOW = max(budget.window for budget in network_budgets())


def lock_card(connection: Connection, coverage: str, fingerprint: str) -> None:
    """Let one transaction at a time count and claim for this card, over all its payments, until it commits."""
    connection.execute(
        select(func.pg_advisory_xact_lock(func.hashtextextended(f"card:{coverage}:{fingerprint}", 0)))
    )


def find_block(connection: Connection, coverage: str, fingerprint: str) -> CardBlockRow | None:
    """Return the block that forbids charging this card again, if there is one."""
    found = connection.execute(
        select(card_blocks).where(card_blocks.c.coverage == coverage, card_blocks.c.fingerprint == fingerprint)
    )
    return read_one_or_none(CardBlockRow, found)


def block_card(
    connection: Connection, coverage: str, fingerprint: str, reason: str, attempt_id: UUID, at: datetime
) -> None:
    """Forbid charging this card again for any account; the first reason stays."""
    connection.execute(
        insert(card_blocks)
        .values(coverage=coverage, fingerprint=fingerprint, reason=reason, attempt_id=attempt_id, blocked_at=at)
        .on_conflict_do_nothing()
    )


def over_budget(
    connection: Connection, coverage: str, fingerprint: str, network: str | None, now: datetime
) -> OverBudget | None:
    """Return the budget that forbids one more attempt now (business time), or None; needs `lock_card`."""
    return read_card_budget(connection, coverage, fingerprint, network, now).over


@dataclass(frozen=True)
class CardBudget:
    """How many more declines a card's network allows now, and the budget that forbids even one, if there is one."""

    tries_left: int
    over: OverBudget | None


def read_card_budget(
    connection: Connection, coverage: str, fingerprint: str, network: str | None, now: datetime
) -> CardBudget:
    """Count a card's charge attempts of every trigger, a user's clicks too, that were declined or may still be."""
    counted = connection.execute(
        select(payment_attempts.c.started_at, payment_attempts.c.state).where(
            payment_attempts.c.coverage == coverage,
            payment_attempts.c.card_fingerprint == fingerprint,
            payment_attempts.c.started_at > now - LONGEST_WINDOW,
            *_USES_BUDGET,
        )
    ).all()
    return _budget_of(network, [(attempt.started_at, attempt.state) for attempt in counted], now)


def _budget_of(network: str | None, attempts: Sequence[tuple[datetime, str]], now: datetime) -> CardBudget:
    declined_at = [started_at for started_at, state in attempts if state not in OPEN_ATTEMPT]
    over = check_network_budget(network, declined_at, now, open_attempts=len(attempts) - len(declined_at))
    return CardBudget(tries_left(network, declined_at, now), over)


def free_dates(connection: Connection, payment_ids: Sequence[UUID], now: datetime) -> dict[UUID, datetime]:
    """Return from when on the networks allow another try, of those payments whose card is over its budget now.

    Two queries for a page of payments; business time.
    """
    of_payments = connection.execute(
        select(payments.c.id, cards.c.coverage, cards.c.fingerprint, cards.c.network)
        .join(payment_settings, payment_settings.c.id == payments.c.settings_id)
        .join(cards, cards.c.id == payment_settings.c.primary_card_id)
        .where(payments.c.id.in_(payment_ids), is_(payments.c.state, PaymentState.RETRY_SCHEDULED))
    ).all()
    attempts: dict[tuple[str, str], list[tuple[datetime, str]]] = defaultdict(list)
    named = tuple_(payment_attempts.c.coverage, payment_attempts.c.card_fingerprint)
    counted = select(
        payment_attempts.c.coverage,
        payment_attempts.c.card_fingerprint,
        payment_attempts.c.started_at,
        payment_attempts.c.state,
    ).where(
        named.in_({(row.coverage, row.fingerprint) for row in of_payments}),
        payment_attempts.c.started_at > now - LONGEST_WINDOW,
        *_USES_BUDGET,
    )
    for coverage, fingerprint, started_at, state in connection.execute(counted) if of_payments else ():
        attempts[coverage, fingerprint].append((started_at, state))
    budgets = {
        row.id: _budget_of(row.network, attempts[row.coverage, row.fingerprint], now).over for row in of_payments
    }
    return {payment_id: over.free_at for payment_id, over in budgets.items() if over is not None}


#: The networks' limits, one element for each: what `is_over_budget` compares with.
_NETWORKS = bindparam("networks", type_=ARRAY(Text))
_MOST = bindparam("most", type_=ARRAY(Integer))
_SINCE = bindparam("since", type_=ARRAY(DateTime(timezone=True)))


def is_over_budget() -> ColumnElement[bool]:
    """`over_budget` as SQL, for a card of the enclosing query's `cards`; needs `budget_parameters`."""
    limits = (
        func.unnest(_NETWORKS, _MOST, _SINCE)
        .table_valued("network", "most", "since", name="limits")
        .render_derived()
    )
    own_or_other = case((cards.c.network == any_(_NETWORKS), cards.c.network), else_="other")
    used = (
        select(func.count())
        .select_from(payment_attempts)
        .where(
            payment_attempts.c.coverage == cards.c.coverage,
            payment_attempts.c.card_fingerprint == cards.c.fingerprint,
            payment_attempts.c.started_at > limits.c.since,
            *_USES_BUDGET,
        )
        .correlate(cards, limits)
        .scalar_subquery()
    )
    return (
        exists().select_from(limits).where(limits.c.network == own_or_other, limits.c.most <= used).correlate(cards)
    )


def budget_parameters(now: datetime) -> dict[str, Any]:
    """What `is_over_budget` needs at business time `now`."""
    limits = network_budgets()
    return {
        "networks": [limit.network for limit in limits],
        "most": [limit.max_attempts for limit in limits],
        "since": [now - limit.window for limit in limits],
    }
