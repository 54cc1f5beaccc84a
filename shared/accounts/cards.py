"""Cards: customers register them, networks renew them. `shared/payments/card_changes.py` makes payments due.

The processor's state is fetched before the transaction, so it may be stale when it is applied. `known` is the
card's row from before the request. If the row has changed under the lock, another transaction was faster, and
CardMovedError asks the caller to fetch again. A detached card never comes back (docs.stripe.com: "can no longer be
used for a payment or re-attached"), so `detached_at` is never cleared.

Locks: account, settings, payments by id. Cards are written only under their settings' lock.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, select, update
from sqlalchemy.dialects.postgresql import insert

from shared.accounts.card_blocks import end_expired_block
from shared.accounts.registrations import ADD, REPLACE, Registration
from shared.accounts.standing import lock_account
from shared.db.billing_events import BillingEvent, Cause, record_event
from shared.db.rows import CardRow, SettingsRow, read_one, read_one_or_none
from shared.db.tables.accounts import card_registrations, cards, payment_settings
from shared.domain.event_types import EventType
from shared.failpoints import Failpoint, reach
from shared.gateway.port import CardSnapshot

_CARD_DATA = ("brand", "network", "last4", "exp_month", "exp_year", "fingerprint")


class CardMovedError(Exception):
    """The card changed between our request to the processor and our lock. Fetch it again."""


@dataclass(frozen=True)
class WakesPayments:
    """Unpaid payments that a new or changed primary card makes due: all of its settings, or the waiting ones."""

    settings: SettingsRow
    cause: Cause
    is_only_for_waiting: bool


@dataclass(frozen=True)
class CardChange:
    """The result of a card event: a note for operators, and the payments to wake (`payments/card_changes.py`)."""

    note: str
    account_id: UUID | None = None
    wakes: WakesPayments | None = None


def find_card(connection: Connection, coverage: str, stripe_payment_method_id: str) -> CardRow | None:
    """Return our row of a card; pass it to the function that applies the state fetched afterwards."""
    found = connection.execute(
        select(cards).where(
            cards.c.coverage == coverage, cards.c.stripe_payment_method_id == stripe_payment_method_id
        )
    )
    return read_one_or_none(CardRow, found)


def register_card(
    connection: Connection, registration: Registration, card: CardSnapshot, known: CardRow | None, now: datetime
) -> CardChange:
    """Store a registered card, make it primary if it is to be, and make the coverage's unpaid payments due.

    This happens once per SetupIntent, however many events report it. `now` is business time. Raises CardMovedError.
    """
    settings = _lock_settings(connection, registration.settings_id)
    if settings is None or settings.coverage != registration.coverage:
        return CardChange("refused: the metadata names payment settings that this coverage doesn't have")
    refusal = _rejection_of(settings, registration, card)
    if refusal is not None:
        return CardChange(refusal, settings.account_id)
    if _is_registered(connection, registration):
        return CardChange("known already: this SetupIntent has registered its card", settings.account_id)
    row = _store_card(connection, settings, card, known, now)
    if row is None:
        return CardChange("refused: the card is stored for another customer", settings.account_id)
    if row.detached_at is not None:
        return CardChange("refused: the card was detached meanwhile", settings.account_id)
    _remember_registration(connection, registration, row)
    ended_block = end_expired_block(connection, row, registration.succeeded_at)
    reach(Failpoint.EVENT_CARD_STORED)
    stays_second = _why_secondary(connection, settings, registration, row)
    if stays_second is not None:
        return CardChange(stays_second, settings.account_id)
    return _make_primary(connection, settings, registration, row, now, ended_block)


def refresh_card(
    connection: Connection, coverage: str, card: CardSnapshot, known: CardRow | None, now: datetime
) -> CardChange:
    """Apply the processor's state of a stored card: new, changed or detached. Makes no card primary.

    An updated primary card raises the revision and makes the payments that waited for it due. Raises
    CardMovedError.
    """
    if card.stripe_customer_id is None:
        return detach_card(connection, known, now)
    settings_id = _settings_of_customer(connection, coverage, card.stripe_customer_id)
    settings = _lock_settings(connection, settings_id) if settings_id else None
    if settings is None:
        return CardChange("not ours: no payment settings have this customer")
    before = known
    row = _store_card(connection, settings, card, known, now)
    if row is None:
        return CardChange("refused: the card is stored for another customer", settings.account_id)
    if before is None:
        return CardChange("stored a new card", settings.account_id)
    changed = [name for name in _CARD_DATA if getattr(before, name) != getattr(row, name)]
    if not changed or row.detached_at is not None:
        return CardChange("nothing new", settings.account_id)
    if settings.primary_card_id != row.id:
        return CardChange("refreshed a card that is not the primary one", settings.account_id)
    return _update_primary(connection, settings, row, changed, now)


def detach_card(connection: Connection, known: CardRow | None, now: datetime) -> CardChange:
    """Take a card out of use for good. Payments aren't changed: their next claim finds no card and records that."""
    if known is None:
        return CardChange("not ours: the card was never stored")
    settings = _lock_settings(connection, known.settings_id)
    assert settings is not None, "cards refer to settings"  # noqa: S101  # a foreign key
    row = _read_unchanged(connection, known)
    if row.detached_at is not None:
        return CardChange("known already: the card is detached", settings.account_id)
    connection.execute(update(cards).where(cards.c.id == row.id).values(detached_at=now))
    is_primary = settings.primary_card_id == row.id
    revision = settings.card_revision
    if is_primary:
        revision = _change_primary(connection, settings, None)
    _record(
        connection,
        settings,
        EventType.CARD_DETACHED,
        Cause("stripe", now, "the primary card was detached" if is_primary else "a second card was detached"),
        row.id,
        revision,
    )
    return CardChange("detached the primary card" if is_primary else "detached a card", settings.account_id)


