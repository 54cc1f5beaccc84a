"""Leadership: the scheduler whose session holds an advisory lock leads. It saves work; no guarantee depends on it.

Two schedulers may both believe they lead, for the second it takes to notice a broken network. They then insert the
same runs under the same unique keys and enqueue the same rows twice.
"""

import contextlib

import psycopg
import structlog

from shared.failpoints import Failpoint, reach
from shared.scheduling.leader_lock import LEADER_LOCK

log = structlog.get_logger()

#: A session of its own, never one of a pool's, and not through a pooler that shares sessions (pgbouncer in
#: transaction mode): the lock lives as long as the session. Both ends drop a silent connection within some ten
#: seconds (5 + 3 * 2), where the operating system's defaults would take two hours.
CONNECTION: dict[str, object] = {
    "autocommit": True,
    "connect_timeout": 5,
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,  # ms
    "options": "-c tcp_keepalives_idle=5 -c tcp_keepalives_interval=2 -c tcp_keepalives_count=3 "
    "-c statement_timeout=5s -c idle_session_timeout=0",
}


def connect(database_url: str, application_name: str) -> psycopg.Connection[tuple[object, ...]]:
    """Open one of the scheduler's own connections. Raises psycopg.Error."""
    return psycopg.connect(
        database_url,
        **CONNECTION,  # type: ignore[arg-type]  # libpq's parameters are of several types
        application_name=application_name,
    )


class Leadership:
    """Holds or seeks the lead; checked before each tick and each sweep, from one thread at a time."""

    def __init__(self, database_url: str) -> None:
        self._database_url = database_url
        self._connection: psycopg.Connection[tuple[object, ...]] | None = None
        self._leads = False

    def is_ours(self) -> bool:
        """Return whether this scheduler leads now, and seek the lead if it is free. Raises psycopg.Error.

        A leader whose session is gone finds that out here, before it acts, and seeks the lead again next time.
        """
        try:
            if self._connection is None:
                self._connection = connect(self._database_url, "duecourse-scheduler")
            if self._leads:
                self._connection.execute("SELECT 1")  # a session that answers still holds its lock
            elif self._try_lock(self._connection):
                self._leads = True
                reach(Failpoint.LEAD_TAKEN)
                log.info("scheduler.leads")
        except psycopg.Error:
            self._let_go()
            raise
        return self._leads

    def release(self) -> None:
        """Give up the lead, so that a follower gets it at its next tick; without the lead, do nothing."""
        if self._leads and self._connection is not None:
            with contextlib.suppress(psycopg.Error):  # a lost session holds no lock
                self._connection.execute("SELECT pg_advisory_unlock(%s)", (LEADER_LOCK,))
        self._let_go()

    def _let_go(self) -> None:
        if self._leads:
            log.info("scheduler.leads_no_more")
        self._leads = False
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _try_lock(self, connection: psycopg.Connection[tuple[object, ...]]) -> bool:
        row = connection.execute("SELECT pg_try_advisory_lock(%s)", (LEADER_LOCK,)).fetchone()
        return row is not None and row[0] is True
