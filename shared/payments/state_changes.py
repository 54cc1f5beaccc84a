"""Moves of payments: the only code that writes `payments.state`. Machine and people come the same way (I14)."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, bindparam, select, update

from shared.db.billing_events import BillingEvent, Cause, record_event
from shared.db.tables.payments import payment_attempts, payments
from shared.domain.event_types import EventType
from shared.domain.states import (
    CHARGEABLE,
    ENDED,
    OPEN_ATTEMPT,
    WAITING_FOR_CARD,
    Lane,
    PaymentKind,
    PaymentState,
    Trigger,
    check_payment_move,
)

PaymentRow = Row[Any]

# Built once: the money path runs them for every charge.
_LOCK = select(payments).where(payments.c.id == bindparam("payment_id")).with_for_update(key_share=True)
_UPDATE = update(payments).where(payments.c.id == bindparam("payment_id"))


def lock_payment(connection: Connection, payment_id: UUID) -> PaymentRow:
    """Lock one payment and return its row; LookupError if there is none."""
    row = connection.execute(_LOCK, {"payment_id": payment_id}).one_or_none()
    if row is None:
        raise LookupError(f"there is no payment {payment_id}")
    return row


def open_attempt(connection: Connection, payment_id: UUID) -> Row[Any] | None:
    """Return the attempt that blocks this payment, if there is one (I2)."""
    return connection.execute(
        select(payment_attempts).where(
            payment_attempts.c.payment_id == payment_id, payment_attempts.c.state.in_(OPEN_ATTEMPT)
        )
    ).one_or_none()


def move_payment(
    connection: Connection, payment: PaymentRow, to: PaymentState, cause: Cause, **changes: Any
) -> None:
    """Move a locked payment to `to`, with other column changes, and write the trail.

    `next_attempt_at` and `waiting_for_revision_after` are cleared unless given, since only some states have them.
    At an end nobody wants it ended any more.
    """
    before = PaymentState(payment.state)
    check_payment_move(before, to)
    values: dict[str, Any] = {
        "next_attempt_at": None,
        "waiting_for_revision_after": None,
        "backoff_until": None,
        **changes,
        "state": to,
        "state_reason": cause.reason,
    }
    if to in ENDED:
        values["pending_close_as"] = None
    connection.execute(_UPDATE, {"payment_id": payment.id, **values})
    record_event(
        connection,
        BillingEvent(
            type=EventType.PAYMENT_MOVED if before is not to else EventType.PAYMENT_RESCHEDULED,
            at=cause.at,
            actor=cause.actor,
            reason=cause.reason,
            account_id=payment.account_id,
            payment_id=payment.id,
            attempt_id=cause.attempt_id,
            run_id=cause.run_id,
            before={"state": before, **_shown(payment._asdict(), changes)},
            after={"state": to, **_shown(changes, changes)},
        ),
    )


def make_due_now(connection: Connection, payment: PaymentRow, lane: Lane, trigger: Trigger, cause: Cause) -> bool:
    """Make a locked, unpaid payment due at once on `lane`; False if its state or an open attempt forbids it.

    An open attempt is no loss: what it leaves behind is decided at its record, which re-reads the card (I15).
    Nor is one that a person wants ended; should they take that back, the sweep looks at its card again.
    """
    state = PaymentState(payment.state)
    if state not in CHARGEABLE | WAITING_FOR_CARD | {PaymentState.NEEDS_SUPPORT}:
        return False
    if payment.pending_close_as is not None:
        return False
    if open_attempt(connection, payment.id) is not None:
        return False
    move_payment(
        connection,
        payment,
        PaymentState.DUE,
        cause,
        next_attempt_at=cause.at,
        lane=lane,
        trigger=trigger,
        requested_by=cause.actor,
        held_until=None,
    )
    return True


def lock_collectable_monthly(connection: Connection, account_id: UUID, coverage: str) -> list[PaymentRow]:
    """Lock the unpaid monthly card payments of one account and coverage, in id order (I4)."""
    return list(
        connection.execute(
            select(payments)
            .where(
                payments.c.account_id == account_id,
                payments.c.coverage == coverage,
                payments.c.kind == PaymentKind.MONTHLY,
                payments.c.state.in_(CHARGEABLE | WAITING_FOR_CARD),
            )
            .order_by(payments.c.id)
            .with_for_update(key_share=True)
        )
    )


def _shown(values: Mapping[str, Any], only: Mapping[str, Any]) -> dict[str, Any]:
    """What of a change the trail shows: JSON knows no instants or ids, so they are written as text."""
    return {
        name: value if value is None or isinstance(value, int | str) else str(value)
        for name, value in ((name, values[name]) for name in only if name in values)
    }