def _lock_settings(connection: Connection, settings_id: UUID) -> SettingsRow | None:
    """Lock account and settings, in this order (I4); return the settings as they are under the lock."""
    account_id = connection.scalar(
        select(payment_settings.c.account_id).where(payment_settings.c.id == settings_id)
    )
    if account_id is None:
        return None
    lock_account(connection, account_id)
    locked = connection.execute(
        select(payment_settings).where(payment_settings.c.id == settings_id).with_for_update(key_share=True)
    )
    return read_one(SettingsRow, locked)


def _settings_of_customer(connection: Connection, coverage: str, stripe_customer_id: str) -> UUID | None:
    found: UUID | None = connection.scalar(
        select(payment_settings.c.id).where(
            payment_settings.c.coverage == coverage, payment_settings.c.stripe_customer_id == stripe_customer_id
        )
    )
    return found


def _rejection_of(settings: SettingsRow, registration: Registration, card: CardSnapshot) -> str | None:
    if settings.stripe_customer_id is None or settings.stripe_customer_id != registration.stripe_customer_id:
        return "refused: the SetupIntent's customer is not the one of the payment settings in its metadata"
    if card.stripe_customer_id is None:
        return "refused: the card has been detached"
    if card.stripe_customer_id != settings.stripe_customer_id:
        return "refused: the card belongs to another customer"
    return None


def _why_secondary(
    connection: Connection, settings: SettingsRow, registration: Registration, card: CardRow
) -> str | None:
    """Return why a registered card stays secondary; None if it is to be primary."""
    if registration.is_replacement:
        # Events come in any order: the customer's later choice wins.
        later_choice = connection.scalar(
            select(cards.c.id)
            .join(
                card_registrations,
                (card_registrations.c.coverage == cards.c.coverage)
                & (card_registrations.c.stripe_setup_intent_id == cards.c.stripe_setup_intent_id),
            )
            .where(
                cards.c.settings_id == settings.id,
                cards.c.detached_at.is_(None),  # a choice that is gone again wins nothing
                card_registrations.c.registered_at > registration.succeeded_at,
            )
            .limit(1)
        )
        return "stored: the customer chose another card after this one" if later_choice else None
    if settings.primary_card_id in (None, card.id):
        return None
    return "stored as a second card: it was added, and there is a primary card"


def _is_registered(connection: Connection, registration: Registration) -> bool:
    found = connection.scalar(
        select(card_registrations.c.card_id).where(
            card_registrations.c.coverage == registration.coverage,
            card_registrations.c.stripe_setup_intent_id == registration.stripe_setup_intent_id,
        )
    )
    return found is not None


def _remember_registration(connection: Connection, registration: Registration, card: CardRow) -> None:
    """Make this SetupIntent count once. Its key is unique, in case two transactions ever come this far."""
    connection.execute(
        insert(card_registrations).values(
            coverage=registration.coverage,
            stripe_setup_intent_id=registration.stripe_setup_intent_id,
            settings_id=registration.settings_id,
            card_id=card.id,
            registered_at=registration.succeeded_at,
        )
    )


