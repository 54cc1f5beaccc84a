"""Rows of the tables on the money path, as named tuples: a misspelt column or an unhandled NULL is a type error.

A statement that reads a whole table (`select(payments)`, `.returning(payments)`) is executed as before; `read_one`,
`read_one_or_none` and `read_all` turn its result into these classes. Why named tuples and not casts, dataclasses or
mapped classes: docs/decisions/0019-typed-rows.md.

- The fields are the table's columns, in the table's order. `tests/shared/test_rows.py` compares them.
- A nullable column is `… | None`.
- A column that holds an enum's word (`state`, `kind`, `lane`, `trigger`, `standing`, `pending_close_as`) is `str`,
  as PostgreSQL returns it. Our enums are StrEnum, so `==`, `in` and dictionary keys work on the text. For `is`,
  `match` and functions that take the enum, convert first: `PaymentState(payment.state)`.
"""

from datetime import date, datetime
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

from sqlalchemy import Result, Row


class AccountRow(NamedTuple):
    """A row of `accounts`."""

    id: UUID
    external_id: str
    name: str
    email: str | None
    standing: str
    standing_since_at: datetime | None
    standing_reason: str | None
    is_suspended: bool
    created_at: datetime


class SettingsRow(NamedTuple):
    """A row of `payment_settings`."""

    id: UUID
    account_id: UUID
    coverage: str
    kind: str
    stripe_customer_id: str | None
    primary_card_id: UUID | None
    card_revision: int
    language: str | None
    billing_details: dict[str, Any]
    created_at: datetime


class CardRow(NamedTuple):
    """A row of `cards`."""

    id: UUID
    settings_id: UUID
    coverage: str
    stripe_payment_method_id: str
    brand: str
    network: str | None
    last4: str
    exp_month: int
    exp_year: int
    fingerprint: str
    attached_at: datetime
    detached_at: datetime | None
    stripe_setup_intent_id: str | None


class CardBlockRow(NamedTuple):
    """A row of `card_blocks`."""

    coverage: str
    fingerprint: str
    reason: str
    attempt_id: UUID
    blocked_at: datetime


class PaymentRow(NamedTuple):
    """A row of `payments`."""

    id: UUID
    kind: str
    account_id: UUID
    settings_id: UUID
    coverage: str
    invoice_id: UUID | None
    currency: str
    amount_minor: int
    state: str
    state_reason: str | None
    lane: str
    trigger: str
    requested_by: str | None
    next_attempt_at: datetime | None
    held_until: datetime | None
    backoff_until: datetime | None
    not_sent_count: int
    waiting_for_revision_after: int | None
    due_on: date
    decline_count: int
    attempt_count: int
    run_id: UUID | None
    first_declined_at: datetime | None
    paid_at: datetime | None
    period: date | None
    last_decline_code: str | None
    pending_close_as: str | None
    created_at: datetime


class PaymentIntentRow(NamedTuple):
    """A row of `payment_intents`."""

    id: UUID
    payment_id: UUID
    ordinal: int
    coverage: str
    amount_minor: int
    currency: str
    stripe_customer_id: str
    stripe_payment_intent_id: str | None
    create_parameters: dict[str, Any]
    api_version: str
    first_sent_at: datetime | None
    status: str | None
    latest_charge_id: str | None
    cancellation_reason: str | None
    closed_reason: str | None
    closed_at: datetime | None
    created_at: datetime


class AttemptRow(NamedTuple):
    """A row of `payment_attempts`."""

    id: UUID
    payment_id: UUID
    number: int
    kind: str
    state: str
    payment_intent_id: UUID
    coverage: str
    trigger: str
    lane: str
    requested_by: str | None
    card_id: UUID | None
    stripe_payment_method_id: str | None
    card_revision: int
    card_fingerprint: str | None
    card_network: str | None
    started_at: datetime
    lease_expires_at: datetime
    confirm_allowed_at: datetime | None
    look_up_at: datetime | None
    look_ups: int
    finished_at: datetime | None
    stripe_charge_id: str | None
    http_status: int | None
    error_type: str | None
    code: str | None
    decline_code: str | None
    advice_code: str | None
    network_advice_code: str | None
    network_decline_code: str | None
    stripe_request_id: str | None
    outcome_reason: str | None
    created_at: datetime


class RunRow(NamedTuple):
    """A row of `runs`."""

    id: UUID
    job: str
    period: str
    coverage: str
    state: str
    scheduled_for_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    requested_by: str
    confirmed_by: str | None
    reason: str | None
    counts: dict[str, Any]
    cursor: dict[str, Any]
    backoff_until: datetime | None
    trouble: str | None
    created_at: datetime


TableRow = TypeVar("TableRow", bound=NamedTuple)


def read_one(row_class: type[TableRow], result: Result[Any]) -> TableRow:
    """Return the only row of a statement that reads the whole table of `row_class`."""
    return row_class._make(result.one())


def read_one_or_none(row_class: type[TableRow], result: Result[Any]) -> TableRow | None:
    """Return the only row, or None if there is none."""
    row = result.one_or_none()
    return None if row is None else row_class._make(row)


def read_all(row_class: type[TableRow], result: Result[Any]) -> list[TableRow]:
    """Return all rows."""
    return [row_class._make(row) for row in result]


def read_first(row_class: type[TableRow], row: Row[Any]) -> TableRow:
    """Return the part of a joined row that is the first table it selects."""
    return row_class._make(row[: len(row_class._fields)])
