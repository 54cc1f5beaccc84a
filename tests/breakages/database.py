"""Breakages of what the database guards by itself: every unique key, and triggers that keep history."""

from tests.breakages.breakage import Breakage

ONE_ROW = "payments/test_one_row_only.py::test_the_database_takes_no_second_row"
CHARGED = "payments/test_written_once.py::test_what_a_charge_wrote_can_not_be_changed"
ISSUED = "payments/test_written_once.py::test_an_issued_invoice_can_not_be_changed"

#: Unique indexes, most of them partial: (name, what may then be twice, invariant).
INDEXES = (
    ("uq_payment_attempts_open", "open attempts of a payment", "I2"),
    ("uq_payment_intents_live", "live PaymentIntents of a payment", "I3"),
    ("uq_payment_intents_stripe_id", "rows of one PaymentIntent", "I3"),
    ("uq_receipts_stripe_charge_id", "receipts of one charge", "I8"),
    ("uq_invoices_monthly", "invoices of a month", "I1"),
    ("uq_payment_settings_coverage_stripe_customer_id", "accounts behind one Stripe customer", "I12"),
)

#: Unique constraints and keys: (table, name, what may then be twice, invariant).
CONSTRAINTS = (
    ("payment_attempts", "uq_payment_attempts_payment_id_number", "attempts with one number, and so one key", "I6"),
    ("payment_intents", "uq_payment_intents_payment_id_ordinal", "PaymentIntents with one ordinal", "I6"),
    ("payments", "uq_payments_invoice_id", "payments of an invoice", "I1"),
    ("invoices", "uq_invoices_number", "invoices with one number", "I1"),
    ("invoices", "uq_invoices_coverage_number_year_number_sequence", "invoices with one place in the year", "I1"),
    ("invoice_counters", "pk_invoice_counters", "counters of a year", "I1"),
    ("invoice_lines", "uq_invoice_lines_fee_id", "lines of one fee", "I1"),
    ("invoice_lines", "uq_invoice_lines_invoice_id_position", "lines in one place", "I1"),
    ("fees", "uq_fees_coverage_external_id", "imports of one fee", "I1"),
    ("fees", "uq_fees_carried_from_payment_id", "fees carried from one payment", "I1"),
    ("services", "uq_services_coverage_external_id", "imports of one service", "I1"),
    ("accounts", "uq_accounts_external_id", "imports of one account", "I1"),
    ("payment_settings", "uq_payment_settings_account_id_coverage", "settings of an account", "I1"),
    ("cards", "uq_cards_coverage_stripe_payment_method_id", "rows of one card", "I15"),
    ("card_registrations", "pk_card_registrations", "registrations by one SetupIntent", "I15"),
    ("card_blocks", "pk_card_blocks", "blocks of one card", "I13"),
    ("runs", "uq_runs_job_period_coverage", "runs of one period", "I1"),
    ("stripe_events", "pk_stripe_events", "rows of one Stripe event", "I12"),
    ("findings", "uq_findings_kind_coverage_subject", "findings of one thing", "I8"),
    ("listed_charges", "pk_listed_charges", "sights of one charge in a reconciliation", "I8"),
)

#: Triggers: (table, name, what may then be rewritten, the tests).
TRIGGERS = (
    (
        "billing_events",
        "billing_events_are_forever",
        "the trail",
        (f"{CHARGED}[UPDATE billing_events SET reason = 'another']",),
    ),
    ("receipts", "receipts_are_forever", "receipts", (f"{CHARGED}[DELETE FROM receipts]",)),
    (
        "invoice_lines",
        "invoice_lines_are_forever",
        "the lines of issued invoices",
        (f"{ISSUED}[UPDATE invoice_lines SET amount_minor = amount_minor + 1]",),
    ),
    (
        "invoices",
        "invoices_are_immutable",
        "issued invoices",
        (
            f"{ISSUED}[UPDATE invoices SET total_minor = total_minor + 1]",
            "payments/test_written_once.py::test_an_invoice_can_be_voided_once",
        ),
    ),
    ("invoices", "invoices_are_kept", "the set of issued invoices", (f"{ISSUED}[DELETE FROM invoices]",)),
)

DATABASE = (
    *(
        Breakage(
            f"without-{name}",
            f"the database takes two {what}",
            (invariant,),
            (f"{ONE_ROW}[{name}]",),
            sql=(f"DROP INDEX {name}",),
        )
        for name, what, invariant in INDEXES
    ),
    *(
        Breakage(
            f"without-{name}",
            f"the database takes two {what}",
            (invariant,),
            (f"{ONE_ROW}[{name}]",),
            sql=(f"ALTER TABLE {table} DROP CONSTRAINT {name}",),
        )
        for table, name, what, invariant in CONSTRAINTS
    ),
    *(
        Breakage(
            f"without-{name}",
            f"{what} may be rewritten",
            ("I10",),
            tests,
            sql=(f"DROP TRIGGER {name} ON {table}",),
        )
        for table, name, what, tests in TRIGGERS
    ),
)
