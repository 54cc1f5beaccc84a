"""Moves of payments: the only code that writes `payments.state`, for workers and operators alike (I14)."""

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any, TypedDict, Unpack
from uuid import UUID

from sqlalchemy import Connection, bindparam, select, update

from shared.db.billing_events import BillingEvent, Cause, record_event
from shared.db.rows import AttemptRow, PaymentRow, read_one_or_none
from shared.db.tables.payments import payment_attempts, payments
from shared.domain.event_types import EventType
from shared.domain.states import (
    CHARGEABLE,
    ENDED,
    OPEN_ATTEMPT,
    WAITING_FOR_CARD,
    Lane,
    PaymentState,
    Trigger,
    check_payment_move,
)


class DeclineCounts(TypedDict, total=False):
    """Columns that an issuer's answer changes, whatever follows from it."""

    decline_count: int
    first_declined_at: datetime | None
    last_decline_code: str | None
    not_sent_count: int


class PaymentChanges(DeclineCounts, total=False):
    """Columns of `payments` that a move may change beside the state: a misspelt one is a type error."""

    next_attempt_at: datetime | None
    held_until: datetime | None
    backoff_until: datetime | None
    waiting_for_revision_after: int | None
    paid_at: datetime | None
    lane: Lane
    trigger: Trigger
    requested_by: str | None
    run_id: UUID | None


# Built once: the money path runs it for every charge.
_UPDATE = update(payments).where(payments.c.id == bindparam("payment_id"))


def open_attempt(connection: Connection, payment_id: UUID) -> AttemptRow | None:
    """Return the attempt that blocks this payment, if there is one (I2)."""
    found = connection.execute(
        select(payment_attempts).where(
            payment_attempts.c.payment_id == payment_id, payment_attempts.c.state.in_(OPEN_ATTEMPT)
        )
    )
    return read_one_or_none(AttemptRow, found)


def move_payment(
    connection: Connection, payment: PaymentRow, to: PaymentState, cause: Cause, **changes: Unpack[PaymentChanges]
) -> None:
    """Move a locked payment to `to`, with other column changes, and record the billing event.

    `next_attempt_at` and `waiting_for_revision_after` are cleared unless given, since only some states have them.
    A final state clears a pending close.
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
    record_payment_event(
        connection,
        payment,
        EventType.PAYMENT_MOVED if before is not to else EventType.PAYMENT_RESCHEDULED,
        cause,
        before={"state": before, **_shown(payment._asdict(), changes)},
        after={"state": to, **_shown(changes, changes)},
    )


def make_due_now(connection: Connection, payment: PaymentRow, lane: Lane, trigger: Trigger, cause: Cause) -> bool:
    """Make a locked, unpaid payment due now on `lane`; False if its state, a close or an open attempt forbids it.

    Nothing is lost by that: recording the open attempt's outcome reads the card again (I15), and after a withdrawn
    close the sweep does.
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


def _shown(values: Mapping[str, Any], only: Mapping[str, Any]) -> dict[str, Any]:
    """Return the changed columns for the billing event; instants and ids as text, for JSON."""
    return {
        name: value if value is None or isinstance(value, int | str) else str(value)
        for name, value in ((name, values[name]) for name in only if name in values)
    }


def record_payment_event(
    connection: Connection,
    payment: PaymentRow,
    type_: EventType,
    cause: Cause,
    *,
    before: Mapping[str, Any] = MappingProxyType({}),
    after: Mapping[str, Any] = MappingProxyType({}),
    data: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Append a billing event about a locked payment: who, when, why, in which attempt and run are the cause's."""
    record_event(
        connection,
        BillingEvent(
            type=type_,
            at=cause.at,
            actor=cause.actor,
            reason=cause.reason,
            account_id=payment.account_id,
            payment_id=payment.id,
            attempt_id=cause.attempt_id,
            run_id=cause.run_id,
            before=dict(before),
            after=dict(after),
            data=dict(data),
        ),
    )
