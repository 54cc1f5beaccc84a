"""The global search: find payments, accounts and runs by any of their ids, numbers or names, by index only."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import CompoundSelect, Connection, Select, select, union

from shared.db.session import by_index_only
from shared.db.tables.accounts import accounts, cards, payment_settings
from shared.db.tables.invoices import invoices
from shared.db.tables.payments import payment_attempts, payment_intents, payments, receipts
from shared.db.tables.system import runs
from web.dashboard.queries.accounts import ids_starting_with

#: Results shown; beyond that, the filter pages serve better.
MOST_HITS = 20


@dataclass(frozen=True)
class SearchHit:
    """A result: a `payment`, an `account` or a `run`, and its display name."""

    kind: str
    id: UUID
    name: str
    state: str


@dataclass(frozen=True)
class SearchResults:
    """The results, at most MOST_HITS, and descriptions of the lookups that were tried."""

    hits: tuple[SearchHit, ...]
    has_more: bool
    tried: tuple[str, ...]


@dataclass(frozen=True)
class _Lookup:
    """One lookup: which texts it applies to, and its query. Lookups run in order until one finds something."""

    name: str
    applies_to: Callable[[str], bool]
    run: Callable[[Connection, str, list[str]], list[SearchHit]]


def search(connection: Connection, wanted: str, coverages: Iterable[str]) -> SearchResults:
    """Search for an id, number or name. The processor's ids are searched in all `coverages`."""
    by_index_only(connection)
    known, tried = sorted(coverages), []
    for lookup in _LOOKUPS:
        if not lookup.applies_to(wanted):
            continue
        tried.append(lookup.name)
        hits = list(dict.fromkeys(lookup.run(connection, wanted, known)))
        if hits:
            return SearchResults(tuple(hits[:MOST_HITS]), len(hits) > MOST_HITS, tuple(tried))
    return SearchResults((), False, tuple(tried))


def _has_prefix(*prefixes: str) -> Callable[[str], bool]:
    return lambda wanted: wanted.startswith(prefixes)


def _is_id(wanted: str) -> bool:
    return re.fullmatch(r"[0-9a-fA-F]{8}(-?[0-9a-fA-F]{4}){3}-?[0-9a-fA-F]{12}", wanted) is not None


def _by_id(connection: Connection, wanted: str, _coverages: list[str]) -> list[SearchHit]:
    id_ = UUID(wanted)
    ids = union(
        select(payments.c.id).where(payments.c.id == id_),
        select(payments.c.id).where(payments.c.invoice_id == id_),
        select(payment_attempts.c.payment_id).where(payment_attempts.c.id == id_),
    )
    run = connection.execute(select(runs).where(runs.c.id == id_)).one_or_none()
    of_run = [] if run is None else [SearchHit("run", run.id, f"{run.job} {run.period}, {run.coverage}", run.state)]
    return (
        _payments(connection, ids)
        + _accounts(connection, select(accounts.c.id).where(accounts.c.id == id_))
        + of_run
    )


def _by_intent(connection: Connection, wanted: str, coverages: list[str]) -> list[SearchHit]:
    intents = payment_intents.c
    return _payments(
        connection,
        select(intents.payment_id).where(
            intents.coverage.in_(coverages), intents.stripe_payment_intent_id == wanted
        ),
    )


def _by_charge(connection: Connection, wanted: str, coverages: list[str]) -> list[SearchHit]:
    attempts = payment_attempts.c
    return _payments(
        connection,
        union(
            select(attempts.payment_id).where(attempts.stripe_charge_id == wanted),
            select(receipts.c.payment_id).where(
                receipts.c.coverage.in_(coverages), receipts.c.stripe_charge_id == wanted
            ),
        ),
    )


def _by_request(connection: Connection, wanted: str, _coverages: list[str]) -> list[SearchHit]:
    attempts = payment_attempts.c
    return _payments(connection, select(attempts.payment_id).where(attempts.stripe_request_id == wanted))


def _by_customer(connection: Connection, wanted: str, coverages: list[str]) -> list[SearchHit]:
    settings = payment_settings.c
    return _accounts(
        connection,
        select(settings.account_id).where(settings.coverage.in_(coverages), settings.stripe_customer_id == wanted),
    )


def _by_card(connection: Connection, wanted: str, coverages: list[str]) -> list[SearchHit]:
    return _accounts(
        connection,
        select(payment_settings.c.account_id)
        .join(cards, cards.c.settings_id == payment_settings.c.id)
        .where(cards.c.coverage.in_(coverages), cards.c.stripe_payment_method_id == wanted),
    )


def _by_number(connection: Connection, wanted: str, _coverages: list[str]) -> list[SearchHit]:
    of_invoice = select(payments.c.id).join(invoices, invoices.c.id == payments.c.invoice_id)
    return _payments(connection, of_invoice.where(invoices.c.number == wanted.upper())) or _accounts(
        connection, select(invoices.c.account_id).where(invoices.c.number == wanted.upper())
    )


def _by_external_id(connection: Connection, wanted: str, _coverages: list[str]) -> list[SearchHit]:
    return _accounts(connection, select(accounts.c.id).where(accounts.c.external_id == wanted))


def _by_prefix(connection: Connection, wanted: str, _coverages: list[str]) -> list[SearchHit]:
    return _accounts(connection, ids_starting_with(wanted, at_most=MOST_HITS + 1))


def _payments(connection: Connection, ids: Select[Any] | CompoundSelect[Any]) -> list[SearchHit]:
    wanted = ids.subquery()
    rows = connection.execute(
        select(payments.c.id, payments.c.state, payments.c.kind, invoices.c.number, accounts.c.external_id)
        .join(accounts, accounts.c.id == payments.c.account_id)
        .join(invoices, invoices.c.id == payments.c.invoice_id, isouter=True)
        .where(payments.c.id.in_(select(wanted.c[0])))
        .order_by(payments.c.created_at.desc(), payments.c.id)
        .limit(MOST_HITS + 1)
    )
    return [
        SearchHit("payment", row.id, f"{row.number or row.kind} of {row.external_id}", row.state) for row in rows
    ]


def _accounts(connection: Connection, ids: Select[Any]) -> list[SearchHit]:
    wanted = ids.subquery()
    rows = connection.execute(
        select(accounts)
        .where(accounts.c.id.in_(select(wanted.c[0])))
        .order_by(accounts.c.name, accounts.c.id)
        .limit(MOST_HITS + 1)
    )
    return [SearchHit("account", row.id, f"{row.external_id}, {row.name}", row.standing) for row in rows]


_LOOKUPS = (
    _Lookup("ID of a payment, invoice, attempt, account or run", _is_id, _by_id),
    _Lookup("PaymentIntent ID (pi_…)", _has_prefix("pi_"), _by_intent),
    _Lookup("charge ID (ch_…, py_…)", _has_prefix("ch_", "py_"), _by_charge),
    _Lookup("request ID (req_…)", _has_prefix("req_"), _by_request),
    _Lookup("Stripe customer ID (cus_…)", _has_prefix("cus_"), _by_customer),
    _Lookup("payment method ID (pm_…)", _has_prefix("pm_"), _by_card),
    _Lookup("complete invoice number", lambda _: True, _by_number),
    _Lookup("complete account number", lambda _: True, _by_external_id),
    _Lookup("start of an account's number, name or email", lambda _: True, _by_prefix),
)
