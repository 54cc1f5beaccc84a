"""Rows that tests start from, one small function each. Nothing commits: the caller's transaction does.

    with engine.begin() as connection:
        anna = add_account(connection, "A-1")
        add_card(connection, anna)
        add_fee(connection, anna, 29_85, period="2026-10")
        run_id = add_run(connection, period="2026-10")

Amounts are minor units. Every function returns the ids of what it made.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, Table, insert, select, update

from shared.db.tables.accounts import accounts, cards, payment_settings
from shared.db.tables.invoices import fees, services
from shared.db.tables.payments import payments
from shared.db.tables.system import runs
from shared.domain.calendar import Period, instant
from shared.domain.states import Lane, PaymentKind, PaymentState, RunState, SettingsKind, Trigger
from shared.messaging.jobs import MONTHLY_INVOICES
from shared.policy import Policy, load_policy

#: What the repository's own billing.toml says of the two coverages; tests of other policies pass their own.
CURRENCY = {"global": "USD", "japan": "JPY"}


@dataclass(frozen=True)
class Account:
    """An account and its payment settings in one coverage."""

    id: UUID
    settings_id: UUID
    external_id: str
    coverage: str

    @property
    def currency(self) -> str:
        return CURRENCY[self.coverage]


def default_policy() -> Policy:
    """The policy of the repository's billing.toml."""
    return load_policy(Path(__file__).resolve().parent.parent / "billing.toml")


def add_account(
    connection: Connection,
    external_id: str,
    coverage: str = "global",
    kind: SettingsKind | str = SettingsKind.CARD,
    *,
    name: str | None = None,
    email: str | None = None,
    language: str | None = "en",
    billing_details: Mapping[str, Any] | None = None,
    stripe_customer_id: str | None = None,
) -> Account:
    """Add an account with settings in one coverage; the account may exist already, for its second coverage."""
    account_id = connection.scalar(select(accounts.c.id).where(accounts.c.external_id == external_id))
    if account_id is None:
        account_id = _insert(
            connection, accounts, external_id=external_id, name=name or f"Account {external_id}", email=email
        )
    settings_id = _insert(
        connection,
        payment_settings,
        account_id=account_id,
        coverage=coverage,
        kind=kind,
        language=language,
        billing_details=dict(billing_details or {}),
        stripe_customer_id=stripe_customer_id,
    )
    return Account(account_id, settings_id, external_id, coverage)


def add_card(
    connection: Connection,
    account: Account,
    *,
    stripe_payment_method_id: str | None = None,
    is_primary: bool = True,
    brand: str = "visa",
    network: str | None = "visa",
    last4: str = "4242",
    exp_month: int = 12,
    exp_year: int = 2030,
    fingerprint: str | None = None,
    attached_at: datetime | None = None,
) -> UUID:
    """Add a card to the account's settings; as the primary one it raises the card revision by one."""
    unique = uuid4().hex[:16]
    card_id = _insert(
        connection,
        cards,
        settings_id=account.settings_id,
        coverage=account.coverage,
        stripe_payment_method_id=stripe_payment_method_id or f"pm_{unique}",
        brand=brand,
        network=network,
        last4=last4,
        exp_month=exp_month,
        exp_year=exp_year,
        fingerprint=fingerprint or f"fp_{unique}",
        attached_at=attached_at or datetime(2026, 1, 1, tzinfo=UTC),
    )
    if is_primary:
        connection.execute(
            update(payment_settings)
            .where(payment_settings.c.id == account.settings_id)
            .values(primary_card_id=card_id, card_revision=payment_settings.c.card_revision + 1)
        )
    return card_id


def add_fee(
    connection: Connection,
    account: Account,
    amount_minor: int,
    period: str = "2026-10",
    *,
    external_id: str | None = None,
    description: str = "Usage",
    currency: str | None = None,
    occurred_on: date | None = None,
) -> UUID:
    """Add a fee that is not yet on any invoice."""
    return _insert(
        connection,
        fees,
        account_id=account.id,
        coverage=account.coverage,
        external_id=external_id or f"fee-{uuid4().hex}",
        period=Period.parse(period).first_day,
        occurred_on=occurred_on,
        description=description,
        amount_minor=amount_minor,
        currency=currency or account.currency,
    )


def add_service(
    connection: Connection,
    account: Account,
    price_minor: int,
    pricing: str = "monthly",
    *,
    starts_on: date = date(2020, 1, 1),
    ends_on: date | None = None,
    external_id: str | None = None,
    description: str = "Line rental",
    currency: str | None = None,
    is_protected: bool = False,
) -> UUID:
    """Add a service with a `daily` or `monthly` price, active from `starts_on` up to and including `ends_on`."""
    return _insert(
        connection,
        services,
        account_id=account.id,
        coverage=account.coverage,
        external_id=external_id or f"service-{uuid4().hex}",
        description=description,
        pricing=pricing,
        price_minor=price_minor,
        currency=currency or account.currency,
        starts_on=starts_on,
        ends_on=ends_on,
        is_protected=is_protected,
    )


def add_run(
    connection: Connection,
    period: str = "2026-10",
    coverage: str = "global",
    job: str = MONTHLY_INVOICES,
    *,
    state: RunState | str = RunState.READY,
    scheduled_for_at: datetime | None = None,
    requested_by: str = "scheduler",
    reason: str | None = None,
) -> UUID:
    """Add a run row. `scheduled_for_at` defaults to the first midnight after a month, in the coverage's zone."""
    if scheduled_for_at is None:
        is_month = len(period) == len("2026-10")
        day = Period.parse(period).next.first_day if is_month else date.fromisoformat(period)
        scheduled_for_at = instant(day, datetime.min.time(), default_policy().coverage(coverage).zone)
    return _insert(
        connection,
        runs,
        job=job,
        period=period,
        coverage=coverage,
        state=state,
        scheduled_for_at=scheduled_for_at,
        requested_by=requested_by,
        reason=reason,
    )


def add_payment(
    connection: Connection,
    account: Account,
    amount_minor: int,
    *,
    state: PaymentState | str = PaymentState.DUE,
    kind: PaymentKind | str = PaymentKind.MONTHLY,
    lane: Lane | str = Lane.BATCH,
    trigger: Trigger | str = Trigger.MONTH_START,
    due_on: date = date(2026, 11, 1),
    next_attempt_at: datetime | None = datetime(2026, 11, 1, tzinfo=UTC),
    **columns: Any,
) -> UUID:
    """Add a payment without an invoice, for tests of collection. Pass the columns that its state needs.

    `due` and `retry_scheduled` need `next_attempt_at` (given by default); for every other state it is left out.
    """
    chargeable = state in (PaymentState.DUE, PaymentState.RETRY_SCHEDULED)
    return _insert(
        connection,
        payments,
        kind=kind,
        account_id=account.id,
        settings_id=account.settings_id,
        coverage=account.coverage,
        currency=account.currency,
        amount_minor=amount_minor,
        state=state,
        lane=lane,
        trigger=trigger,
        due_on=due_on,
        next_attempt_at=next_attempt_at if chargeable else None,
        **columns,
    )


def _insert(connection: Connection, table: Table, **values: Any) -> UUID:
    new_id: UUID = connection.execute(insert(table).values(**values).returning(table.c.id)).scalar_one()
    return new_id
