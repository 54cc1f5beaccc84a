"""System tables: runs, Stripe events, billing events, findings, the clock."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Identity,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    UniqueConstraint,
    text,
)

from shared.db.columns import created_at, identifier, instant, json, metadata, one_of, primary_key, string
from shared.domain.states import RunState, StripeEventState

runs = Table(
    "runs",
    metadata,
    primary_key(),
    string("job"),  # monthly-invoices, daily-retries, reconciliation: permanent names
    string("period"),  # 2026-10 or 2026-10-31
    string("coverage"),
    string("state"),
    instant("scheduled_for_at"),  # business time at which it became due
    instant("started_at", nullable=True),  # business time
    instant("finished_at", nullable=True),
    string("requested_by"),
    string("confirmed_by", nullable=True),
    string("reason", nullable=True),
    json("counts"),
    json("cursor"),  # where the next chunk starts; written in the chunk's own transaction
    instant("backoff_until", nullable=True),  # machine time: what it needs is unavailable
    string("trouble", nullable=True),  # why it backs off; null once it advances
    created_at(),
    UniqueConstraint("job", "period", "coverage"),  # the guarantee behind leadership and every race
    one_of("state", RunState),
    Index("ix_runs_unfinished", "created_at", postgresql_where=text("state IN ('ready', 'running')")),
)

stripe_events = Table(  # a hint that something happened; the current state is fetched
    "stripe_events",
    metadata,
    string("coverage"),
    string("stripe_event_id"),
    string("type"),
    string("stripe_object_id", nullable=True),
    Column("is_livemode", Boolean, nullable=False),
    instant("stripe_created_at"),
    string("state"),
    Column("tries", Integer, nullable=False, server_default=text("0")),
    instant("try_again_at", nullable=True),  # machine time
    string("trouble", nullable=True),
    instant("applied_at", nullable=True),
    created_at(),
    PrimaryKeyConstraint("coverage", "stripe_event_id"),
    one_of("state", StripeEventState),
    Index("ix_stripe_events_open", "created_at", postgresql_where=text("state IN ('received', 'trouble')")),
    Index("ix_stripe_events_created", "created_at", "stripe_event_id"),
)

billing_events = (
    Table(  # I10: billing events. Rows can't be changed or deleted (trigger); ids and codes, no personal data
        "billing_events",
        metadata,
        Column("id", BigInteger, Identity(always=True), primary_key=True),
        instant("at"),  # business time
        created_at(),
        string("type"),  # past tense, permanent
        string("actor"),  # scheduler, worker, stripe, customer, operator:<name>
        string("reason", nullable=True),
        identifier("account_id", nullable=True),
        identifier("payment_id", nullable=True),
        identifier("attempt_id", nullable=True),
        identifier("run_id", nullable=True),
        json("before"),
        json("after"),
        json("data"),
        Index("ix_billing_events_payment_id", "payment_id", "id"),
        Index("ix_billing_events_account_id", "account_id", "id"),
        Index("ix_billing_events_type", "type", "id"),
        Index(  # a run's own events, without those of its payments
            "ix_billing_events_run_id",
            "run_id",
            "id",
            postgresql_where=text("payment_id IS NULL AND run_id IS NOT NULL"),
        ),
    )
)

findings = Table(  # a difference that an operator must look at, and resolves with a reason
    "findings",
    metadata,
    primary_key(),
    string("kind"),
    string("coverage"),
    identifier("payment_id", nullable=True),
    string("subject"),  # what it is about, so that the same problem is one finding
    json("details"),
    instant("found_at"),
    instant("resolved_at", nullable=True),
    string("resolved_by", nullable=True),
    string("resolution", nullable=True),
    created_at(),
    UniqueConstraint("kind", "coverage", "subject"),
    Index("ix_findings_open", "found_at", postgresql_where=text("resolved_at IS NULL")),
)

listed_charges = Table(  # what one reconciliation listed at the processor; its rows are deleted when it ends
    "listed_charges",
    metadata,
    identifier("reconciliation_id"),  # the run's id, or a new one if an operator reconciles at a terminal
    string("stripe_charge_id"),
    created_at(),
    PrimaryKeyConstraint("reconciliation_id", "stripe_charge_id"),
    Index("ix_listed_charges_created_at", "created_at"),
)

stripe_accounts = Table(  # the Stripe account of each coverage, pinned at first use
    "stripe_accounts",
    metadata,
    string("coverage"),
    string("stripe_account_id"),
    instant("pinned_at"),  # machine time
    string("pinned_by"),  # "first use", or the operator who changed it
    created_at(),
    PrimaryKeyConstraint("coverage"),
)

business_clock = Table(  # one row, only with DUECOURSE_CLOCK=virtual
    "business_clock",
    metadata,
    Column("is_the_only_row", Boolean, primary_key=True, server_default=text("true")),
    instant("now_at"),
    CheckConstraint("is_the_only_row", name="only_row"),
)
