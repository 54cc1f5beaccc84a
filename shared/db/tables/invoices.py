"""Services, fees and invoices. Constraints are the invariants; I1 is `uq_invoices_monthly`."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
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

services = Table(
    "services",
    metadata,
    primary_key(),
    reference("account_id", "accounts.id"),
    string("coverage"),
    string("external_id"),
    string("description"),
    string("pricing"),  # a price per day of activity, or per month
    minor_units("price_minor"),
    string("currency"),
    day("starts_on"),
    day("ends_on", nullable=True),  # the last active day
    Column("is_protected", Boolean, nullable=False, server_default=text("false")),  # from termination
    created_at(),
    UniqueConstraint("coverage", "external_id"),
    CheckConstraint("price_minor >= 0", name="price_not_negative"),
    CheckConstraint("ends_on IS NULL OR ends_on >= starts_on", name="ends_after_start"),
    one_of("pricing", ("daily", "monthly")),
    Index("ix_services_coverage_account_id", "coverage", "account_id"),
)


invoices = Table(
    "invoices",
    metadata,
    primary_key(),
    reference("account_id", "accounts.id"),
    string("coverage"),
    day("period"),  # first day of the month
    string("number"),
    Column("number_year", Integer, nullable=False),
    Column("number_sequence", BigInteger, nullable=False),
    string("currency"),
    minor_units("total_minor"),
    day("issued_on"),
    day("due_on"),
    json("billing_snapshot"),
    identifier("run_id", nullable=True),
    identifier("corrects_invoice_id", nullable=True),
    instant("voided_at", nullable=True),
    created_at(),
    UniqueConstraint("number"),
    UniqueConstraint("coverage", "number_year", "number_sequence"),
    CheckConstraint("total_minor >= 0", name="total_not_negative"),
    Index(  # I1; a voided invoice keeps its place
        "uq_invoices_monthly",
        "account_id",
        "coverage",
        "period",
        unique=True,
        postgresql_where=text("corrects_invoice_id IS NULL"),
    ),
    Index("ix_invoices_coverage_period", "coverage", "period"),
)


fees = Table(
    "fees",
    metadata,
    primary_key(),
    reference("account_id", "accounts.id"),
    string("coverage"),
    string("external_id"),
    day("period"),
    day("occurred_on", nullable=True),
    string("description"),
    minor_units("amount_minor"),
    string("currency"),
    identifier("invoice_id", nullable=True),  # null until it is a line of an invoice
    identifier("carried_from_payment_id", nullable=True),  # below the minimum last month
    created_at(),
    UniqueConstraint("coverage", "external_id"),
    UniqueConstraint("carried_from_payment_id"),
    CheckConstraint("amount_minor >= 0", name="amount_not_negative"),
    Index("ix_fees_uninvoiced", "coverage", "account_id", "period", postgresql_where=text("invoice_id IS NULL")),
    Index("ix_fees_invoice_id", "invoice_id"),
)


invoice_lines = Table(
    "invoice_lines",
    metadata,
    primary_key(),
    reference("invoice_id", "invoices.id"),
    Column("position", Integer, nullable=False),
    identifier("fee_id", nullable=True),
    identifier("service_id", nullable=True),
    string("description"),
    day("from_on", nullable=True),
    day("until_on", nullable=True),  # inclusive
    Column("active_days", Integer, nullable=True),
    Column("unit_price_minor", BigInteger, nullable=True),
    minor_units("amount_minor"),
    UniqueConstraint("invoice_id", "position"),
    UniqueConstraint("fee_id"),  # a fee is charged on one invoice
    CheckConstraint("(fee_id IS NULL) <> (service_id IS NULL)", name="one_source"),
    CheckConstraint("amount_minor >= 0", name="amount_not_negative"),
)


invoice_counters = Table(  # locked while a chunk is numbered: numbers are gapless because they roll back together
    "invoice_counters",
    metadata,
    string("coverage"),
    Column("year", Integer, nullable=False),
    Column("last_sequence", BigInteger, nullable=False, server_default=text("0")),
    PrimaryKeyConstraint("coverage", "year"),
)
