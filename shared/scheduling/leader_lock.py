"""The leader's advisory lock, and the channel that wakes the leader when the virtual clock moves."""

from sqlalchemy import Connection, text

#: The leading scheduler holds this PostgreSQL advisory lock of this database on its own connection while it leads.
#: The number is the text "duecours" as eight bytes, so that no other program takes it by accident.
LEADER_LOCK = int.from_bytes(b"duecours", "big")


#: NOTIFY channel: sent when the virtual clock moves, so that the scheduler ticks at once.
CLOCK_CHANNEL = "duecourse_clock"


def is_scheduler_alive(connection: Connection) -> bool:
    """Whether a scheduler leads at this moment: its session holds the leader's lock."""
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