def _store_card(
    connection: Connection, settings: SettingsRow, card: CardSnapshot, known: CardRow | None, now: datetime
) -> CardRow | None:
    """Insert or update the card; return the row, or None if it belongs to other settings."""
    values: dict[str, Any] = {name: getattr(card, name) for name in _CARD_DATA}
    if known is None:
        inserted = connection.execute(
            insert(cards)
            .values(
                settings_id=settings.id,
                coverage=settings.coverage,
                stripe_payment_method_id=card.stripe_payment_method_id,
                attached_at=now,
                **values,
            )
            .on_conflict_do_nothing()
            .returning(cards)
        )
        row = read_one_or_none(CardRow, inserted)
        if row is None:
            raise CardMovedError(card.stripe_payment_method_id)
        return row
    if known.settings_id != settings.id:
        return None
    row = _read_unchanged(connection, known)
    if all(getattr(row, name) == value for name, value in values.items()):
        return row
    updated = connection.execute(update(cards).where(cards.c.id == row.id).values(values).returning(cards))
    return read_one(CardRow, updated)


def _read_unchanged(connection: Connection, known: CardRow) -> CardRow:
    """Read the card again under its settings' lock; CardMovedError if it changed since our request."""
    row = read_one(CardRow, connection.execute(select(cards).where(cards.c.id == known.id)))
    if row != known:
        raise CardMovedError(known.stripe_payment_method_id)
    return row


def _make_primary(
    connection: Connection,
    settings: SettingsRow,
    registration: Registration,
    card: CardRow,
    now: datetime,
    ended_block: str | None,
) -> CardChange:
    if registration.is_replacement:  # a first card that was only added is no choice that outranks a later one
        connection.execute(
            update(cards)
            .where(cards.c.id == card.id)
            .values(stripe_setup_intent_id=registration.stripe_setup_intent_id)
        )
    revision = _change_primary(connection, settings, card.id)
    cause = Cause("customer", now, "a card was registered")
    _record(
        connection,
        settings,
        EventType.CARD_REGISTERED,
        cause,
        card.id,
        revision,
        {
            "stripe_setup_intent_id": registration.stripe_setup_intent_id,
            "intent": REPLACE if registration.is_replacement else ADD,
            **({} if ended_block is None else {"ended_block": ended_block}),
        },
    )
    reach(Failpoint.EVENT_CARD_MADE_PRIMARY)
    wakes = WakesPayments(settings, cause, is_only_for_waiting=False)
    return CardChange("registered the primary card", settings.account_id, wakes)


def _update_primary(
    connection: Connection, settings: SettingsRow, card: CardRow, changed: list[str], now: datetime
) -> CardChange:
    revision = _change_primary(connection, settings, card.id)
    cause = Cause("stripe", now, "the card was updated")
    _record(connection, settings, EventType.CARD_UPDATED, cause, card.id, revision, {"changed": changed})
    wakes = WakesPayments(settings, cause, is_only_for_waiting=True)
    return CardChange("updated the primary card", settings.account_id, wakes)


def _change_primary(connection: Connection, settings: SettingsRow, card_id: UUID | None) -> int:
    """Set the primary card of locked settings and raise the revision, so that waiting payments check it."""
    revision: int = connection.execute(
        update(payment_settings)
        .where(payment_settings.c.id == settings.id)
        .values(primary_card_id=card_id, card_revision=payment_settings.c.card_revision + 1)
        .returning(payment_settings.c.card_revision)
    ).scalar_one()
    return revision


def _record(
    connection: Connection,
    settings: SettingsRow,
    event_type: EventType,
    cause: Cause,
    card_id: UUID,
    revision: int,
    data: Mapping[str, Any] | None = None,
) -> None:
    record_event(
        connection,
        BillingEvent(
            type=event_type,
            at=cause.at,
            actor=cause.actor,
            reason=cause.reason,
            account_id=settings.account_id,
            before={"card_revision": settings.card_revision, "primary_card_id": _text(settings.primary_card_id)},
            after={"card_revision": revision},
            data={"coverage": settings.coverage, "card_id": str(card_id), **(data or {})},
        ),
    )


def _text(value: UUID | None) -> str | None:
    return None if value is None else str(value)
