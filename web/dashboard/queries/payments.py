"""What people look for among payments: a filter as data, to and from an address, and the queries it means.

The queries are made so that an index leads to the first page: where several states or codes are wanted, each is
read by itself in the list's order, and the newest of all are taken.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Select, func, select, union, union_all

from shared.db.literals import is_, one_of, one_of_not
from shared.db.session import by_index_only
from shared.db.tables.accounts import accounts
from shared.db.tables.invoices import invoices
from shared.db.tables.payments import payment_attempts, payments
from shared.domain.declines import DeclineCategory, facts
from shared.domain.money import Money, exponent
from shared.domain.states import ENDED, OPEN_ATTEMPT, UNPAID, PaymentState, Trigger
from shared.policy import Policy
from web.dashboard.queries.accounts import MOST_ACCOUNTS, ids_beginning, is_too_broad
from web.dashboard.queries.filters import Reading
from web.dashboard.queries.paging import PAGE, Found, Paging, found

#: Matches are counted up to here: nobody needs to know whether it is 200,000 or 300,000.
COUNTED = 10_000


@dataclass(frozen=True)
class PaymentFilter:
    """What is looked for. `at` is the business moment at which it was asked: ages and holds are meant at it."""

    at: datetime
    states: tuple[PaymentState, ...] = ()
    code: str | None = None
    category: DeclineCategory | None = None
    coverage: str | None = None
    trigger: Trigger | None = None
    amount_from: Money | None = None
    amount_to: Money | None = None
    #: Unpaid, and due more than so many days before `at` (a day is UTC's).
    older_than_days: int | None = None
    #: An account's own number, whole.
    account: str | None = None
    #: An invoice number, or how an account's number, name or address begins.
    text: str | None = None
    is_held: bool = False
    has_open_attempt: bool = False

    @classmethod
    def from_query(cls, pairs: Iterable[tuple[str, str]], policy: Policy, at: datetime) -> "Asked":
        """Read the parameters of an address; others than a filter's are passed over.

        What can't be read becomes an error at its field's name. Amounts are in the currency of their coverage.
        """
        reading = Reading(pairs)
        coverage = reading.one_of("coverage", policy.coverages)
        currency = policy.coverages[coverage].currency if coverage else None
        read = cls(
            at=at,
            states=reading.several("state", PaymentState),
            code=reading.text("code", 100),
            category=reading.one_of("category", DeclineCategory),
            coverage=coverage,
            trigger=reading.one_of("trigger", Trigger),
            amount_from=reading.amount("amount_from", currency),
            amount_to=reading.amount("amount_to", currency),
            older_than_days=reading.number("older_than", 36_500),
            account=reading.text("account", 200),
            text=reading.text("text", 200),
            is_held=reading.yes("held"),
            has_open_attempt=reading.yes("open"),
        )
        if read.amount_from and read.amount_to and read.amount_from.amount_minor > read.amount_to.amount_minor:
            reading.errors["amount_to"] = "is less than the amount before it"
        return Asked(read, reading.errors, reading.said)

    def to_query(self) -> dict[str, list[str]]:
        """Return the parameters of an address that mean this filter."""
        said: dict[str, str | None] = {
            "code": self.code,
            "category": self.category,
            "coverage": self.coverage,
            "trigger": self.trigger,
            "amount_from": _decimal(self.amount_from),
            "amount_to": _decimal(self.amount_to),
            "older_than": None if self.older_than_days is None else str(self.older_than_days),
            "account": self.account,
            "text": self.text,
            "held": "yes" if self.is_held else None,
            "open": "yes" if self.has_open_attempt else None,
        }
        states = {"state": [str(state) for state in self.states]} if self.states else {}
        return states | {name: [str(value)] for name, value in said.items() if value is not None}

    def as_json(self) -> dict[str, Any]:
        """Return the filter as JSON keeps it, with its moment."""
        amounts = {
            name: None if money is None else [money.amount_minor, money.currency]
            for name, money in (("amount_from", self.amount_from), ("amount_to", self.amount_to))
        }
        plain = {
            **vars(self),
            **amounts,
            "at": self.at.isoformat(),
            "states": [str(state) for state in self.states],
        }
        return {
            name: value for name, value in plain.items() if value is not None and value is not False and value != []
        }

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> "PaymentFilter":
        """Read what `as_json` wrote."""
        read = dict(kept)
        for name in ("amount_from", "amount_to"):
            if name in read:
                read[name] = Money(*read[name])
        for name, kind in (("category", DeclineCategory), ("trigger", Trigger)):
            if name in read:
                read[name] = kind(read[name])
        read["states"] = tuple(PaymentState(state) for state in read.get("states", ()))
        return cls(**{**read, "at": datetime.fromisoformat(read["at"])})

    @property
    def is_everything(self) -> bool:
        return self == PaymentFilter(self.at)

    @property
    def due_before(self) -> date | None:
        if self.older_than_days is None:
            return None
        return self.at.astimezone(UTC).date() - timedelta(days=self.older_than_days)


@dataclass(frozen=True)
class Asked:
    """A filter as somebody asked for it: what could be read, what couldn't, and their own words for every field."""

    filter: PaymentFilter
    errors: dict[str, str]
    said: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Matches:
    """How many payments match, up to COUNTED, and their sums in minor units by currency if they are that few."""

    count: int
    sums: Mapping[str, int]

    @property
    def is_more(self) -> bool:
        return self.count > COUNTED


