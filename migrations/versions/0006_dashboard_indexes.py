"""dashboard indexes.

Fills the columns of 0005 in small steps and builds the indexes by which pages find things among millions, all beside
the work of the release before. Each step is committed at once; broken off, it starts again and finds what is done.
"""

from uuid import UUID

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

INDEXES = (
    ("ix_accounts_created", "accounts (created_at, id)"),
    ("ix_accounts_email_prefix", "accounts (lower(email) text_pattern_ops)"),
    ("ix_accounts_external_id_prefix", "accounts (lower(external_id) text_pattern_ops)"),
    ("ix_accounts_name_prefix", "accounts (lower(name) text_pattern_ops)"),
    ("ix_accounts_standing", "accounts (standing, standing_since_at, id) WHERE standing <> 'good'"),
    ("ix_events_run_id", "events (run_id, id) WHERE payment_id IS NULL AND run_id IS NOT NULL"),
    ("ix_payment_attempts_finished", "payment_attempts (finished_at)"),
    ("ix_payment_attempts_started", "payment_attempts (started_at)"),
    (
        "ix_payment_attempts_stripe_charge_id",
        "payment_attempts (stripe_charge_id) WHERE stripe_charge_id IS NOT NULL",
    ),
    (
        "ix_payment_attempts_stripe_request_id",
        "payment_attempts (stripe_request_id) WHERE stripe_request_id IS NOT NULL",
    ),
    ("ix_payments_amount", "payments (amount_minor, created_at, id)"),
    ("ix_payments_created", "payments (created_at, id)"),
    ("ix_payments_trigger_created", "payments (trigger, created_at, id)"),
    ("ix_payments_held", "payments (created_at, id) WHERE held_until IS NOT NULL"),
    (
        "ix_payments_unpaid_due_on",
        "payments (due_on, id) WHERE state NOT IN ('paid', 'carried_forward', 'uncollectible', 'void')",
    ),
    (
        "ix_payments_decline_code_created",
        "payments (last_decline_code, created_at, id) WHERE last_decline_code IS NOT NULL",
    ),
    ("ix_payments_ending", "payments (id) WHERE ending_as IS NOT NULL"),
    ("ix_payments_first_declined", "payments (coverage, first_declined_at) WHERE first_declined_at IS NOT NULL"),
    ("ix_payments_period", "payments (coverage, period, state) INCLUDE (amount_minor)"),
    ("ix_payments_state_created", "payments (state, created_at, id)"),
    ("ix_stripe_events_created", "stripe_events (created_at, stripe_event_id)"),
)

#: Locked for some 0.1 s each, in the order of ids, as everybody locks payments.
FILL = sa.text("""
    WITH batch AS MATERIALIZED (
        SELECT id FROM payments WHERE id > :after ORDER BY id LIMIT 2000 FOR NO KEY UPDATE
    ),
    filled AS (
        UPDATE payments p
        SET period = (SELECT i.period FROM invoices i WHERE i.id = p.invoice_id),
            last_decline_code = (
                SELECT coalesce(a.decline_code, a.code) FROM payment_attempts a
                WHERE a.payment_id = p.id AND a.state = 'declined' ORDER BY a.number DESC LIMIT 1
            )
        FROM batch WHERE p.id = batch.id AND p.period IS NULL AND p.last_decline_code IS NULL
    )
    SELECT max(id::text) FROM batch
""")


def upgrade() -> None:
    with op.get_context().autocommit_block():
        # Waits for transactions that are older than itself, and nobody waits for it: so it may wait for long.
        op.execute("SET lock_timeout = 0")
        op.execute("ALTER TABLE payments VALIDATE CONSTRAINT ck_payments_ending_as_known")
        after = UUID(int=0)
        while found := op.get_bind().scalar(FILL, {"after": after}):
            after = UUID(found)
        for name, definition in INDEXES:
            # An index of a build that was broken off is there, but not valid: away with it first.
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            op.execute(f"CREATE INDEX CONCURRENTLY {name} ON {definition}")
        op.execute("SET lock_timeout = '5s'")
