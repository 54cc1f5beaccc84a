"""what may not change.

The trail, receipts and issued invoices are written once. The database refuses everything else, so that no bug
and no hurried statement at night can rewrite history. Partitioned or archived data is a later migration's matter.
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

FOREVER = ("events", "invoice_lines", "receipts")


def upgrade() -> None:
    op.execute("""
        CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION '% rows are never changed or deleted; write a new one', TG_TABLE_NAME
                USING ERRCODE = 'restrict_violation';
        END $$
    """)
    for table in FOREVER:
        op.execute(
            f"CREATE TRIGGER {table}_are_forever BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
    op.execute("""
        CREATE FUNCTION refuse_invoice_change() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF to_jsonb(NEW) - 'voided_at' <> to_jsonb(OLD) - 'voided_at'
               OR (OLD.voided_at IS NOT NULL AND NEW.voided_at IS DISTINCT FROM OLD.voided_at) THEN
                RAISE EXCEPTION 'invoice % is issued: void it and issue a correction', OLD.number
                    USING ERRCODE = 'restrict_violation';
            END IF;
            RETURN NEW;
        END $$
    """)
    op.execute("""
        CREATE TRIGGER invoices_are_immutable BEFORE UPDATE ON invoices
            FOR EACH ROW EXECUTE FUNCTION refuse_invoice_change()
    """)
    op.execute("""
        CREATE TRIGGER invoices_are_kept BEFORE DELETE OR TRUNCATE ON invoices
            FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()
    """)
