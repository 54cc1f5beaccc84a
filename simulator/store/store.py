"""The simulator's store: one SQLite file, one connection, used only from the event loop's thread.

Every change is committed before it is answered. WAL with synchronous=NORMAL: a commit is a write to the WAL file
without fsync, which survives kill -9; only a power failure can lose the last commits
(sqlite.org/pragma.html#pragma_synchronous).
"""

import fcntl
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from simulator.store.ids import instant_part
from simulator.store.records import KINDS, Record, to_plain

R = TypeVar("R", bound=Record)

#: Pages of WAL before SQLite copies them into the database (4 KiB each). Larger than the default 1,000,
#: because each copy costs an fsync on the thread that answers.
CHECKPOINT_PAGES = 8_000
CACHE_KIB = 64 * 1024

_OBJECT_TABLE = """
CREATE TABLE IF NOT EXISTS {table} (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, account TEXT NOT NULL, created INTEGER NOT NULL,
    owner TEXT, parent TEXT, body TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS {table}_by_created ON {table} (account, created, seq);
CREATE INDEX IF NOT EXISTS {table}_by_owner ON {table} (owner, created, seq) WHERE owner IS NOT NULL;
CREATE INDEX IF NOT EXISTS {table}_by_parent ON {table} (parent, created, seq) WHERE {is_by_parent};
"""

#: There are many events, and they are seldom listed by type: their index stays empty, and such a list reads by
#: date.
_SCHEMA = (
    "".join(
        _OBJECT_TABLE.format(table=table, is_by_parent="0" if table == "events" else "parent IS NOT NULL")
        for table in KINDS
    )
    + """
CREATE TABLE IF NOT EXISTS ledger (
    seq INTEGER PRIMARY KEY, account TEXT NOT NULL, charge TEXT NOT NULL UNIQUE,
    payment_intent TEXT NOT NULL UNIQUE, line TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS saved_answers (
    seq INTEGER PRIMARY KEY, account TEXT NOT NULL, key TEXT NOT NULL, request BLOB NOT NULL,
    status INTEGER NOT NULL, body BLOB NOT NULL, request_id TEXT NOT NULL, saved_at REAL NOT NULL,
    UNIQUE (account, key));
CREATE TABLE IF NOT EXISTS cards (
    account TEXT NOT NULL, fingerprint TEXT NOT NULL, token TEXT UNIQUE, card TEXT NOT NULL,
    story TEXT NOT NULL, declined INTEGER NOT NULL DEFAULT 0, paid INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (account, fingerprint)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS webhook_endpoints (
    id TEXT PRIMARY KEY, account TEXT NOT NULL, url TEXT NOT NULL, secret TEXT NOT NULL,
    enabled_events TEXT NOT NULL, UNIQUE (account, url));
CREATE TABLE IF NOT EXISTS deliveries (
    -- AUTOINCREMENT: a courier's cursor must never meet a number again after its row was deleted
    seq INTEGER PRIMARY KEY AUTOINCREMENT, endpoint TEXT NOT NULL, event TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0, first_at REAL NOT NULL, next_at REAL NOT NULL);
CREATE INDEX IF NOT EXISTS deliveries_by_endpoint ON deliveries (endpoint, seq);
CREATE INDEX IF NOT EXISTS deliveries_again ON deliveries (endpoint, next_at) WHERE attempts > 0;
CREATE INDEX IF NOT EXISTS deliveries_by_event ON deliveries (event);
"""
)

_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


class StoreInUse(RuntimeError):  # noqa: N818
    """Another simulator runs on this folder."""


@dataclass(frozen=True)
class Page:
    """The requested part of a list, newest first (docs.stripe.com/api/pagination)."""

    limit: int = 10
    starting_after: str | None = None
    ending_before: str | None = None
    created: Mapping[str, int] | None = None
    until_ns: int | None = None  # only what was created before this instant of machine time
    since: int | None = None  # only what was created from this instant of the business clock on


