"""Find accounts by the start of their number, name or email, and by standing."""

from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Select, func, literal, select, union

from shared.db.query_terms import is_
from shared.db.session import by_index_only
from shared.db.tables.accounts import accounts
from shared.domain.states import Standing
from web.dashboard.queries.paging import PAGE, Paging, ResultPage, make_page

#: A text that matches more accounts than this is rejected as too broad.
MOST_ACCOUNTS = 1_000


def _searched_columns(text: str) -> tuple[Column[Any], ...]:
    """Return the columns to search; each has a prefix index.

    Emails only match from their @ on: viewers see them masked and must not find one out letter by letter.
    """
    named = (accounts.c.external_id, accounts.c.name)
    return (*named, accounts.c.email) if "@" in text else named


def _starts_with(column: Column[Any], text: str) -> ColumnElement[bool]:
    """Whether a column starts with `text`, case-insensitive, with all characters taken literally."""
    exact = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return func.lower(column).like(func.lower(literal(exact + "%")))


def ids_starting_with(text: str, at_most: int | None = None) -> Select[Any]:
    """Select the ids of accounts whose number, name or email starts with `text`; at most `at_most` of each."""
    matches = [
        select(accounts.c.id).where(_starts_with(column, text)).limit(at_most).subquery()
        for column in _searched_columns(text)
    ]
    return select(union(*(select(match.c.id) for match in matches)).subquery().c.id)


def is_too_broad(connection: Connection, text: str) -> bool:
    """Whether more than MOST_ACCOUNTS match; reads no more than that."""
    by_index_only(connection)
    return any(
        connection.scalar(select(accounts.c.id).where(_starts_with(column, text)).offset(MOST_ACCOUNTS).limit(1))
        is not None
        for column in _searched_columns(text)
    )


def find_accounts(connection: Connection, text: str, standing: Standing | None, paging: Paging) -> ResultPage:
    """Return a page of accounts: newest first, or by when they entered the given standing."""
    by_index_only(connection)
    is_bad_standing = standing is not None and standing is not Standing.GOOD
    at = accounts.c.standing_since_at if is_bad_standing else accounts.c.created_at
    query = select(accounts).where(*paging.where(at, accounts.c.id)).order_by(*paging.order(at, accounts.c.id))
    if standing is not None:
        query = query.where(is_(accounts.c.standing, standing))
    if is_bad_standing:
        query = query.where(at.is_not(None))
    if text:
        query = query.where(accounts.c.id.in_(ids_starting_with(text)))
    return make_page(paging, connection.execute(query.limit(PAGE + 1)).all(), at.name)
