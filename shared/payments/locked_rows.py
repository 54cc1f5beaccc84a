"""The rows that a change of a payment locks, in this order (I4): account, settings, payment, intent, attempt.

Each lock statement of a payment's rows is here once, with its strength: settings are locked shared, because a
charge only needs the card to stay as it is; payments so that rows which refer to them can still be inserted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Select, bindparam, select

from shared.accounts.standing import lock_account
from shared.db.rows import (
    AccountRow,
    AttemptRow,
    PaymentIntentRow,
    PaymentRow,
    SettingsRow,
    read_all,
    read_one,
    read_one_or_none,
)
from shared.db.tables.accounts import accounts, payment_settings
from shared.db.tables.payments import payment_attempts, payment_intents, payments
from shared.domain.states import CHARGEABLE, WAITING_FOR_CARD, PaymentKind

# Built once: the money path runs them for every charge.
_IDS_OF_PAYMENT = select(payments.c.account_id, payments.c.settings_id).where(
    payments.c.id == bindparam("payment_id")
)
_IDS_OF_INTENT = (
    select(payment_intents.c.id, payment_intents.c.payment_id, payments.c.account_id, payments.c.settings_id)
    .join(payments, payments.c.id == payment_intents.c.payment_id)
    .where(payment_intents.c.id == bindparam("id"))
)
_IDS_OF_ATTEMPT = (
    select(payment_intents.c.id, payment_intents.c.payment_id, payments.c.account_id, payments.c.settings_id)
    .join(payments, payments.c.id == payment_intents.c.payment_id)
    .join(payment_attempts, payment_attempts.c.payment_intent_id == payment_intents.c.id)
    .where(payment_attempts.c.id == bindparam("id"))
)
_LOCK_SETTINGS = select(payment_settings).where(payment_settings.c.id == bindparam("id")).with_for_update(read=True)
_LOCK_SETTINGS_OF_PAYMENT = (
    select(payment_settings)
    .where(
        payment_settings.c.id
        == select(payments.c.settings_id).where(payments.c.id == bindparam("payment_id")).scalar_subquery()
    )
    .with_for_update(read=True)
)
_LOCK_PAYMENT = select(payments).where(payments.c.id == bindparam("payment_id")).with_for_update(key_share=True)
_LOCK_INTENT = select(payment_intents).where(payment_intents.c.id == bindparam("id")).with_for_update()
_LOCK_LATEST_INTENT = (
    select(payment_intents)
    .where(payment_intents.c.payment_id == bindparam("payment_id"))
    .order_by(payment_intents.c.ordinal.desc())
    .limit(1)
    .with_for_update()
)
_LOCK_ATTEMPT = select(payment_attempts).where(payment_attempts.c.id == bindparam("id")).with_for_update()


@dataclass(frozen=True)
class LockedPayment:
    """A payment with its account and settings."""

    account: AccountRow
    settings: SettingsRow
    payment: PaymentRow


@dataclass(frozen=True)
class LockedPaymentIntent(LockedPayment):
    """A payment with one of its PaymentIntents."""

    intent: PaymentIntentRow


def lock_payment(connection: Connection, payment_id: UUID) -> PaymentRow:
    """Lock one payment and return its row; LookupError if there is none."""
    row = read_one_or_none(PaymentRow, connection.execute(_LOCK_PAYMENT, {"payment_id": payment_id}))
    if row is None:
        raise LookupError(f"there is no payment {payment_id}")
    return row


def lock_settings_and_payment(connection: Connection, payment_id: UUID) -> tuple[SettingsRow, PaymentRow] | None:
    """Lock what a charge depends on; None if there is no such payment. Until the commit the card stays as it is."""
    locked = connection.execute(_LOCK_SETTINGS_OF_PAYMENT, {"payment_id": payment_id})
    settings = read_one_or_none(SettingsRow, locked)
    return None if settings is None else (settings, lock_payment(connection, payment_id))


def lock_with_account(connection: Connection, payment_id: UUID) -> LockedPayment | None:
    """Lock account, settings and payment, for what may change the standing; None if there is no such payment."""
    ids = connection.execute(_IDS_OF_PAYMENT, {"payment_id": payment_id}).one_or_none()
    if ids is None:
        return None
    return LockedPayment(
        account=lock_account(connection, ids.account_id),
        settings=_lock_settings(connection, ids.settings_id),
        payment=lock_payment(connection, payment_id),
    )


def lock_by_intent(connection: Connection, payment_intent_id: UUID) -> LockedPaymentIntent:
    """Lock account, settings, payment and this PaymentIntent; the id is our row's."""
    return _lock_with_intent(connection, _IDS_OF_INTENT, payment_intent_id)


