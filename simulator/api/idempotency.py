"""Idempotency keys as Stripe documents them (docs.stripe.com/api/idempotent_requests).

The first answer to a key is saved, also a 402 or a 500, and replayed to the same request with
`Idempotent-Replayed: true`. A different request with the key gets a 400 `idempotency_error`; one that arrives while
the first is in progress gets a 409. Not saved: failed validations, and these conflicts. Keys belong to an account
and may be pruned after 24 hours of machine time.
"""

import hashlib
import time
import zlib
from dataclasses import dataclass

from simulator.api.errors import Answer, ApiError, error_body
from simulator.faults.hooks import Arrival
from simulator.store.store import Store

MAX_KEY_CHARS = 255
MIN_AGE_S = 24 * 3600
PRUNE_EVERY_S = 600

# A small window for small bodies: setting up the default of 32 KiB costs six times as much as packing 1 KiB.
_WINDOW_BITS, _MEMORY_LEVEL = 12, 5


@dataclass(frozen=True)
class SavedAnswer:
    """The bytes of the first answer, and the id of the request that got it."""

    status: int
    body: bytes
    request_id: str


class Idempotency:
    """The saved answers of all accounts, and the keys in use."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._in_flight: set[tuple[str, str]] = set()

    def find(self, arrival: Arrival) -> SavedAnswer | None:
        """Return the saved answer. Raises ApiError if the key is too long, in use, or another request's."""
        key = arrival.idempotency_key or ""
        if len(key) > MAX_KEY_CHARS:
            raise _conflict(400, f"Idempotency keys may have up to {MAX_KEY_CHARS} characters, not {len(key)}.")
        if (arrival.account, key) in self._in_flight:
            raise _conflict(
                409,
                f"There is currently another request in progress using the idempotency key {key}. Try again later.",
                code="idempotency_key_in_use",
            )
        row = self._store.db.execute(
            "SELECT request, status, body, request_id FROM saved_answers WHERE account = ? AND key = ?",
            (arrival.account, key),
        ).fetchone()
        if row is None:
            return None
        if row[0] != request_digest(arrival):
            raise _conflict(
                400,
                "Keys for idempotent requests can only be used with the same endpoint and parameters they were "
                f"first used with. Use another key than '{key}' for another request.",
                kind="idempotency_error",
            )
        return SavedAnswer(row[1], zlib.decompress(row[2], -_WINDOW_BITS), row[3])

    def hold(self, arrival: Arrival) -> None:
        if arrival.idempotency_key:
            self._in_flight.add((arrival.account, arrival.idempotency_key))

    def release(self, arrival: Arrival) -> None:
        self._in_flight.discard((arrival.account, arrival.idempotency_key or ""))

    def save(self, arrival: Arrival, answer: SavedAnswer) -> None:
        """Save the answer in the transaction of the request's changes."""
        packer = zlib.compressobj(1, zlib.DEFLATED, -_WINDOW_BITS, _MEMORY_LEVEL)
        self._store.db.execute(
            "INSERT INTO saved_answers (account, key, request, status, body, request_id, saved_at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                arrival.account,
                arrival.idempotency_key,
                request_digest(arrival),
                answer.status,
                packer.compress(answer.body) + packer.flush(),
                answer.request_id,
                time.time(),
            ),
        )

    def prune(self, older_than_s: float = MIN_AGE_S) -> int:
        """Delete answers older than this, in machine time. Returns how many."""
        before = time.time() - older_than_s
        first_kept = self._store.db.execute(
            "SELECT seq FROM saved_answers WHERE saved_at > ? ORDER BY seq LIMIT 1", (before,)
        ).fetchone()
        # Rows are ordered by age, so no index by age is needed.
        delete, values = "DELETE FROM saved_answers", first_kept or ()
        return self._store.db.execute(delete + " WHERE seq < ?" if values else delete, values).rowcount


def request_digest(arrival: Arrival) -> bytes:
    """Digest of endpoint and parameters, independent of their order."""
    form = "&".join(sorted(arrival.form.split("&")))
    return hashlib.blake2b(f"{arrival.method} {arrival.path}\n{form}".encode(), digest_size=16).digest()


def _conflict(
    status: int, message: str, *, kind: str = "invalid_request_error", code: str | None = None
) -> ApiError:
    headers = (("Stripe-Should-Retry", "true"),) if status == 409 else ()
    return ApiError(Answer(status, error_body(message, kind, code=code), headers), is_saved=False)
