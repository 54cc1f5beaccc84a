"""backoffs.

The index by which the scheduler finds payments that back off although the processor answers again. Built beside the
work of the release before, as in 0003.
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.get_context().autocommit_block():
        # Waits for transactions that are older than itself, and nobody waits for it: so it may wait for long.
        op.execute("SET lock_timeout = 0")
        # An index of a build that was broken off is there, but not valid: away with it first.
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS ix_payments_backing_off")
        op.execute(
            "CREATE INDEX CONCURRENTLY ix_payments_backing_off ON payments (coverage, backoff_until) "
            "WHERE backoff_until IS NOT NULL"
        )
        op.execute("SET lock_timeout = '5s'")
