"""reconciliation.

What a run that waits for the processor says of itself, what a reconciliation saw there, and the indexes by which it
reads what we hold paid in a time. New columns are nullable and without default, so that no table is rewritten; the
indexes are built beside the work of the release before, which goes on charging. They come first: what is built so is
committed at once, and a migration that is broken off there starts again with nothing in its way.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.get_context().autocommit_block():
        # Waits for transactions that are older than itself, and nobody waits for it: so it may wait for long.
        op.execute("SET lock_timeout = 0")
        # An index of a build that was broken off is there, but not valid: away with it first.
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS ix_receipts_received_at")
        op.execute("CREATE INDEX CONCURRENTLY ix_receipts_received_at ON receipts (coverage, received_at)")
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS ix_payments_paid")
        op.execute(
            "CREATE INDEX CONCURRENTLY ix_payments_paid ON payments (coverage, paid_at) WHERE state = 'paid'"
        )
        op.execute("SET lock_timeout = '5s'")
    op.add_column("runs", sa.Column("backoff_until", sa.DateTime(timezone=True), nullable=True))
    op.add_column("runs", sa.Column("trouble", sa.Text(), nullable=True))
    op.create_table(
        "listed_charges",
        sa.Column("reconciliation_id", sa.Uuid(), nullable=False),
        sa.Column("stripe_charge_id", sa.Text(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("reconciliation_id", "stripe_charge_id", name=op.f("pk_listed_charges")),
    )
    op.create_index("ix_listed_charges_created_at", "listed_charges", ["created_at"])
