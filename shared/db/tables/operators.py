"""Tables of the operators' dashboard: users, sessions, the audit log, bulk actions, queue pauses, heartbeats.

None of them decides about money: without these rows every payment is collected all the same.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Identity,
    Index,
    PrimaryKeyConstraint,
    Table,
    UniqueConstraint,
    text,
)

from shared.db.columns import (
    created_at,
    instant,
    json,
    metadata,
    minor_units,
    one_of,
    primary_key,
    reference,
    string,
)
from shared.domain.roles import Role

users = Table(
    "users",
    metadata,
    primary_key(),
    string("name"),  # lower case; never reused, since the audit log and billing events name users by it
    string("role"),
    string("password_hash", nullable=True),  # argon2id; null: sign-in only through a trusted proxy
    string("time_zone", nullable=True),
    Column("is_disabled", Boolean, nullable=False, server_default=text("false")),
    string("added_by"),
    instant("password_changed_at", nullable=True),  # machine time
    created_at(),
    UniqueConstraint("name"),
    one_of("role", Role),
)

sessions = Table(
    "sessions",
    metadata,
    string("token_hash"),  # only the browser has the token itself
    reference("user_id", "users.id"),
    string("csrf_key"),
    instant("began_at"),  # machine time, as in all of this table
    instant("last_seen_at"),
    instant("expires_at"),
    string("address", nullable=True),
    string("agent", nullable=True),
    PrimaryKeyConstraint("token_hash"),
    Index("ix_sessions_user_id", "user_id"),
    Index("ix_sessions_expires_at", "expires_at"),
)

sign_in_failures = Table(
    "sign_in_failures",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    string("name"),  # as typed
    string("address"),
    instant("at"),  # machine time
    Index("ix_sign_in_failures_name", "name", "at"),
    Index("ix_sign_in_failures_address", "address", "at"),
)

audit_log = Table(  # rows can't be changed or deleted (trigger)
    "audit_log",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    instant("at"),  # business time
    created_at(),
    string("actor"),
    string("role", nullable=True),
    string("address", nullable=True),
    string("action"),  # permanent: payment.charge, lane.pause, …
    string("subject_kind", nullable=True),
    string("subject", nullable=True),
    string("reason", nullable=True),
    string("outcome"),
    json("snapshot"),
    json("result"),
    Index("ix_audit_log_actor", "actor", "id"),
    Index("ix_audit_log_action", "action", "id"),
    Index("ix_audit_log_subject", "subject", "id"),
    Index("ix_audit_log_at", "at"),
    one_of("outcome", ("done", "refused", "started", "finished")),
)

bulk_actions = Table(  # one action over many payments, previewed and confirmed by an operator; done in chunks
    "bulk_actions",
    metadata,
    primary_key(),
    string("action"),
    json("filter"),
    json("parameters"),
    string("reason"),
    string("requested_by"),
    instant("requested_at"),  # business time
    string("state"),
    string("digest"),  # of the previewed ids and amounts
    json("sums"),  # by currency, minor units
    Column("expected", BigInteger, nullable=False),
    json("counts"),
    instant("finished_at", nullable=True),
    created_at(),
    one_of("state", ("running", "stopped", "finished")),
    Index("ix_bulk_actions_unfinished", "created_at", postgresql_where=text("state = 'running'")),
    Index("ix_bulk_actions_created_at", "created_at"),
)

bulk_items = Table(
    "bulk_items",
    metadata,
    reference("bulk_id", "bulk_actions.id"),
    reference("payment_id", "payments.id"),
    minor_units("amount_minor"),
    string("currency"),
    string("state"),
    string("result", nullable=True),  # why it was refused
    instant("done_at", nullable=True),  # business time
    PrimaryKeyConstraint("bulk_id", "payment_id"),
    one_of("state", ("waiting", "done", "refused", "stopped")),
    # A payment is in one unfinished bulk action: two operators who confirm the same at once don't do it twice.
    Index("uq_bulk_items_waiting", "payment_id", unique=True, postgresql_where=text("state = 'waiting'")),
    Index("ix_bulk_items_of_bulk", "bulk_id", "payment_id", postgresql_where=text("state = 'waiting'")),
)

queue_pauses = Table(  # a row stops the workers from taking messages of a queue
    "queue_pauses",
    metadata,
    string("queue"),
    string("paused_by"),
    string("reason"),
    instant("paused_at"),  # business time
    created_at(),
    PrimaryKeyConstraint("queue"),
)

heartbeats = Table(  # one row per live process
    "heartbeats",
    metadata,
    string("process"),  # kind, host, pid and start time: one start of one process
    string("kind"),  # web, scheduler, worker
    json("data"),  # queues, threads, pid, host, release
    instant("started_at"),  # machine time
    instant("seen_at"),  # machine time
    PrimaryKeyConstraint("process"),
    Index("ix_heartbeats_seen_at", "seen_at"),
)
