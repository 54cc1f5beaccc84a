"""Everything an account's page shows: payment settings, cards, balances and events."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, and_, func, select

from shared.db.query_terms import one_of_not
from shared.db.tables.accounts import accounts, card_blocks, cards, payment_settings
from shared.db.tables.payments import payments
from shared.db.tables.system import billing_events
from shared.domain.states import ENDED
from web.dashboard.queries.paging import PAGE

#: Cards shown per account, newest first.
MOST_CARDS = 30


@dataclass(frozen=True)
class Balance:
    """The unpaid balance of one coverage in minor units of one currency, and its oldest due date."""

    coverage: str
    currency: str
    amount_minor: int
    count: int
    oldest_due_on: date


@dataclass(frozen=True)
class AccountSnapshot:
    """One account with everything around it."""

    account: Row[Any]
    settings: Sequence[Row[Any]]
    cards: Sequence[Row[Any]]
    balances: Sequence[Balance]


def read_account(connection: Connection, account_id: UUID) -> AccountSnapshot:
    """Read one account; LookupError if there is none."""
    account = connection.execute(select(accounts).where(accounts.c.id == account_id)).one_or_none()
    if account is None:
        raise LookupError(f"there is no account {account_id}")
    settings = connection.execute(
        select(payment_settings)
        .where(payment_settings.c.account_id == account_id)
        .order_by(payment_settings.c.coverage)
    ).all()
    return AccountSnapshot(
        account, settings, _cards(connection, [row.id for row in settings]), _balances(connection, account_id)
    )


def events_of_account(connection: Connection, account_id: UUID, before_id: int | None) -> Sequence[Row[Any]]:
    """Return the account's events and its payments' events, newest first; one row more than a page."""
    query = select(billing_events).where(billing_events.c.account_id == account_id)
    if before_id is not None:
        query = query.where(billing_events.c.id < before_id)
    return connection.execute(query.order_by(billing_events.c.id.desc()).limit(PAGE + 1)).all()


def _cards(connection: Connection, settings_ids: Sequence[UUID]) -> Sequence[Row[Any]]:
    is_block = and_(card_blocks.c.coverage == cards.c.coverage, card_blocks.c.fingerprint == cards.c.fingerprint)
    return connection.execute(
        select(
            cards,
            card_blocks.c.reason.label("block_reason"),
            (payment_settings.c.primary_card_id == cards.c.id).label("is_primary"),
        )
        .join(payment_settings, payment_settings.c.id == cards.c.settings_id)
        .join(card_blocks, is_block, isouter=True)
        .where(cards.c.settings_id.in_(settings_ids))
        .order_by(cards.c.attached_at.desc(), cards.c.id)
        .limit(MOST_CARDS)
    ).all()


def _balances(connection: Connection, account_id: UUID) -> list[Balance]:
    unpaid = payments.c
    rows = connection.execute(
        select(
            unpaid.coverage,
            unpaid.currency,
            func.sum(unpaid.amount_minor),
            func.count(),
            func.min(unpaid.due_on),
        )
        .where(unpaid.account_id == account_id, one_of_not(unpaid.state, ENDED))
        .group_by(unpaid.coverage, unpaid.currency)
        .order_by(unpaid.coverage, unpaid.currency)
    )
    return [Balance(coverage, currency, int(total), count, due) for coverage, currency, total, count, due in rows]
