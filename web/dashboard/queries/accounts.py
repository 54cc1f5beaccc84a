"""Looking for accounts by how their number or name begins, by e-mail address, and by standing."""

from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Select, func, literal, select, union

from shared.db.literals import is_
from shared.db.session import by_index_only
from shared.db.tables.accounts import accounts
from shared.domain.states import Standing
from web.dashboard.queries.paging import PAGE, Found, Paging, found

#: Nobody reads a list of more; who typed so little means something else.
MOST_ACCOUNTS = 1_000


def looked_for(words: str) -> tuple[Column[Any], ...]:
    """What people look for; each has an index by how it begins.

    An address only from its @ on: viewers see them masked, and mustn't find one out letter by letter.
    """
    named = (accounts.c.external_id, accounts.c.name)
    return (*named, accounts.c.email) if "@" in words else named


def begins(column: Column[Any], words: str) -> ColumnElement[bool]:
    """Whether a text begins with `words`, in upper or lower case, whatever signs are in them."""
    exact = words.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return func.lower(column).like(func.lower(literal(exact + "%")))


def ids_beginning(words: str, at_most: int | None = None) -> Select[Any]:
    """Ids of the accounts whose number, name or address begins with `words`; `at_most` so many of each."""
    ways = [
        select(accounts.c.id).where(begins(column, words)).limit(at_most).subquery() for column in looked_for(words)
    ]
    return select(union(*(select(way.c.id) for way in ways)).subquery().c.id)


def is_too_broad(connection: Connection, words: str) -> bool:
    """Whether more than MOST_ACCOUNTS begin so; reads no more than that."""
    by_index_only(connection)
    return any(
        connection.scalar(select(accounts.c.id).where(begins(column, words)).offset(MOST_ACCOUNTS).limit(1))
        is not None
        for column in looked_for(words)
    )


def find_accounts(connection: Connection, words: str, standing: Standing | None, paging: Paging) -> Found:
    """Return a page of accounts: the newest first, or those of a standing, by since when they have it."""
    by_index_only(connection)
    in_trouble = standing is not None and standing is not Standing.GOOD
    at = accounts.c.standing_since_at if in_trouble else accounts.c.created_at
    query = select(accounts).where(*paging.where(at, accounts.c.id)).order_by(*paging.order(at, accounts.c.id))
    if standing is not None:
        query = query.where(is_(accounts.c.standing, standing))
    if in_trouble:
        query = query.where(at.is_not(None))
    if words:
        query = query.where(accounts.c.id.in_(ids_beginning(words)))
    return found(paging, connection.execute(query.limit(PAGE + 1)).all(), at.name)
