"""plain names.

Tables and columns take the names that the pages and the documents use. Renaming changes the catalogue only: no table
is rewritten or scanned, and each lock is held for milliseconds. Processes of the release before don't know the new
names, so they are stopped for this migration (docs/runbook.md, "Upgrading").
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

TABLES = {
    "events": "billing_events",
    "actions": "audit_log",
    "people": "users",
    "lane_pauses": "queue_pauses",
    "process_beats": "heartbeats",
}
COLUMNS = (
    ("payments", "ending_as", "pending_close_as"),
    ("sessions", "person_id", "user_id"),
    ("audit_log", "seen", "snapshot"),
)
INDEXES = {"ix_payments_ending": "ix_payments_pending_close", "ix_sessions_person_id": "ix_sessions_user_id"}
CONSTRAINTS = (
    ("payments", "ck_payments_ending_as_known", "ck_payments_pending_close_as_known"),
    ("sessions", "fk_sessions_person_id_people", "fk_sessions_user_id_users"),
)

# What belongs to a renamed table and carries its name: indexes, constraints (and with them their indexes), triggers
# and the sequence of an identity column.
_NAMED_AFTER = sa.text("""
    SELECT 'ALTER TABLE ' || :new || ' RENAME CONSTRAINT ' || quote_ident(conname) || ' TO '
           || quote_ident(replace(conname, '_' || :old, '_' || :new))
    FROM pg_constraint
    WHERE conrelid = CAST(:new AS regclass) AND conname ~ ('^[a-z]+_' || :old || '(_|$)') AND contype <> 'n'
    UNION ALL
    SELECT 'ALTER INDEX ' || quote_ident(c.relname) || ' RENAME TO '
           || quote_ident(replace(c.relname, '_' || :old, '_' || :new))
    FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
    WHERE i.indrelid = CAST(:new AS regclass) AND c.relname ~ ('^[a-z]+_' || :old || '_')
      AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = c.oid)
    UNION ALL
    SELECT 'ALTER TRIGGER ' || quote_ident(tgname) || ' ON ' || :new || ' RENAME TO '
           || quote_ident(replace(tgname, :old, :new))
    FROM pg_trigger WHERE tgrelid = CAST(:new AS regclass) AND NOT tgisinternal AND tgname ~ ('^' || :old || '_')
    UNION ALL
    SELECT 'ALTER SEQUENCE ' || quote_ident(c.relname) || ' RENAME TO '
           || quote_ident(replace(c.relname, :old || '_', :new || '_'))
    FROM pg_depend d JOIN pg_class c ON c.oid = d.objid AND c.relkind = 'S'
    WHERE d.refobjid = CAST(:new AS regclass) AND d.deptype = 'i' AND c.relname ~ ('^' || :old || '_')
""")


def upgrade() -> None:
    connection = op.get_bind()
    for old, new in TABLES.items():
        op.rename_table(old, new)
        for (statement,) in connection.execute(_NAMED_AFTER, {"old": old, "new": new}).all():
            op.execute(statement)
    for table, old, new in COLUMNS:
        op.alter_column(table, old, new_column_name=new)
    for old, new in INDEXES.items():
        op.execute(f"ALTER INDEX {old} RENAME TO {new}")
    for table, old, new in CONSTRAINTS:
        op.execute(f"ALTER TABLE {table} RENAME CONSTRAINT {old} TO {new}")
    op.execute("UPDATE queue_pauses SET queue = 'reconciliation' WHERE queue = 'night'")
