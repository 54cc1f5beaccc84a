"""Accounts that another transaction has locked: month start passes them over and comes back to them.

A forgotten transaction may keep one row locked for hours, and no account after it would get its invoice. Nothing
waits here: rows that are free are locked, the others are named.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from shared.invoicing.bills import PART

#: The same rows that `LOCKED_CANDIDATES` and `LOCKED_LINES` lock: a fee that isn't locked now would be missing on
#: the month's only invoice.
_FREE_ACCOUNTS = f"""
    WITH wanted AS MATERIALIZED (
        SELECT s.id, s.account_id FROM payment_settings s WHERE {PART} ORDER BY s.account_id LIMIT :accounts
    ), free AS MATERIALIZED (
        SELECT s.account_id FROM payment_settings s WHERE s.id IN (SELECT id FROM wanted)
        FOR SHARE OF s SKIP LOCKED
    ), owed AS MATERIALIZED (
        SELECT f.id, f.account_id
        FROM wanted w JOIN fees f ON f.account_id = w.account_id AND f.coverage = :coverage
        WHERE f.invoice_id IS NULL AND f.period <= :last_day
    ), free_fees AS MATERIALIZED (
        SELECT f.id FROM fees f WHERE f.id IN (SELECT id FROM owed) FOR UPDATE OF f SKIP LOCKED
    )
    SELECT w.account_id,
           w.account_id NOT IN (SELECT account_id FROM free)
               OR w.account_id IN (SELECT account_id FROM owed WHERE id NOT IN (SELECT id FROM free_fees))
               AS is_locked
    FROM wanted w ORDER BY w.account_id
"""  # noqa: S608  # our own constant


@dataclass(frozen=True)
class AccountInPart:
    """An account of the chunk's part, and whether another transaction has its settings or a fee of it locked."""

    id: UUID
    is_locked: bool


def lock_free_accounts(connection: Connection, parameters: Mapping[str, Any]) -> Sequence[AccountInPart]:
    """Lock what a chunk would lock, without waiting; return all accounts of the part in the order of their ids."""
    rows = connection.execute(text(_FREE_ACCOUNTS), parameters)
    return [AccountInPart(row.account_id, row.is_locked) for row in rows]
