"""A due payment that can't be charged now: the state in which it waits, until when, and why (I13)."""

from collections.abc import Sequence
from datetime import datetime, time, timedelta
from typing import Unpack

from sqlalchemy import Connection, bindparam
from sqlalchemy.types import BigInteger, DateTime

from shared.db.billing_events import BillingEvent, Cause, record_event
from shared.db.rows import PaymentRow
from shared.db.tables.payments import payments
from shared.domain.calendar import instant, local_date
from shared.domain.dunning import DeclinedToday, why_not_today
from shared.domain.event_types import EventType
from shared.domain.states import PaymentState
from shared.payments.eligibility import (
    BANK_TRANSFER,
    CARD_BLOCKED,
    SET_ASIDE_BY,
    first_that_holds,
    is_automatic,
)
from shared.payments.look import Look, over_budget, waits_its_turn
from shared.payments.network_budgets import lock_card
from shared.payments.siblings import declines_of_siblings
from shared.payments.state_changes import PaymentChanges, move_payment
from shared.policy import Policy

ACTOR = "worker"
FORBIDDEN_BY_NETWORK = "the card network forbids charging this card again"
#: Nothing is written: the payment stays due, and the sweep enqueues it once the older one is answered.
WAITS_FOR_OLDER = "waits for another invoice of the account, which is charged first"

# Built once: every claim runs them.
_DECLINED_TODAY = declines_of_siblings(
    bindparam("since", type_=DateTime(timezone=True)), bindparam("revision", type_=BigInteger)
).where(payments.c.id == bindparam("payment_id"))


def park(connection: Connection, policy: Policy, payment: PaymentRow, look: Look) -> str | None:
    """Move a locked, due payment that can't be charged to where it waits; return why, or None if it can be charged.

    Afterwards the card's lock is held until the transaction ends.
    """
    obstacle = first_that_holds(SET_ASIDE_BY, look.facts)
    if obstacle is BANK_TRANSFER:
        return _move(connection, payment, PaymentState.AWAITING_TRANSFER, look.facts.now, "pays by bank transfer")
    if obstacle is not None:
        reason = "no card is registered"
        if obstacle is CARD_BLOCKED:
            reason = f"{FORBIDDEN_BY_NETWORK} ({look.block_reason})"
        return _move(
            connection,
            payment,
            PaymentState.NEEDS_PAYMENT_METHOD,
            look.facts.now,
            reason,
            waiting_for_revision_after=look.facts.card_revision,
        )
    lock_card(connection, payment.coverage, look.charged_card.fingerprint)
    if is_automatic(payment):
        # Read again under the card's lock: the claims of two invoices of one account run side by side.
        if waits_its_turn(connection, payment.id, look.facts.now, look.facts.machine_now):
            return WAITS_FOR_OLDER
        reason_today = why_not_today(payment.amount_minor, _declined_today(connection, policy, payment, look))
        if reason_today is not None:
            next_at = _next_business_day(policy, payment, look.facts.now)
            return _wait_until(connection, payment, look.facts.now, reason_today, next_at)
    budget = over_budget(connection, payment, look)
    if budget is not None:
        return _wait_until(connection, payment, look.facts.now, budget.reason, budget.free_at)
    return None


def _declined_today(
    connection: Connection, policy: Policy, payment: PaymentRow, look: Look
) -> Sequence[DeclinedToday]:
    zone = policy.coverage(payment.coverage).zone
    since = instant(local_date(look.facts.now, zone), time(0), zone)
    of_payment = {"payment_id": payment.id, "since": since, "revision": look.facts.card_revision}
    rows = connection.execute(_DECLINED_TODAY, of_payment)
    return [DeclinedToday(row.amount_minor, row.decline_code, row.period) for row in rows]


def _next_business_day(policy: Policy, payment: PaymentRow, now: datetime) -> datetime:
    zone = policy.coverage(payment.coverage).zone
    return instant(local_date(now, zone) + timedelta(days=1), policy.dunning.retry_at, zone)


def _wait_until(
    connection: Connection, payment: PaymentRow, now: datetime, reason: str, next_attempt_at: datetime
) -> str:
    return _move(connection, payment, PaymentState.RETRY_SCHEDULED, now, reason, next_attempt_at=next_attempt_at)


def _move(
    connection: Connection,
    payment: PaymentRow,
    to: PaymentState,
    now: datetime,
    reason: str,
    **changes: Unpack[PaymentChanges],
) -> str:
    """Move the payment and record the skipped attempt, with the next date if there is one."""
    move_payment(connection, payment, to, Cause(ACTOR, now, reason), **changes)
    next_at = changes.get("next_attempt_at")
    record_event(
        connection,
        BillingEvent(
            type=EventType.CHARGE_NOT_ATTEMPTED,
            at=now,
            actor=ACTOR,
            reason=reason,
            account_id=payment.account_id,
            payment_id=payment.id,
            data={"next_attempt_at": next_at.isoformat() if next_at else None, "trigger": payment.trigger},
        ),
    )
    return reason
