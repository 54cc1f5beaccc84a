"""The leader's advisory lock, and the channel that wakes the leader when the virtual clock moves."""

from sqlalchemy import Connection, text

#: Held by the leading scheduler on its own connection for as long as it leads: a PostgreSQL advisory lock of
#: this database. The number is the text "duecours" as eight bytes, so that nobody else takes it by accident.
LEADER_LOCK = int.from_bytes(b"duecours", "big")


#: Rung on when the virtual clock was moved, so that the scheduler needn't be waited for.
CLOCK_CHANNEL = "duecourse_clock"


def is_scheduler_alive(connection: Connection) -> bool:
    """Say whether a scheduler leads at this moment: its session holds the leader's lock."""
    return bool(
        connection.scalar(
            text(
                "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1"
                " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
                " AND classid = CAST(:high AS oid) AND objid = CAST(:low AS oid))"
            ),
            {"high": LEADER_LOCK >> 32, "low": LEADER_LOCK & 0xFFFFFFFF},
        )
    )