class Store:
    """Records by kind and id. Every method is one statement; `transaction` groups several."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = (folder / "simulator.lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreInUse(f"another simulator runs on {folder}; stop it or choose another --data") from None
        self.db = sqlite3.connect(folder / "simulator.sqlite3", isolation_level=None, cached_statements=512)
        for pragma in (
            "journal_mode = WAL",
            "synchronous = NORMAL",
            f"wal_autocheckpoint = {CHECKPOINT_PAGES}",
            f"cache_size = -{CACHE_KIB}",
            "temp_store = MEMORY",
        ):
            self.db.execute(f"PRAGMA {pragma}")
        self.db.executescript(_SCHEMA)

    def close(self) -> None:
        self.db.close()
        self._lock.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit all or nothing. Never await inside: all requests share the connection."""
        self.db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self.db.execute("ROLLBACK")
            raise
        self.db.execute("COMMIT")

    # -- records

    def add(self, record: Record) -> None:
        self.db.execute(
            f"INSERT INTO {record.TABLE} (id, account, created, owner, parent, body) VALUES (?, ?, ?, ?, ?, ?)",  # noqa: S608
            (record.id, record.account, record.created, record.owner, record.parent, _encode(to_plain(record))),
        )

    def save(self, record: Record) -> None:
        self.db.execute(
            f"UPDATE {record.TABLE} SET owner = ?, parent = ?, body = ? WHERE id = ?",  # noqa: S608
            (record.owner, record.parent, _encode(to_plain(record)), record.id),
        )

    def get(self, kind: type[R], account: str, object_id: str) -> R | None:
        row = self.db.execute(
            f"SELECT body FROM {kind.TABLE} WHERE id = ? AND account = ?",  # noqa: S608
            (object_id, account),
        ).fetchone()
        return None if row is None else kind(**json.loads(row[0]))

    def count(self, kind: type[Record]) -> int:
        """Return the number of records: none is ever deleted, so the last seq is the count."""
        row = self.db.execute(f"SELECT max(seq) FROM {kind.TABLE}").fetchone()  # noqa: S608
        return int(row[0] or 0)

    def page(
        self,
        kind: type[R],
        account: str,
        page: Page,
        *,
        owner: str | None = None,
        parents: Sequence[str] = (),
    ) -> tuple[list[R], bool]:
        """One page, newest first, and whether more follow."""
        # The plus prevents SQLite from using the index by account when there is a narrower one.
        is_narrow = owner is not None or (bool(parents) and kind.TABLE != "events")
        where, values = ["+account = ?" if is_narrow else "account = ?"], [account]
        if owner is not None:
            where, values = [*where, "owner = ?"], [*values, owner]
        if parents:
            where, values = [*where, f"parent IN ({','.join('?' * len(parents))})"], [*values, *parents]
        return self._page(kind, where, values, page)

    def _page(self, kind: type[R], where: list[str], values: list[Any], page: Page) -> tuple[list[R], bool]:
        for bound, sign in (("gt", ">"), ("gte", ">="), ("lt", "<"), ("lte", "<=")):
            if page.created and bound in page.created:
                where.append(f"created {sign} ?")
                values.append(page.created[bound])
        if page.since is not None:
            where.append("created >= ?")
            values.append(page.since)
        if page.until_ns is not None:  # ids grow with machine time (simulator/store/ids.py)
            where.append("id < ?")
            values.append(f"{kind.PREFIX}_{instant_part(page.until_ns)}")
        is_backwards = page.ending_before is not None
        if cursor := page.ending_before or page.starting_after:
            sign = ">" if is_backwards else "<"
            where.append(f"(created, seq) {sign} (SELECT created, seq FROM {kind.TABLE} WHERE id = ?)")  # noqa: S608
            values.append(cursor)
        order = "ASC" if is_backwards else "DESC"
        rows = self.db.execute(
            f"SELECT body FROM {kind.TABLE} WHERE {' AND '.join(where)} "  # noqa: S608
            f"ORDER BY created {order}, seq {order} LIMIT ?",
            (*values, page.limit + 1),
        ).fetchall()
        found = [kind(**json.loads(body)) for (body,) in rows[: page.limit]]
        return (found[::-1] if is_backwards else found), len(rows) > page.limit

    # -- the ledger

    def add_to_ledger(self, account: str, charge: str, payment_intent: str, line: Mapping[str, Any]) -> None:
        """Add a captured charge to the ledger. A second one for a PaymentIntent violates the unique index."""
        self.db.execute(
            "INSERT INTO ledger (account, charge, payment_intent, line) VALUES (?, ?, ?, ?)",
            (account, charge, payment_intent, _encode(line)),
        )

    def ledger_after(self, seq: int, account: str | None, limit: int) -> list[tuple[int, str]]:
        """The next lines of the ledger, oldest first."""
        return self.db.execute(
            "SELECT seq, line FROM ledger WHERE seq > ? AND (? IS NULL OR account = ?) ORDER BY seq LIMIT ?",
            (seq, account, account, limit),
        ).fetchall()