def describe(wanted: PaymentFilter) -> str:
    """Say in words what a filter means: `state due or retry scheduled; coverage japan`."""
    codes = ", ".join(facts()["categories"][wanted.category]["codes"]) if wanted.category else ""
    days = wanted.older_than_days
    said = (
        ("state ", " or ".join(state.replace("_", " ") for state in wanted.states)),
        ("last decline code ", wanted.code),
        ("last decline of category ", f"{wanted.category.replace('_', ' ')} ({codes})" if wanted.category else ""),
        ("coverage ", wanted.coverage),
        ("trigger ", wanted.trigger and wanted.trigger.replace("_", " ")),
        ("amount from ", wanted.amount_from and str(wanted.amount_from)),
        ("amount up to ", wanted.amount_to and str(wanted.amount_to)),
        ("unpaid and due more than ", None if days is None else f"{days} day{'' if days == 1 else 's'} ago"),
        ("account ", wanted.account),
        ("invoice number, or account that begins with ", wanted.text and f"“{wanted.text}”"),
        ("held", "" if wanted.is_held else None),
        ("with an open attempt", "" if wanted.has_open_attempt else None),
    )
    parts = [name + value for name, value in said if value or (value == "" and not name.endswith(" "))]
    return "; ".join(parts) or "all payments"


def select_ids(wanted: PaymentFilter) -> Select[tuple[UUID]]:
    """Select the ids of everything that matches, in the order in which payments are locked."""
    return select(payments.c.id).where(*_conditions(wanted)).order_by(payments.c.id)


def select_rows(wanted: PaymentFilter) -> Select[Any]:
    """Select everything that matches with its account and invoice number, the newest first; for exports."""
    newest_first = (payments.c.created_at.desc(), payments.c.id.desc())
    return _with_account().where(*_conditions(wanted)).order_by(*newest_first)


def find_page(connection: Connection, wanted: PaymentFilter, paging: Paging) -> Found:
    """Return a page of what matches, the newest first, with accounts and invoice numbers."""
    by_index_only(connection)
    at, id_ = payments.c.created_at, payments.c.id
    arms = [
        select(id_)
        .where(*_conditions(arm), *paging.where(at, id_))
        .order_by(*paging.order(at, id_))
        .limit(PAGE + 1)
        for arm in _arms(wanted)
    ]
    ids = arms[0] if len(arms) == 1 else union_all(*(select(arm.subquery().c.id) for arm in arms))
    query = _with_account().where(id_.in_(select(ids.subquery().c.id))).order_by(*paging.order(at, id_))
    return found(paging, connection.execute(query.limit(PAGE + 1)).all(), at.name)


def count_matches(connection: Connection, wanted: PaymentFilter) -> Matches:
    """Count and sum up what matches, up to COUNTED and one."""
    by_index_only(connection)
    # In the page's order an index leads to them; few have a certain amount, and those have an index of their own.
    newest_first = (payments.c.created_at.desc(), payments.c.id.desc())
    order = () if wanted.amount_from or wanted.amount_to else newest_first
    arms = [
        select(payments.c.currency, payments.c.amount_minor)
        .where(*_conditions(arm))
        .order_by(*order)
        .limit(COUNTED + 1)
        .subquery()
        for arm in _arms(wanted)
    ]
    few = union_all(*(select(arm) for arm in arms)).limit(COUNTED + 1).subquery()
    rows = connection.execute(
        select(few.c.currency, func.count(), func.sum(few.c.amount_minor)).group_by(few.c.currency)
    ).all()
    count = sum(number for _, number, _ in rows)
    return Matches(count, {} if count > COUNTED else {currency: int(total) for currency, _, total in sorted(rows)})


