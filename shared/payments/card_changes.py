"""The payments that a registered or updated card makes due."""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection

from shared.accounts.cards import CardChange
from shared.db.billing_events import BillingEvent, Cause, record_event
from shared.db.rows import PaymentRow
from shared.domain.event_types import EventType
from shared.domain.states import WAITING_FOR_CARD, Lane, Trigger
from shared.payments.eligibility import is_held
from shared.payments.locked_rows import lock_collectable_monthly
from shared.payments.state_changes import make_due_now


@dataclass(frozen=True)
class Woken:
    """A card change's effect: a note for operators, and the payments that it made due."""

    note: str
    account_id: UUID | None
    made_due: tuple[UUID, ...] = ()


def wake_payments(connection: Connection, change: CardChange) -> Woken:
    """Make the payments due that waited for this card change, in the transaction that changed the card.

    The caller has locked the account and its settings; the payments are locked here, by id (I4).
    """
    wakes = change.wakes
    if wakes is None:
        return Woken(change.note, change.account_id)
    settings = wakes.settings
    payments = [
        payment
        for payment in lock_collectable_monthly(connection, settings.account_id, settings.coverage)
        if payment.state in WAITING_FOR_CARD or not wakes.is_only_for_waiting
    ]
    made_due = _wake(connection, payments, wakes.cause)
    return Woken(f"{change.note}; {len(made_due)} made due", change.account_id, made_due)


def _wake(connection: Connection, payments: list[PaymentRow], cause: Cause) -> tuple[UUID, ...]:
    """Make locked payments due now on the interactive lane; skip held and closing ones with a recorded reason."""
    made_due: list[UUID] = []
    for payment in payments:
        if is_held(payment.held_until, cause.at):
            _record_not_attempted(connection, payment, cause, "holds the payment")
        elif payment.pending_close_as is not None:
            _record_not_attempted(connection, payment, cause, "is closing the payment")
        elif make_due_now(connection, payment, Lane.INTERACTIVE, Trigger.CARD_REGISTERED, cause):
            made_due.append(payment.id)
    return tuple(made_due)


def _record_not_attempted(connection: Connection, payment: PaymentRow, cause: Cause, what: str) -> None:
    record_event(
        connection,
        BillingEvent(
            type=EventType.CHARGE_NOT_ATTEMPTED,
            at=cause.at,
            actor=cause.actor,
            reason=f"{cause.reason}, but an operator {what}",
            account_id=payment.account_id,
            payment_id=payment.id,
            data={
                "held_until": payment.held_until.isoformat() if payment.held_until else None,
                "trigger": Trigger.CARD_REGISTERED,
            },
        ),
    )
