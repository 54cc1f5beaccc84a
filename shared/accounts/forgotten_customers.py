"""Forget a Stripe customer that was deleted at Stripe, so that its account can have another one (I14)."""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, func, select, update

from shared.accounts.cards import detach_card
from shared.accounts.standing import lock_account
from shared.db.billing_events import BillingEvent, Cause, record_event
from shared.db.rows import CardRow, read_all
from shared.db.tables.accounts import accounts, cards, payment_settings
from shared.domain.event_types import EventType
from shared.domain.refusals import NO_REASON, Refused
from shared.gateway.port import Missing
from shared.operations.audit_log import AuditAction, record_decision


@dataclass(frozen=True)
class KnownCustomer:
    """An account's Stripe customer as the preview shows it; one of its cards tells whether the key is right."""

    settings_id: UUID
    account_id: UUID
    coverage: str
    stripe_customer_id: str
    cards: int
    cards_in_use: int
    a_payment_method_id: str


def find_customer(connection: Connection, account: str, coverage: str) -> KnownCustomer | None:
    """Return the Stripe customer of an account (by its number); None without one, or without registered cards."""
    row = connection.execute(
        select(
            payment_settings.c.id,
            payment_settings.c.account_id,
            payment_settings.c.stripe_customer_id,
            func.count().label("cards"),
            func.count().filter(cards.c.detached_at.is_(None)).label("in_use"),
            func.max(cards.c.stripe_payment_method_id).label("payment_method_id"),
        )
        .join(accounts, accounts.c.id == payment_settings.c.account_id)
        .join(cards, cards.c.settings_id == payment_settings.c.id)
        .where(
            accounts.c.external_id == account,
            payment_settings.c.coverage == coverage,
            payment_settings.c.stripe_customer_id.is_not(None),
        )
        .group_by(payment_settings.c.id)
    ).one_or_none()
    if row is None:
        return None
    return KnownCustomer(
        row.id, row.account_id, coverage, row.stripe_customer_id, row.cards, row.in_use, row.payment_method_id
    )


def forget_customer(
    connection: Connection, seen: KnownCustomer, missing: Missing | None, cause: Cause
) -> KnownCustomer | Refused:
    """Take the customer off the account and its cards out of use; nothing is charged.

    `missing` is what Stripe answered: only a customer that it knows as deleted is forgotten.
    """
    lock_account(connection, seen.account_id)
    present = connection.scalar(
        select(payment_settings.c.stripe_customer_id)
        .where(payment_settings.c.id == seen.settings_id)
        .with_for_update(key_share=True)
    )
    refused = _why_not(seen, missing, cause, present)
    snapshot = {"stripe_customer_id": seen.stripe_customer_id, "cards": seen.cards}
    subject = ("account", str(seen.account_id))
    record_decision(connection, AuditAction.CUSTOMER_FORGET, subject, cause, refused, snapshot)
    if refused is not None:
        return refused
    of_customer = select(cards).where(cards.c.settings_id == seen.settings_id, cards.c.detached_at.is_(None))
    for card in read_all(CardRow, connection.execute(of_customer)):
        detach_card(connection, card, cause.at)
    connection.execute(
        update(payment_settings).where(payment_settings.c.id == seen.settings_id).values(stripe_customer_id=None)
    )
    record_event(
        connection,
        BillingEvent(
            type=EventType.STRIPE_CUSTOMER_FORGOTTEN,
            at=cause.at,
            actor=cause.actor,
            reason=cause.reason.strip(),
            account_id=seen.account_id,
            before={"stripe_customer_id": seen.stripe_customer_id},
            after={"stripe_customer_id": None},
            data={"coverage": seen.coverage},
        ),
    )
    return seen


def _why_not(seen: KnownCustomer, missing: Missing | None, cause: Cause, present: str | None) -> Refused | None:
    if not cause.reason.strip():
        return NO_REASON
    if present != seen.stripe_customer_id:
        return Refused("the account has another customer by now", "look at it again")
    if missing is Missing.BOTH_UNKNOWN:
        return Refused(
            "Stripe knows neither the customer nor its card: the key is probably another account's",
            "check STRIPE_API_KEYS with `duecourse doctor`",
        )
    if missing is not Missing.CUSTOMER:
        return Refused("Stripe still has the customer", "nothing: its customer can register cards as before")
    return None
