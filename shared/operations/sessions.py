"""Sessions: a random token in the browser, its hash in a row. Deleting the row ends the session everywhere.

Rows rather than signed cookies, because a copied cookie must stop working as soon as the user signs out.
"""

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, delete, insert, select, update

from shared.db.tables.operators import sessions, users

#: One night on call; a user who is idle for longer signs in again (machine time).
IDLE_FOR = timedelta(hours=12)
#: Even an active session ends after a week.
LASTS_FOR = timedelta(days=7)
#: `last_seen_at` is written at most this often: a page that refreshes itself must not write a row each time.
SEEN_EVERY = timedelta(minutes=1)
#: A form token is valid for as long as its session; 256 bits each.
TOKEN_BYTES = 32


@dataclass(frozen=True)
class SignedIn:
    """A valid session: the user's row and the key that signs the forms."""

    token_hash: str
    user: Any
    csrf_key: str
    last_seen_at: datetime


def begin_session(
    connection: Connection, user_id: UUID, address: str | None, agent: str | None, machine_now: datetime
) -> str:
    """Start a session and return its token, which is not stored. Deletes expired sessions."""
    token = secrets.token_urlsafe(TOKEN_BYTES)
    connection.execute(delete(sessions).where(sessions.c.expires_at < machine_now - LASTS_FOR))
    connection.execute(
        insert(sessions).values(
            token_hash=_hash(token),
            user_id=user_id,
            csrf_key=secrets.token_hex(TOKEN_BYTES),
            began_at=machine_now,
            last_seen_at=machine_now,
            expires_at=machine_now + LASTS_FOR,
            address=address,
            agent=(agent or "")[:200],
        )
    )
    return token


def find_session(connection: Connection, token: str, machine_now: datetime) -> SignedIn | None:
    """Return a token's session; None if there is none, if it ended, or if its user is disabled."""
    row = connection.execute(
        select(users, sessions.c.token_hash, sessions.c.csrf_key, sessions.c.last_seen_at)
        .join(sessions, sessions.c.user_id == users.c.id)
        .where(
            sessions.c.token_hash == _hash(token),
            sessions.c.expires_at > machine_now,
            sessions.c.last_seen_at > machine_now - IDLE_FOR,
            ~users.c.is_disabled,
        )
    ).one_or_none()
    if row is None:
        return None
    return SignedIn(row.token_hash, row, row.csrf_key, row.last_seen_at)


def is_to_be_touched(session: SignedIn, machine_now: datetime) -> bool:
    """Whether the session's last use is old enough to write again."""
    return session.last_seen_at < machine_now - SEEN_EVERY


def touch_session(connection: Connection, session: SignedIn, machine_now: datetime) -> None:
    """Write the session's last use."""
    connection.execute(
        update(sessions).where(sessions.c.token_hash == session.token_hash).values(last_seen_at=machine_now)
    )


def end_session(connection: Connection, token: str) -> None:
    """End one session."""
    connection.execute(delete(sessions).where(sessions.c.token_hash == _hash(token)))


def end_sessions(connection: Connection, user_id: UUID) -> int:
    """End all sessions of a user; return how many there were."""
    return connection.execute(delete(sessions).where(sessions.c.user_id == user_id)).rowcount


def form_token(csrf_key: str, action: str) -> str:
    """Return the token of a form to `action` (a path): valid for this session and this path only."""
    return hmac.new(csrf_key.encode(), action.encode(), hashlib.sha256).hexdigest()


def is_form_token(csrf_key: str, action: str, said: str) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(form_token(csrf_key, action).encode(), said.encode())


def _hash(token: str) -> str:
    # A plain hash is enough: the token is 256 random bits, which can't be guessed.
    return hashlib.sha256(token.encode()).hexdigest()