def lock_by_attempt(connection: Connection, attempt_id: UUID) -> tuple[LockedPaymentIntent, AttemptRow]:
    """Lock account, settings, payment, the attempt's PaymentIntent and the attempt."""
    locked = _lock_with_intent(connection, _IDS_OF_ATTEMPT, attempt_id)
    return locked, lock_attempt(connection, attempt_id)


def lock_attempt(connection: Connection, attempt_id: UUID) -> AttemptRow:
    """Lock an attempt of a locked payment."""
    return read_one(AttemptRow, connection.execute(_LOCK_ATTEMPT, {"id": attempt_id}))


def lock_live_intent(connection: Connection, payment_id: UUID) -> PaymentIntentRow | None:
    """Lock and return the PaymentIntent of a locked payment that could still be paid, if there is one."""
    locked = connection.execute(_LOCK_LATEST_INTENT, {"payment_id": payment_id})
    latest = read_one_or_none(PaymentIntentRow, locked)
    return latest if latest is not None and latest.closed_reason is None else None


def lock_intents(connection: Connection, payment_id: UUID) -> list[PaymentIntentRow]:
    """Lock all PaymentIntents of a locked payment, the first one first."""
    locked = connection.execute(
        select(payment_intents)
        .where(payment_intents.c.payment_id == payment_id)
        .order_by(payment_intents.c.ordinal)
        .with_for_update()
    )
    return read_all(PaymentIntentRow, locked)


def lock_collectable_monthly(connection: Connection, account_id: UUID, coverage: str) -> list[PaymentRow]:
    """Lock the unpaid monthly card payments of one account and coverage, in id order (I4)."""
    locked = connection.execute(
        select(payments)
        .where(
            payments.c.account_id == account_id,
            payments.c.coverage == coverage,
            payments.c.kind == PaymentKind.MONTHLY,
            payments.c.state.in_(CHARGEABLE | WAITING_FOR_CARD),
        )
        .order_by(payments.c.id)
        .with_for_update(key_share=True)
    )
    return read_all(PaymentRow, locked)


def lock_all(connection: Connection, payment_ids: Sequence[UUID]) -> None:
    """Lock the accounts, settings and payments of a chunk, table by table and each in id order (I4).

    Locking payment by payment could deadlock with another chunk or a daily run.
    """
    of_chunk = payments.c.id.in_(payment_ids)
    for table, column, is_shared in (
        (accounts, payments.c.account_id, False),
        (payment_settings, payments.c.settings_id, True),
        (payments, payments.c.id, False),
    ):
        query = select(table.c.id).where(table.c.id.in_(select(column).where(of_chunk))).order_by(table.c.id)
        connection.execute(query.with_for_update(read=True) if is_shared else query.with_for_update(key_share=True))


def _lock_with_intent(connection: Connection, ids_query: Select[Any], row_id: UUID) -> LockedPaymentIntent:
    ids = connection.execute(ids_query, {"id": row_id}).one()
    return LockedPaymentIntent(
        account=lock_account(connection, ids.account_id),
        settings=_lock_settings(connection, ids.settings_id),
        payment=lock_payment(connection, ids.payment_id),
        intent=read_one(PaymentIntentRow, connection.execute(_LOCK_INTENT, {"id": ids.id})),
    )


def _lock_settings(connection: Connection, settings_id: UUID) -> SettingsRow:
    return read_one(SettingsRow, connection.execute(_LOCK_SETTINGS, {"id": settings_id}))
