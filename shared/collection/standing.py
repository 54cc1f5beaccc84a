"""Applies `decide_standing`: after each decline, each payment and each day."""

from datetime import date
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, bindparam, select, update

from shared.collection.payments import Because
from shared.db.tables import accounts, payments
from shared.db.trail import TrailEvent, record_event
from shared.domain.dunning import StandingDecision, UnpaidPayment, decide_standing
from shared.domain.states import ENDED, PaymentKind, Standing
from shared.policy import Policy

_LOCK = select(accounts).where(accounts.c.id == bindparam("account_id")).with_for_update(key_share=True)


def lock_account(connection: Connection, account_id: UUID) -> Row[Any]:
    """Lock an account: the first lock of every transaction that may change its standing (I4)."""
    return connection.execute(_LOCK, {"account_id": account_id}).one()


def update_standing(
    connection: Connection,
    account: Row[Any],
    policy: Policy,
    today: date,
    because: Because,
    payment_id: UUID | None = None,
) -> StandingDecision:
    """Decide a locked account's standing anew and write the change, if it is one, with its trail.

    `payment_id` is the payment that led to the question; it explains the change where no unpaid one does.
    """
    unpaid = connection.execute(
        select(payments.c.id, payments.c.decline_count, payments.c.due_on)
        .where(
            payments.c.account_id == account.id,
            payments.c.kind == PaymentKind.MONTHLY,
            payments.c.state.not_in(ENDED),
        )
        .order_by(payments.c.due_on, payments.c.id)
    )
    current = Standing(account.standing)
    decision = decide_standing(
        current,
        [UnpaidPayment(str(row.id), row.decline_count, row.due_on) for row in unpaid],
        policy.dunning,
        today,
    )
    if decision.standing is current:
        return decision
    connection.execute(
        update(accounts)
        .where(accounts.c.id == account.id)
        .values(standing=decision.standing, standing_since_at=because.at, standing_reason=decision.reason)
    )
    record_event(
        connection,
        TrailEvent(
            type="standing_changed",
            at=because.at,
            actor=because.actor,
            reason=decision.reason,
            account_id=account.id,
            payment_id=UUID(decision.payment_id) if decision.payment_id else payment_id,
            attempt_id=because.attempt_id,
            run_id=because.run_id,
            before={"standing": current},
            after={"standing": decision.standing},
        ),
    )
    return decision
