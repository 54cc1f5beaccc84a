"""Accounts, payment settings and cards. Constraints are the invariants (I1–I15).

Services, fees and invoices are in `invoices.py`, payments and attempts in `payments.py`, system tables (runs,
Stripe
events, billing events, the clock) in `system.py`, users and their actions in `operators.py`.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    UniqueConstraint,
    text,
)

from shared.db.columns import (
    created_at,
    identifier,
    instant,
    json,
    metadata,
    one_of,
    primary_key,
    reference,
    string,
)
from shared.domain.states import (
    SettingsKind,
    Standing,
)

accounts = Table(
    "accounts",
    metadata,
    primary_key(),
    string("external_id"),
    string("name"),
    string("email", nullable=True),
    string("standing", default=Standing.GOOD.value),
    instant("standing_since_at", nullable=True),
    string("standing_reason", nullable=True),
    Column("is_suspended", Boolean, nullable=False, server_default=text("false")),  # set by provisioning
    created_at(),
    UniqueConstraint("external_id"),
    one_of("standing", Standing),
    # Users search accounts by the start of their name, number or address.
    Index("ix_accounts_external_id_prefix", text("lower(external_id) text_pattern_ops")),
    Index("ix_accounts_name_prefix", text("lower(name) text_pattern_ops")),
    Index("ix_accounts_email_prefix", text("lower(email) text_pattern_ops")),
    Index("ix_accounts_created", "created_at", "id"),
    Index(
        "ix_accounts_standing",
        "standing",
        "standing_since_at",
        "id",
        postgresql_where=text("standing <> 'good'"),
    ),
)

payment_settings = Table(
    "payment_settings",
    metadata,
    primary_key(),
    reference("account_id", "accounts.id"),
    string("coverage"),
    string("kind"),
    string("stripe_customer_id", nullable=True),
    identifier("primary_card_id", nullable=True),  # cards.id; the cards table refers back here
    # Changes whenever the primary card or its data does; a payment that waits for a card holds the one it was
    # given.
    Column("card_revision", BigInteger, nullable=False, server_default=text("0")),
    string("language", nullable=True),
    json("billing_details"),  # name, email, address, tax id: what an invoice snapshots
    created_at(),
    UniqueConstraint("account_id", "coverage"),
    one_of("kind", SettingsKind),
    Index("uq_payment_settings_coverage_stripe_customer_id", "coverage", "stripe_customer_id", unique=True),
)

cards = Table(
    "cards",
    metadata,
    primary_key(),
    reference("settings_id", "payment_settings.id"),
    string("coverage"),
    string("stripe_payment_method_id"),
    string("brand"),
    string("network", nullable=True),
    string("last4"),
    Column("exp_month", Integer, nullable=False),
    Column("exp_year", Integer, nullable=False),
    string("fingerprint"),
    instant("attached_at"),
    instant("detached_at", nullable=True),
    string("stripe_setup_intent_id", nullable=True),  # the one that made it primary
    UniqueConstraint("coverage", "stripe_payment_method_id"),
    Index("ix_cards_settings_id", "settings_id"),
)

card_registrations = Table(  # one row per SetupIntent that made a card primary: it counts once, however many events
    "card_registrations",
    metadata,
    string("coverage"),
    string("stripe_setup_intent_id"),
    reference("settings_id", "payment_settings.id"),
    reference("card_id", "cards.id"),
    instant("registered_at"),
    PrimaryKeyConstraint("coverage", "stripe_setup_intent_id"),
)

card_blocks = Table(  # cards that must never be charged again, wherever they are registered
    "card_blocks",
    metadata,
    string("coverage"),
    string("fingerprint"),
    string("reason"),
    identifier("attempt_id"),
    instant("blocked_at"),
    PrimaryKeyConstraint("coverage", "fingerprint"),
)
