"""Payments, their PaymentIntents, attempts and receipts. The core of I1 to I6."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Index,
    Integer,
    Table,
    UniqueConstraint,
    text,
)

from shared.db.columns import (
    created_at,
    day,
    identifier,
    instant,
    json,
    metadata,
    minor_units,
    one_of,
    primary_key,
    reference,
    string,
)
from shared.domain.states import (
    AttemptKind,
    AttemptState,
    Lane,
    PaymentKind,
    PaymentState,
    Trigger,
)

payments = Table(
    "payments",
    metadata,
    primary_key(),
    string("kind"),
    reference("account_id", "accounts.id"),
    reference("settings_id", "payment_settings.id"),
    string("coverage"),
    reference("invoice_id", "invoices.id", nullable=True),
    string("currency"),
    minor_units("amount_minor"),
    string("state"),
    string("state_reason", nullable=True),
    string("lane"),
    string("trigger"),
    string("requested_by", nullable=True),
    instant("next_attempt_at", nullable=True),  # business time
    instant("held_until", nullable=True),  # business time; 9999-12-31 waits for an operator
    instant("backoff_until", nullable=True),  # machine time: an outage, never a decline
    Column("not_sent_count", Integer, nullable=False, server_default=text("0")),  # since the last answer
    Column("waiting_for_revision_after", BigInteger, nullable=True),  # I15: the card revision that it waits to pass
    day("due_on"),
    Column("decline_count", Integer, nullable=False, server_default=text("0")),
    Column("attempt_count", Integer, nullable=False, server_default=text("0")),
    identifier("run_id", nullable=True),
    instant("first_declined_at", nullable=True),
    instant("paid_at", nullable=True),
    day("period", nullable=True),  # its invoice's; copied here, so that a month's sums need no join
    string("last_decline_code", nullable=True),  # of the last decline; users search for it
    string("pending_close_as", nullable=True),  # the pending close, done once its PaymentIntent is canceled (I3)
    created_at(),
    UniqueConstraint("invoice_id"),
    one_of("kind", PaymentKind),
    one_of("state", PaymentState),
    one_of("lane", Lane),
    one_of("trigger", Trigger),
    one_of("pending_close_as", (PaymentState.UNCOLLECTIBLE, PaymentState.VOID)),
    CheckConstraint("amount_minor >= 0", name="amount_not_negative"),
    CheckConstraint("(state = 'paid') = (paid_at IS NOT NULL)", name="paid_has_a_time"),
    CheckConstraint(
        "(state IN ('due', 'retry_scheduled')) = (next_attempt_at IS NOT NULL)", name="chargeable_has_a_time"
    ),
    CheckConstraint(
        "(state IN ('needs_payment_method', 'needs_authentication')) = (waiting_for_revision_after IS NOT NULL)",
        name="waiting_names_its_revision",
    ),
    Index(
        "ix_payments_due",
        "lane",
        "next_attempt_at",
        postgresql_where=text("state IN ('due', 'retry_scheduled')"),
    ),
    Index(
        "ix_payments_waiting_for_card",
        "settings_id",
        "waiting_for_revision_after",
        postgresql_where=text("state IN ('needs_payment_method', 'needs_authentication')"),
    ),
    Index(
        "ix_payments_unpaid",
        "account_id",
        "coverage",
        postgresql_where=text("state NOT IN ('paid', 'carried_forward', 'uncollectible', 'void')"),
    ),
    Index("ix_payments_account_id", "account_id"),
    Index(
        "ix_payments_backing_off", "coverage", "backoff_until", postgresql_where=text("backoff_until IS NOT NULL")
    ),
    Index("ix_payments_paid", "coverage", "paid_at", postgresql_where=text("state = 'paid'")),
    # What users list, newest first, page by page.
    Index("ix_payments_created", "created_at", "id"),
    Index("ix_payments_state_created", "state", "created_at", "id"),
    Index(
        "ix_payments_decline_code_created",
        "last_decline_code",
        "created_at",
        "id",
        postgresql_where=text("last_decline_code IS NOT NULL"),
    ),
    Index("ix_payments_amount", "amount_minor", "created_at", "id"),
    Index("ix_payments_trigger_created", "trigger", "created_at", "id"),
    Index("ix_payments_held", "created_at", "id", postgresql_where=text("held_until IS NOT NULL")),
    Index(
        "ix_payments_unpaid_due_on",
        "due_on",
        "id",
        postgresql_where=text("state NOT IN ('paid', 'carried_forward', 'uncollectible', 'void')"),
    ),
    # A month's sums, and how many of its declined payments were recovered.
    Index("ix_payments_period", "coverage", "period", "state", postgresql_include=["amount_minor"]),
    Index(
        "ix_payments_first_declined",
        "coverage",
        "first_declined_at",
        postgresql_where=text("first_declined_at IS NOT NULL"),
    ),
    Index("ix_payments_pending_close", "id", postgresql_where=text("pending_close_as IS NOT NULL")),
)

payment_intents = Table(
    "payment_intents",
    metadata,
    primary_key(),
    reference("payment_id", "payments.id"),
    Column("ordinal", Integer, nullable=False),
    string("coverage"),
    minor_units("amount_minor"),
    string("currency"),
    string("stripe_customer_id"),
    string("stripe_payment_intent_id", nullable=True),  # null until the create is answered
    json("create_parameters"),  # sent again unchanged under the same key
    string("api_version"),
    instant("first_sent_at", nullable=True),  # machine time of the first create; the key is good for 23 h
    string("status", nullable=True),  # as Stripe last reported it
    string("latest_charge_id", nullable=True),
    string("cancellation_reason", nullable=True),
    string("closed_reason", nullable=True),  # null while live; then succeeded, canceled or abandoned
    instant("closed_at", nullable=True),
    created_at(),
    UniqueConstraint("payment_id", "ordinal"),
    Index(
        "uq_payment_intents_stripe_id",
        "coverage",
        "stripe_payment_intent_id",
        unique=True,
        postgresql_where=text("stripe_payment_intent_id IS NOT NULL"),
    ),
    Index(  # I3: at most one live PaymentIntent per payment
        "uq_payment_intents_live", "payment_id", unique=True, postgresql_where=text("closed_reason IS NULL")
    ),
    CheckConstraint("(closed_reason IS NULL) = (closed_at IS NULL)", name="closed_has_a_time"),
    one_of("closed_reason", ("succeeded", "canceled", "abandoned")),
)

payment_attempts = Table(
    "payment_attempts",
    metadata,
    primary_key(),
    reference("payment_id", "payments.id"),
    Column("number", Integer, nullable=False),
    string("kind"),
    string("state"),
    reference("payment_intent_id", "payment_intents.id"),
    string("coverage"),
    string("trigger"),
    string("lane"),
    string("requested_by", nullable=True),
    identifier("card_id", nullable=True),
    string("stripe_payment_method_id", nullable=True),
    Column("card_revision", BigInteger, nullable=False),
    string("card_fingerprint", nullable=True),
    string("card_network", nullable=True),
    instant("started_at"),  # business time
    instant("lease_expires_at"),  # machine time
    instant("confirm_allowed_at", nullable=True),  # machine time; while null, no confirm can have been sent
    instant("look_up_at", nullable=True),  # machine time of the next look-up, while unknown
    Column("look_ups", Integer, nullable=False, server_default=text("0")),
    instant("finished_at", nullable=True),  # business time
    string("stripe_charge_id", nullable=True),
    Column("http_status", Integer, nullable=True),
    string("error_type", nullable=True),
    string("code", nullable=True),
    string("decline_code", nullable=True),
    string("advice_code", nullable=True),
    string("network_advice_code", nullable=True),
    string("network_decline_code", nullable=True),
    string("stripe_request_id", nullable=True),
    string("outcome_reason", nullable=True),  # a text for users
    created_at(),
    UniqueConstraint("payment_id", "number"),
    one_of("kind", AttemptKind),
    one_of("state", AttemptState),
    one_of("lane", Lane),
    one_of("trigger", Trigger),
    Index(  # I2: one open attempt per payment, of whatever kind
        "uq_payment_attempts_open",
        "payment_id",
        unique=True,
        postgresql_where=text("state IN ('started', 'unknown')"),
    ),
    Index("ix_payment_attempts_lease", "lease_expires_at", postgresql_where=text("state = 'started'")),
    Index("ix_payment_attempts_look_up", "look_up_at", postgresql_where=text("state = 'unknown'")),
    # Counts the networks' budgets.
    Index("ix_payment_attempts_card", "coverage", "card_fingerprint", "started_at"),
    Index("ix_payment_attempts_payment_intent_id", "payment_intent_id"),
    Index("ix_payment_attempts_started", "started_at"),
    Index("ix_payment_attempts_finished", "finished_at"),
    # Ids that users copy from the processor's own pages.
    Index(
        "ix_payment_attempts_stripe_charge_id",
        "stripe_charge_id",
        postgresql_where=text("stripe_charge_id IS NOT NULL"),
    ),
    Index(
        "ix_payment_attempts_stripe_request_id",
        "stripe_request_id",
        postgresql_where=text("stripe_request_id IS NOT NULL"),
    ),
)

receipts = Table(  # money received, whether or not the payment was still open
    "receipts",
    metadata,
    primary_key(),
    reference("payment_id", "payments.id"),
    identifier("attempt_id", nullable=True),
    string("coverage"),
    string("stripe_charge_id", nullable=True),
    minor_units("amount_minor"),
    string("currency"),
    instant("received_at"),  # business time
    created_at(),
    Index(
        "uq_receipts_stripe_charge_id",
        "coverage",
        "stripe_charge_id",
        unique=True,
        postgresql_where=text("stripe_charge_id IS NOT NULL"),
    ),
    Index("ix_receipts_payment_id", "payment_id"),
    Index("ix_receipts_received_at", "coverage", "received_at"),
)
