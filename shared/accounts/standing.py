"""Applies `decide_standing` after each decline, each payment and each day, and writes operators' marks."""

from collections.abc import Mapping
from datetime import date
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, bindparam, case, exists, func, select, true, update

from shared.db.billing_events import BillingEvent, Cause, record_event
from shared.db.query_terms import WAITS_FOR_OPERATOR, is_, one_of
from shared.db.rows import AccountRow, read_one
from shared.db.tables.accounts import accounts
from shared.db.tables.payments import payment_attempts, payments
from shared.db.tables.system import billing_events, findings
from shared.domain.dunning import StandingDecision, UnpaidPayment, decide_standing
from shared.domain.event_types import EventType
from shared.domain.states import AUTOMATIC, ENDED, AttemptState, PaymentKind, Standing
from shared.policy import Policy

_LOCK = select(accounts).where(accounts.c.id == bindparam("account_id")).with_for_update(key_share=True)
#: The finding of a payment whose charge Stripe refuses as a request, whatever the card.
REFUSED_CHARGE_FINDING = "charge_refused_by_stripe"
#: `UnpaidPayment.may_mark` as SQL. The findings are read for held payments only.
MAY_MARK = case(
    (
        payments.c.held_until >= WAITS_FOR_OPERATOR,
        ~exists().where(
            findings.c.payment_id == payments.c.id,
            is_(findings.c.kind, REFUSED_CHARGE_FINDING),
            findings.c.resolved_at.is_(None),
        ),
    ),
    else_=true(),
)
#: `UnpaidPayment.declines` as SQL, for a payment of the enclosing query.
AUTOMATIC_DECLINES = (
    select(func.count())
    .select_from(payment_attempts)
    .where(
        payment_attempts.c.payment_id == payments.c.id,
        is_(payment_attempts.c.state, AttemptState.DECLINED),
        one_of(payment_attempts.c.trigger, AUTOMATIC),
    )
    .correlate(payments)
    .scalar_subquery()
)
#: What `unpaid_payment` reads of a payment.
UNPAID_COLUMNS = (
    payments.c.id.label("payment_id"),
    payments.c.due_on,
    payments.c.decline_count,
    AUTOMATIC_DECLINES.label("automatic_declines"),
    MAY_MARK.label("may_mark"),
)
#: In the data of an unmarking: the day from which Duecourse may mark the account again.
SPARED_UNTIL = "spared_until"


def lock_account(connection: Connection, account_id: UUID) -> AccountRow:
    """Lock an account: the first lock of every transaction that may change its standing (I4)."""
    return read_one(AccountRow, connection.execute(_LOCK, {"account_id": account_id}))


def update_standing(
    connection: Connection,
    account: AccountRow,
    policy: Policy,
    today: date,
    cause: Cause,
    payment_id: UUID | None = None,
    *,
    is_decline: bool = False,
) -> StandingDecision:
    """Decide a locked account's standing again; write a change with its billing event.

    `payment_id` is the payment that triggered the decision; it explains the change if no unpaid payment does. An
    account that an operator has unmarked isn't marked again before the day they gave, except after one more
    decline.
    """
    current, unpaid = Standing(account.standing), unpaid_of(connection, account.id)
    decision = decide_standing(current, unpaid, policy.dunning, today)
    is_new_mark = decision.standing is Standing.MARKED_FOR_SUSPENSION is not current
    if is_new_mark and not is_decline and _is_spared(connection, account.id, today):
        decision = decide_standing(current, unpaid, policy.dunning, today, is_spared=True)
    if decision.standing is current:
        return decision
    change_standing(connection, account, decision, cause, payment_id)
    return decision


def unpaid_of(connection: Connection, account_id: UUID) -> list[UnpaidPayment]:
    """The payments that decide an account's standing, oldest first."""
    rows = connection.execute(
        select(*UNPAID_COLUMNS)
        .where(
            payments.c.account_id == account_id,
            payments.c.kind == PaymentKind.MONTHLY,
            payments.c.state.not_in(ENDED),
        )
        .order_by(payments.c.due_on, payments.c.id)
    )
    return [unpaid_payment(row) for row in rows]


def count_automatic_declines(connection: Connection, payment_id: UUID) -> int:
    """Return how many automatic charges of a payment were declined: what `mark_after_declines` is compared with."""
    count: int = connection.execute(select(AUTOMATIC_DECLINES).where(payments.c.id == payment_id)).scalar_one()
    return count


def unpaid_payment(row: Row[*tuple[Any, ...]]) -> UnpaidPayment:
    """Return what decides the standing, from a row with UNPAID_COLUMNS."""
    return UnpaidPayment(
        str(row.payment_id), row.automatic_declines, row.due_on, row.may_mark, is_declined=row.decline_count > 0
    )


def change_standing(
    connection: Connection,
    account: AccountRow,
    decision: StandingDecision,
    cause: Cause,
    payment_id: UUID | None = None,
    data: Mapping[str, Any] | None = None,
) -> None:
    """Write a locked account's new standing and its billing event. No other code writes standings (I14)."""
    connection.execute(
        update(accounts)
        .where(accounts.c.id == account.id)
        .values(standing=decision.standing, standing_since_at=cause.at, standing_reason=decision.reason)
    )
    record_event(
        connection,
        BillingEvent(
            type=EventType.STANDING_CHANGED,
            at=cause.at,
            actor=cause.actor,
            reason=decision.reason,
            account_id=account.id,
            payment_id=UUID(decision.payment_id) if decision.payment_id else payment_id,
            attempt_id=cause.attempt_id,
            run_id=cause.run_id,
            before={"standing": account.standing},
            after={"standing": decision.standing},
            data=data or {},
        ),
    )


def _is_spared(connection: Connection, account_id: UUID, today: date) -> bool:
    """Whether the account's last change was an operator's unmarking, and the day that they gave isn't reached."""
    last = connection.scalar(
        select(billing_events.c.data)
        .where(billing_events.c.account_id == account_id, billing_events.c.type == EventType.STANDING_CHANGED)
        .order_by(billing_events.c.id.desc())
        .limit(1)
    )
    until = (last or {}).get(SPARED_UNTIL)
    return until is not None and today < date.fromisoformat(until)