def too_broad(connection: Connection, wanted: PaymentFilter) -> dict[str, str]:
    """Return an error for the field of a text that begins too many accounts to look through."""
    if wanted.text and is_too_broad(connection, wanted.text):
        return {
            "text": f"begins more than {MOST_ACCOUNTS:,} accounts' numbers, names or addresses: write more of it"
        }
    return {}


def _arms(wanted: PaymentFilter) -> list[PaymentFilter]:
    """Split a filter into ones that an index reads in order: a single code each, or a single state."""
    if wanted.category is not None and wanted.code is None and wanted.text is None and wanted.account is None:
        return [replace(wanted, category=None, code=code) for code in _codes(wanted.category)]
    if wanted.code is not None or wanted.text is not None or wanted.account is not None:
        return [wanted]
    states = wanted.states
    if not states and (wanted.older_than_days is not None or wanted.is_held):
        states = tuple(sorted(UNPAID))
    return [replace(wanted, states=(state,)) for state in states] or [wanted]


def _codes(category: DeclineCategory) -> list[str]:
    return sorted(facts()["categories"][category]["codes"])


def _conditions(wanted: PaymentFilter) -> list[ColumnElement[bool]]:
    column = payments.c
    conditions: list[ColumnElement[bool]] = []
    if wanted.states:
        conditions.append(one_of(column.state, set(wanted.states)))
    if wanted.code is not None:
        conditions.append(column.last_decline_code == wanted.code)
    if wanted.category is not None:
        conditions.append(column.last_decline_code.in_(_codes(wanted.category)))
    if wanted.coverage is not None:
        conditions.append(column.coverage == wanted.coverage)
    if wanted.trigger is not None:
        conditions.append(is_(column.trigger, wanted.trigger))
    for money, compare in (
        (wanted.amount_from, column.amount_minor.__ge__),
        (wanted.amount_to, column.amount_minor.__le__),
    ):
        if money is not None:
            conditions += [compare(money.amount_minor), column.currency == money.currency]
    if wanted.due_before is not None:
        conditions += [one_of_not(column.state, ENDED), column.due_on < wanted.due_before]
    if wanted.account is not None:
        one_account = select(accounts.c.id).where(accounts.c.external_id == wanted.account)
        conditions.append(column.account_id == one_account.scalar_subquery())
    if wanted.text is not None:
        conditions.append(column.id.in_(_ids_of_text(wanted.text)))
    if wanted.is_held:
        conditions += [one_of_not(column.state, ENDED), column.held_until > wanted.at]
    if wanted.has_open_attempt:
        attempts = payment_attempts.c
        conditions.append(column.id.in_(select(attempts.payment_id).where(one_of(attempts.state, OPEN_ATTEMPT))))
    return conditions


def _ids_of_text(words: str) -> Select[Any]:
    """Each way by its own index; an OR over both would read every payment."""
    other = payments.alias("meant")
    each = union(
        select(other.c.id).where(other.c.account_id.in_(ids_beginning(words))),
        select(other.c.id)
        .join(invoices, invoices.c.id == other.c.invoice_id)
        .where(invoices.c.number == words.upper()),
    ).subquery()
    return select(each.c.id)


def _with_account() -> Select[Any]:
    return (
        select(
            payments,
            accounts.c.external_id.label("account_external_id"),
            accounts.c.name.label("account_name"),
            invoices.c.number.label("invoice_number"),
        )
        .join(accounts, accounts.c.id == payments.c.account_id)
        .join(invoices, invoices.c.id == payments.c.invoice_id, isouter=True)
    )


def decimal_text(amount_minor: int, currency: str) -> str:
    """Write minor units as the plain decimal that `parse_minor` reads: `29.85`."""
    return str(Decimal(amount_minor).scaleb(-exponent(currency)))


def _decimal(money: Money | None) -> str | None:
    return None if money is None else decimal_text(money.amount_minor, money.currency)
