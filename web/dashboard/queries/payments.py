"""The filter of payments as data, to and from a URL, and its queries.

An index leads to the first page: for several states or codes, each is read by itself in the list's order, and the
newest of all are taken.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Select, func, select, union, union_all

from shared.db.query_terms import is_, one_of, one_of_not
from shared.db.session import by_index_only
from shared.db.tables.accounts import accounts
from shared.db.tables.invoices import invoices
from shared.db.tables.payments import payment_attempts, payments
from shared.domain.declines import DeclineCategory, facts
from shared.domain.money import Money, exponent
from shared.domain.states import ENDED, OPEN_ATTEMPT, UNPAID, PaymentState, Trigger
from shared.policy import Policy
from web.dashboard.queries.accounts import MOST_ACCOUNTS, ids_starting_with, is_too_broad
from web.dashboard.queries.form_fields import FormFields
from web.dashboard.queries.paging import PAGE, Paging, ResultPage, make_page

#: Matches are counted up to here.
COUNTED = 10_000


@dataclass(frozen=True)
class PaymentFilter:
    """A filter. `at` is the business time of the request: ages and holds refer to it."""

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
    #: An account's complete number.
    account: str | None = None
    #: An invoice number, or the start of an account's number, name or email.
    text: str | None = None
    is_held: bool = False
    has_open_attempt: bool = False

    @classmethod
    def from_query(cls, pairs: Iterable[tuple[str, str]], policy: Policy, at: datetime) -> "ParsedFilter":
        """Read query parameters; unknown ones are ignored.

        Invalid values become errors by field name. Amounts are in the currency of their coverage.
        """
        fields = FormFields(pairs)
        coverage = fields.one_of("coverage", policy.coverages)
        currency = policy.coverages[coverage].currency if coverage else None
        read = cls(
            at=at,
            states=fields.several("state", PaymentState),
            code=fields.text("code", 100),
            category=fields.one_of("category", DeclineCategory),
            coverage=coverage,
            trigger=fields.one_of("trigger", Trigger),
            amount_from=fields.amount("amount_from", currency),
            amount_to=fields.amount("amount_to", currency),
            older_than_days=fields.number("older_than", 36_500),
            account=fields.text("account", 200),
            text=fields.text("text", 200),
            is_held=fields.yes("held"),
            has_open_attempt=fields.yes("open"),
        )
        if read.amount_from and read.amount_to and read.amount_from.amount_minor > read.amount_to.amount_minor:
            fields.errors["amount_to"] = "is less than the minimum amount"
        return ParsedFilter(read, fields.errors, fields.raw)

    def to_query(self) -> dict[str, list[str]]:
        """Return the query parameters of this filter."""
        values: dict[str, str | None] = {
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
        return states | {name: [str(value)] for name, value in values.items() if value is not None}

    def as_json(self) -> dict[str, Any]:
        """Return the filter as JSON, with its business time."""
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
    def from_json(cls, stored: Mapping[str, Any]) -> "PaymentFilter":
        """Read what `as_json` wrote."""
        read = dict(stored)
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
class ParsedFilter:
    """A filter as requested: the valid part, the errors by field, and the raw values of every field."""

    filter: PaymentFilter
    errors: dict[str, str]
    raw: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Matches:
    """The number of matches up to COUNTED, and, if there are no more, their totals in minor units by currency."""

    count: int
    sums: Mapping[str, int]

    @property
    def is_more(self) -> bool:
        return self.count > COUNTED


def describe(wanted: PaymentFilter) -> str:
    """Describe a filter: `state due or retry scheduled; coverage japan`."""
    codes = ", ".join(facts()["categories"][wanted.category]["codes"]) if wanted.category else ""
    days = wanted.older_than_days
    values = (
        ("state ", " or ".join(state.replace("_", " ") for state in wanted.states)),
        ("last decline code ", wanted.code),
        ("last decline of category ", f"{wanted.category.replace('_', ' ')} ({codes})" if wanted.category else ""),
        ("coverage ", wanted.coverage),
        ("trigger ", wanted.trigger and wanted.trigger.replace("_", " ")),
        ("amount at least ", wanted.amount_from and str(wanted.amount_from)),
        ("amount at most ", wanted.amount_to and str(wanted.amount_to)),
        ("unpaid and due more than ", None if days is None else f"{days} day{'' if days == 1 else 's'} ago"),
        ("account ", wanted.account),
        ("invoice number or start of account ", wanted.text and f"“{wanted.text}”"),
        ("held", "" if wanted.is_held else None),
        ("with an open attempt", "" if wanted.has_open_attempt else None),
    )
    parts = [name + value for name, value in values if value or (value == "" and not name.endswith(" "))]
    return "; ".join(parts) or "all payments"


def select_ids(wanted: PaymentFilter) -> Select[tuple[UUID]]:
    """Select the ids of all matches in lock order."""
    return select(payments.c.id).where(*_conditions(wanted)).order_by(payments.c.id)


def select_rows(wanted: PaymentFilter) -> Select[Any]:
    """Select all matches with account and invoice number, newest first; for exports."""
    newest_first = (payments.c.created_at.desc(), payments.c.id.desc())
    return _with_account().where(*_conditions(wanted)).order_by(*newest_first)


def find_page(connection: Connection, wanted: PaymentFilter, paging: Paging) -> ResultPage:
    """Return a page of matches, newest first, with accounts and invoice numbers."""
    by_index_only(connection)
    at, id_ = payments.c.created_at, payments.c.id
    parts = [
        select(id_)
        .where(*_conditions(part), *paging.where(at, id_))
        .order_by(*paging.order(at, id_))
        .limit(PAGE + 1)
        for part in _parts(wanted)
    ]
    ids = parts[0] if len(parts) == 1 else union_all(*(select(part.subquery().c.id) for part in parts))
    query = _with_account().where(id_.in_(select(ids.subquery().c.id))).order_by(*paging.order(at, id_))
    return make_page(paging, connection.execute(query.limit(PAGE + 1)).all(), at.name)


def count_matches(connection: Connection, wanted: PaymentFilter) -> Matches:
    """Count and sum the matches, up to COUNTED + 1."""
    by_index_only(connection)
    # The page's order has an index; amount filters match few rows and have an index of their own.
    newest_first = (payments.c.created_at.desc(), payments.c.id.desc())
    order = () if wanted.amount_from or wanted.amount_to else newest_first
    parts = [
        select(payments.c.currency, payments.c.amount_minor)
        .where(*_conditions(part))
        .order_by(*order)
        .limit(COUNTED + 1)
        .subquery()
        for part in _parts(wanted)
    ]
    few = union_all(*(select(part) for part in parts)).limit(COUNTED + 1).subquery()
    rows = connection.execute(
        select(few.c.currency, func.count(), func.sum(few.c.amount_minor)).group_by(few.c.currency)
    ).all()
    count = sum(number for _, number, _ in rows)
    return Matches(count, {} if count > COUNTED else {currency: int(total) for currency, _, total in sorted(rows)})


def too_broad(connection: Connection, wanted: PaymentFilter) -> dict[str, str]:
    """Return an error for a text that matches too many accounts."""
    if wanted.text and is_too_broad(connection, wanted.text):
        return {"text": f"matches more than {MOST_ACCOUNTS:,} accounts: enter a longer text"}
    return {}


def _parts(wanted: PaymentFilter) -> list[PaymentFilter]:
    """Split a filter into parts that an index reads in order: one code each, or one state each."""
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


def _ids_of_text(text: str) -> Select[Any]:
    """Each lookup by its own index; an OR over both would read every payment."""
    other = payments.alias("meant")
    each = union(
        select(other.c.id).where(other.c.account_id.in_(ids_starting_with(text))),
        select(other.c.id)
        .join(invoices, invoices.c.id == other.c.invoice_id)
        .where(invoices.c.number == text.upper()),
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
