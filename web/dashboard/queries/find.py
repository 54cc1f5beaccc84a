"""One field for everything: whatever a person pastes, the payments and accounts that it can mean, by index only."""

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
from web.dashboard.queries.accounts import ids_beginning

#: A short list: who finds more than these wants the pages with filters.
MOST_HITS = 20


@dataclass(frozen=True)
class Hit:
    """Something that was found: a `payment`, an `account` or a `run`, and its name for people."""

    kind: str
    id: UUID
    name: str
    state: str


@dataclass(frozen=True)
class Looked:
    """What was found, at most MOST_HITS, and the ways that were tried, in words."""

    hits: tuple[Hit, ...]
    is_more: bool
    ways: tuple[str, ...]


@dataclass(frozen=True)
class _Way:
    """One way to look: which words it is for, and what it finds. The ways are tried in order until one finds."""

    name: str
    is_for: Callable[[str], bool]
    look: Callable[[Connection, str, list[str]], list[Hit]]


def find(connection: Connection, wanted: str, coverages: Iterable[str]) -> Looked:
    """Look for what a person pasted or typed. Ids of the processor are looked for in all `coverages`."""
    by_index_only(connection)
    known, tried = sorted(coverages), []
    for way in _WAYS:
        if not way.is_for(wanted):
            continue
        tried.append(way.name)
        hits = list(dict.fromkeys(way.look(connection, wanted, known)))
        if hits:
            return Looked(tuple(hits[:MOST_HITS]), len(hits) > MOST_HITS, tuple(tried))
    return Looked((), False, tuple(tried))


def _begins(*prefixes: str) -> Callable[[str], bool]:
    return lambda wanted: wanted.startswith(prefixes)


def _is_id(wanted: str) -> bool:
    return re.fullmatch(r"[0-9a-fA-F]{8}(-?[0-9a-fA-F]{4}){3}-?[0-9a-fA-F]{12}", wanted) is not None


def _by_id(connection: Connection, wanted: str, _coverages: list[str]) -> list[Hit]:
    id_ = UUID(wanted)
    ids = union(
        select(payments.c.id).where(payments.c.id == id_),
        select(payments.c.id).where(payments.c.invoice_id == id_),
        select(payment_attempts.c.payment_id).where(payment_attempts.c.id == id_),
    )
    run = connection.execute(select(runs).where(runs.c.id == id_)).one_or_none()
    of_run = [] if run is None else [Hit("run", run.id, f"{run.job} {run.period}, {run.coverage}", run.state)]
    return (
        _payments(connection, ids)
        + _accounts(connection, select(accounts.c.id).where(accounts.c.id == id_))
        + of_run
    )


def _by_intent(connection: Connection, wanted: str, coverages: list[str]) -> list[Hit]:
    intents = payment_intents.c
    return _payments(
        connection,
        select(intents.payment_id).where(
            intents.coverage.in_(coverages), intents.stripe_payment_intent_id == wanted
        ),
    )


def _by_charge(connection: Connection, wanted: str, coverages: list[str]) -> list[Hit]:
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


def _by_request(connection: Connection, wanted: str, _coverages: list[str]) -> list[Hit]:
    attempts = payment_attempts.c
    return _payments(connection, select(attempts.payment_id).where(attempts.stripe_request_id == wanted))


def _by_customer(connection: Connection, wanted: str, coverages: list[str]) -> list[Hit]:
    settings = payment_settings.c
    return _accounts(
        connection,
        select(settings.account_id).where(settings.coverage.in_(coverages), settings.stripe_customer_id == wanted),
    )


def _by_card(connection: Connection, wanted: str, coverages: list[str]) -> list[Hit]:
    return _accounts(
        connection,
        select(payment_settings.c.account_id)
        .join(cards, cards.c.settings_id == payment_settings.c.id)
        .where(cards.c.coverage.in_(coverages), cards.c.stripe_payment_method_id == wanted),
    )


def _by_number(connection: Connection, wanted: str, _coverages: list[str]) -> list[Hit]:
    of_invoice = select(payments.c.id).join(invoices, invoices.c.id == payments.c.invoice_id)
    return _payments(connection, of_invoice.where(invoices.c.number == wanted.upper())) or _accounts(
        connection, select(invoices.c.account_id).where(invoices.c.number == wanted.upper())
    )


def _by_external_id(connection: Connection, wanted: str, _coverages: list[str]) -> list[Hit]:
    return _accounts(connection, select(accounts.c.id).where(accounts.c.external_id == wanted))


def _by_beginning(connection: Connection, wanted: str, _coverages: list[str]) -> list[Hit]:
    return _accounts(connection, ids_beginning(wanted, at_most=MOST_HITS + 1))


def _payments(connection: Connection, ids: Select[Any] | CompoundSelect[Any]) -> list[Hit]:
    wanted = ids.subquery()
    rows = connection.execute(
        select(payments.c.id, payments.c.state, payments.c.kind, invoices.c.number, accounts.c.external_id)
        .join(accounts, accounts.c.id == payments.c.account_id)
        .join(invoices, invoices.c.id == payments.c.invoice_id, isouter=True)
        .where(payments.c.id.in_(select(wanted.c[0])))
        .order_by(payments.c.created_at.desc(), payments.c.id)
        .limit(MOST_HITS + 1)
    )
    return [Hit("payment", row.id, f"{row.number or row.kind} of {row.external_id}", row.state) for row in rows]


def _accounts(connection: Connection, ids: Select[Any]) -> list[Hit]:
    wanted = ids.subquery()
    rows = connection.execute(
        select(accounts)
        .where(accounts.c.id.in_(select(wanted.c[0])))
        .order_by(accounts.c.name, accounts.c.id)
        .limit(MOST_HITS + 1)
    )
    return [Hit("account", row.id, f"{row.external_id}, {row.name}", row.standing) for row in rows]


_WAYS = (
    _Way("the id of a payment, an invoice, an attempt, an account or a run", _is_id, _by_id),
    _Way("a PaymentIntent at the processor (pi_…)", _begins("pi_"), _by_intent),
    _Way("a charge at the processor (ch_…, py_…)", _begins("ch_", "py_"), _by_charge),
    _Way("a request to the processor (req_…)", _begins("req_"), _by_request),
    _Way("a customer at the processor (cus_…)", _begins("cus_"), _by_customer),
    _Way("a card at the processor (pm_…)", _begins("pm_"), _by_card),
    _Way("an invoice number, whole", lambda _: True, _by_number),
    _Way("an account's number, whole", lambda _: True, _by_external_id),
    _Way("how an account's number, name or e-mail address begins", lambda _: True, _by_beginning),
)
