"""The Stripe account of each coverage: pinned at first use, so that a key of another account is noticed.

Customers, cards and PaymentIntents exist in one account only. With swapped keys nothing can be charged, and each
object seems to be deleted.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

import structlog
from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError

from shared.db.billing_events import Cause
from shared.db.query_terms import one_of
from shared.db.tables.payments import payment_attempts
from shared.db.tables.system import stripe_accounts
from shared.domain.refusals import NO_REASON, Refused
from shared.domain.states import OPEN_ATTEMPT
from shared.gateway.port import GatewayMissingError, GatewayUnavailableError, ProcessorGateway
from shared.operations.audit_log import AuditAction, record_decision

log = structlog.get_logger()

#: Who pinned an account that no operator named.
FIRST_USE = "first use"


@dataclass(frozen=True)
class OtherAccount:
    """A coverage whose API key belongs to another Stripe account than the pinned one."""

    coverage: str
    pinned: str
    of_key: str

    def __str__(self) -> str:
        return f"the Stripe API key of {self.coverage} belongs to {self.of_key}, not to {self.pinned}, its own"


WHAT_TO_DO = (
    "correct STRIPE_API_KEYS (are the keys of two coverages swapped?); if the company has really moved to another "
    'Stripe account: `duecourse stripe-accounts change COVERAGE --reason "…"`'
)


def pinned_account(connection: Connection, coverage: str) -> str | None:
    """Return the id of the Stripe account that a coverage uses; None before its first use."""
    found: str | None = connection.scalar(
        select(stripe_accounts.c.stripe_account_id).where(stripe_accounts.c.coverage == coverage)
    )
    return found


def pin_at_first_use(connection: Connection, coverage: str, account_id: str, machine_now: datetime) -> str:
    """Pin the account if none is pinned yet; return the pinned one. Of two processes at once the first one wins."""
    connection.execute(
        insert(stripe_accounts)
        .values(coverage=coverage, stripe_account_id=account_id, pinned_at=machine_now, pinned_by=FIRST_USE)
        .on_conflict_do_nothing()
    )
    return pinned_account(connection, coverage) or account_id


def compare_accounts(engine: Engine, coverage: str, of_key: str, machine_now: datetime) -> OtherAccount | None:
    """Return the difference between the key's account and the pinned one, if there is one. Pins it at first use."""
    with engine.begin() as connection:
        pinned = pin_at_first_use(connection, coverage, of_key, machine_now)
    return None if pinned == of_key else OtherAccount(coverage, pinned, of_key)


def why_not_this_account(engine: Engine, coverage: str, of_key: str, machine_now: datetime) -> str | None:
    """Return why the account of a key must not be used for a coverage; None if it may be."""
    try:
        other = compare_accounts(engine, coverage, of_key, machine_now)
    except DBAPIError:
        return "the database doesn't say which Stripe account is in use"
    return None if other is None else str(other)


def check_accounts(
    engine: Engine, gateways: Mapping[str, ProcessorGateway], machine_now: Callable[[], datetime]
) -> list[OtherAccount]:
    """Check each coverage; one whose account Stripe doesn't say now is left out, with a warning in the log."""
    others = []
    for coverage, gateway in sorted(gateways.items()):
        try:
            other = compare_accounts(engine, coverage, gateway.check_key(), machine_now())
        except (GatewayUnavailableError, GatewayMissingError) as error:
            log.warning("stripe_account.not_checked", coverage=coverage, error=str(error))
            continue
        if other is not None:
            others.append(other)
    return others


@dataclass(frozen=True)
class AccountChange:
    """What a change of a coverage's Stripe account would do, shown before it is confirmed."""

    coverage: str
    pinned: str | None
    of_key: str
    open_attempts: int


def preview_change(connection: Connection, coverage: str, of_key: str) -> AccountChange:
    """Return what is pinned now, and how many attempts have no outcome yet."""
    open_attempts: int = connection.execute(
        select(func.count())
        .select_from(payment_attempts)
        .where(payment_attempts.c.coverage == coverage, one_of(payment_attempts.c.state, OPEN_ATTEMPT))
    ).scalar_one()
    return AccountChange(coverage, pinned_account(connection, coverage), of_key, open_attempts)


def change_account(
    connection: Connection, coverage: str, of_key: str, cause: Cause, machine_now: datetime
) -> AccountChange | Refused:
    """Pin the account of the present key instead, in the caller's transaction; the audit log has both.

    Refused while an attempt has no outcome: only the former account knows it.
    """
    change = preview_change(connection, coverage, of_key)
    refused = _why_not(change, cause)
    if refused is None:
        connection.execute(
            insert(stripe_accounts)
            .values(coverage=coverage, stripe_account_id=of_key, pinned_at=machine_now, pinned_by=cause.actor)
            .on_conflict_do_update(
                index_elements=["coverage"],
                set_={"stripe_account_id": of_key, "pinned_at": machine_now, "pinned_by": cause.actor},
            )
        )
    record_decision(
        connection,
        AuditAction.STRIPE_ACCOUNT_CHANGE,
        ("coverage", coverage),
        cause,
        refused,
        {"pinned": change.pinned, "of_key": of_key, "open_attempts": change.open_attempts},
    )
    return change if refused is None else refused


def _why_not(change: AccountChange, cause: Cause) -> Refused | None:
    if not cause.reason.strip():
        return NO_REASON
    if change.pinned == change.of_key:
        return Refused(f"{change.coverage} uses {change.of_key} already", "nothing")
    if change.open_attempts:
        return Refused(
            f"attempts of {change.coverage} without an outcome: {change.open_attempts}; {change.pinned} knows it",
            f"set the key of {change.pinned} until `duecourse attempts unknown` shows none",
        )
    return None
