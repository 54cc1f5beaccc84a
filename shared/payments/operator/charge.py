"""Charge a payment or look an attempt up because an operator requests it, with a name and a reason (I14).

Used by the command line and the dashboard. The transitions are the same as a worker's. A refusal says why and what
to do instead; it is recorded as a billing event.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, select, update

from shared.db.billing_events import Cause
from shared.db.rows import CardRow, PaymentRow, SettingsRow, read_one, read_one_or_none
from shared.db.tables.accounts import cards, payment_settings
from shared.db.tables.payments import payment_attempts, payments
from shared.domain.event_types import EventType
from shared.domain.money import format_minor
from shared.domain.refusals import NO_REASON, Refused
from shared.domain.states import (
    WORD_OF_CLOSE,
    AttemptState,
    Lane,
    PaymentState,
    Trigger,
)
from shared.messaging.jobs import ChargePayment, SettleAttempt
from shared.payments.eligibility import (
    ALREADY_REQUESTED,
    ATTEMPT_OPEN,
    AUTHORISED,
    AWAITS_TRANSFER,
    BANK_TRANSFER,
    CARD_BLOCKED,
    CLOSE_PENDING,
    COLLECTION_ENDED,
    HELD,
    PAID,
    WITHOUT_CARD,
    Condition,
    first_that_holds,
    is_held,
)
from shared.payments.locked_rows import lock_payment, lock_settings_and_payment
from shared.payments.look import Look, look_at, over_budget
from shared.payments.operator.refusals import no_such_payment
from shared.payments.state_changes import make_due_now, open_attempt, record_payment_event


@dataclass(frozen=True)
class ChargeSnapshot:
    """What the operator saw when they confirmed: the amount, the card, and the number of attempts so far."""

    amount_minor: int
    currency: str
    card_id: UUID
    card_revision: int
    attempt_count: int


@dataclass(frozen=True)
class WouldCharge:
    """What a charge would collect (minor units) from which card; `warnings` are shown before the confirmation."""

    payment_id: UUID
    amount_minor: int
    currency: str
    card_brand: str
    card_last4: str
    warnings: tuple[str, ...]
    snapshot: ChargeSnapshot


def preview_charge(
    connection: Connection, payment_id: UUID, now: datetime, machine_now: datetime
) -> WouldCharge | Refused:
    """Return what `request_charge` would do now. Reads without locks, so the result may be outdated at once."""
    payment = read_one_or_none(PaymentRow, connection.execute(select(payments).where(payments.c.id == payment_id)))
    if payment is None:
        return no_such_payment(payment_id)
    found = connection.execute(select(payment_settings).where(payment_settings.c.id == payment.settings_id))
    settings = read_one(SettingsRow, found)
    look = look_at(connection, payment, settings, now, machine_now)
    refused = _why_not(connection, payment, look)
    if refused is not None:
        return refused
    card = look.charged_card
    return WouldCharge(
        payment.id,
        payment.amount_minor,
        payment.currency,
        card.brand,
        card.last4,
        tuple(_warnings(payment, settings, now)),
        _snapshot(payment, settings, card),
    )


def request_charge(
    connection: Connection,
    payment_id: UUID,
    cause: Cause,
    machine_now: datetime,
    snapshot: ChargeSnapshot | None = None,
    *,
    lane: Lane = Lane.INTERACTIVE,
    releases_hold: bool = True,
) -> ChargePayment | Refused:
    """Make a payment due now for the operator `cause.actor`; enqueue the returned job after the commit.

    `snapshot` is what they saw: if it differs by now, the charge is refused. Releases a hold, unless
    `releases_hold` is false: then a held payment is refused. Commit after a refusal too: it is recorded as a
    billing event.
    """
    locked = lock_settings_and_payment(connection, payment_id)
    if locked is None:
        return no_such_payment(payment_id)
    settings, payment = locked
    if not cause.reason.strip():
        return NO_REASON
    look = look_at(connection, payment, settings, cause.at, machine_now)
    refused = _why_not(connection, payment, look)
    if refused is None and not releases_hold and HELD.holds(look.facts):
        refused = Refused(f"it is held: {payment.state_reason}", "release it first, or charge it individually")
    if refused is None and snapshot is not None:
        refused = _because_it_changed(connection, payment, settings, look.charged_card, snapshot)
    if refused is not None:
        _record_refusal(connection, payment, refused, cause)
        return refused
    if HELD.holds(look.facts):
        _record_release(connection, payment, cause)
    if not make_due_now(connection, payment, lane, Trigger.OPERATOR, cause):
        raise AssertionError(f"payment {payment.id} is {payment.state} and was not refused")
    return ChargePayment(payment.id, lane)


def request_look_up(
    connection: Connection, payment_id: UUID, cause: Cause, machine_now: datetime
) -> SettleAttempt | Refused:
    """Make an attempt's look-up due now because an operator requests it; enqueue the job after the commit.

    This never charges again: the attempt stays open until its outcome is known.
    """
    if connection.scalar(select(payments.c.id).where(payments.c.id == payment_id)) is None:
        return no_such_payment(payment_id)
    payment = lock_payment(connection, payment_id)
    if not cause.reason.strip():
        return NO_REASON
    attempt = open_attempt(connection, payment_id)
    if attempt is None:
        return Refused("no attempt has an unknown outcome", "nothing: `duecourse payment show` explains its state")
    if attempt.state != AttemptState.UNKNOWN and attempt.lease_expires_at > machine_now:
        return Refused(
            f"attempt {attempt.number} is in progress, and its worker may still receive the answer",
            f"wait: it is looked up automatically from {attempt.lease_expires_at:%H:%M:%S} UTC (machine time)",
        )
    connection.execute(
        update(payment_attempts)
        .where(payment_attempts.c.id == attempt.id, payment_attempts.c.state == AttemptState.UNKNOWN)
        .values(look_up_at=machine_now)
    )
    record_payment_event(
        connection,
        payment,
        EventType.LOOK_UP_REQUESTED,
        replace(cause, attempt_id=attempt.id),
        data={"look_ups": attempt.look_ups},
    )
    return SettleAttempt(attempt.id)


def _why_not(connection: Connection, payment: PaymentRow, look: Look) -> Refused | None:
    """Return why an operator may not charge it: the first of REFUSED_BY that holds, or the network's budget."""
    refusing = first_that_holds(REFUSED_BY, look.facts)
    if refusing is not None:
        return REFUSED_BY[refusing](connection, payment, look)
    budget = over_budget(connection, payment, look)
    if budget is not None:
        return Refused(
            f"{_named(look)} may not be charged now ({budget.reason})",
            f"wait: it may be charged again from {budget.free_at:%Y-%m-%d %H:%M} UTC",
            budget.free_at,
        )
    return None


def _because_paid(_connection: Connection, payment: PaymentRow, _look: Look) -> Refused:
    return Refused(f"it was paid at {payment.paid_at:%Y-%m-%d %H:%M} UTC", "nothing: it is never charged again")


def _because_ended(_connection: Connection, payment: PaymentRow, _look: Look) -> Refused:
    return Refused(f"it is {payment.state}: {payment.state_reason}", "nothing: collection has ended")


def _because_close_is_pending(_connection: Connection, payment: PaymentRow, _look: Look) -> Refused:
    return Refused(
        f"it is being {WORD_OF_CLOSE[str(payment.pending_close_as)]}: its PaymentIntent is being canceled",
        "cancel the pending close on its page first, while that is possible",
    )


def _because_of_transfer(_connection: Connection, _payment: PaymentRow, _look: Look) -> Refused:
    return Refused("the customer pays by bank transfer", "wait for the transfer, or have a card registered")


def _because_authorised(_connection: Connection, _payment: PaymentRow, _look: Look) -> Refused:
    return Refused("the amount is already authorised", "capture or cancel the authorisation")


def _because_of_open_attempt(connection: Connection, payment: PaymentRow, _look: Look) -> Refused:
    attempt = open_attempt(connection, payment.id)
    if attempt is None:  # a preview locks nothing
        return Refused("its last attempt ended a moment ago", "reload the payment")
    by = f" by {attempt.requested_by}" if (attempt.requested_by or "").startswith("operator:") else ""
    named = f"attempt {attempt.number}, started{by} at {attempt.started_at:%Y-%m-%d %H:%M:%S} UTC,"
    if attempt.state == AttemptState.UNKNOWN:
        return Refused(
            f"{named} has an unknown outcome ({attempt.look_ups} look-ups so far)",
            "wait until it is known, or use `duecourse attempts look-up`: a second charge could collect the money "
            "twice",
        )
    return Refused(
        f"{named} is in progress",
        "wait for its answer; without one it is looked up at the processor when its lease ends",
    )


def _because_already_requested(_connection: Connection, payment: PaymentRow, _look: Look) -> Refused:
    return Refused(
        f"{payment.requested_by} already requested this charge at {payment.next_attempt_at:%Y-%m-%d %H:%M:%S} UTC",
        "nothing: it is charged as soon as a worker is free; reload the payment in a moment",
    )


def _because_of_no_card(_connection: Connection, _payment: PaymentRow, _look: Look) -> Refused:
    return Refused(
        "no card is registered", "ask the customer to register one; the payment is then charged automatically"
    )


def _because_card_is_blocked(_connection: Connection, _payment: PaymentRow, look: Look) -> Refused:
    return Refused(
        f"the card network forbids charging {_named(look)} again ({look.block_reason})",
        "ask the customer to register another card",
    )


def _named(look: Look) -> str:
    return f"{look.charged_card.brand} ending in {look.charged_card.last4}"


#: The conditions that refuse an operator's charge, in this order, with the refusal of each.
REFUSED_BY: Mapping[Condition, Callable[[Connection, PaymentRow, Look], Refused]] = {
    PAID: _because_paid,
    COLLECTION_ENDED: _because_ended,
    CLOSE_PENDING: _because_close_is_pending,
    AWAITS_TRANSFER: _because_of_transfer,
    AUTHORISED: _because_authorised,
    ATTEMPT_OPEN: _because_of_open_attempt,
    ALREADY_REQUESTED: _because_already_requested,
    BANK_TRANSFER: _because_of_transfer,
    **dict.fromkeys(WITHOUT_CARD, _because_of_no_card),
    CARD_BLOCKED: _because_card_is_blocked,
}


def _snapshot(payment: PaymentRow, settings: SettingsRow, card: CardRow) -> ChargeSnapshot:
    return ChargeSnapshot(
        payment.amount_minor, payment.currency, card.id, settings.card_revision, payment.attempt_count
    )


def _because_it_changed(
    connection: Connection, payment: PaymentRow, settings: SettingsRow, card: CardRow, snapshot: ChargeSnapshot
) -> Refused | None:
    """Refuse a charge that differs from what the operator confirmed."""
    found = _snapshot(payment, settings, card)
    if found == snapshot:
        return None
    changes = []
    if (found.amount_minor, found.currency) != (snapshot.amount_minor, snapshot.currency):
        was = format_minor(snapshot.amount_minor, snapshot.currency)
        changes.append(f"the amount was {was} and is now {format_minor(found.amount_minor, found.currency)}")
    if found.card_id != snapshot.card_id:
        old = read_one_or_none(CardRow, connection.execute(select(cards).where(cards.c.id == snapshot.card_id)))
        was = f"{old.brand} ending in {old.last4}" if old else "another one"
        changes.append(f"the card was {was} and is now {card.brand} ending in {card.last4}")
    elif found.card_revision != snapshot.card_revision:
        changes.append("the card's data changed")
    if found.attempt_count != snapshot.attempt_count:
        changes.append(f"attempt {found.attempt_count} was started")
    return Refused(f"the payment changed since you viewed it: {', '.join(changes)}", "review it and confirm again")


def _warnings(payment: PaymentRow, settings: SettingsRow, now: datetime) -> list[str]:
    warnings = []
    if is_held(payment.held_until, now):
        warnings.append(f"it is held; the charge releases the hold: {payment.state_reason}")
    is_same_card = payment.waiting_for_revision_after == settings.card_revision
    if payment.state == PaymentState.NEEDS_AUTHENTICATION and is_same_card:
        warnings.append("the bank required the customer's confirmation and will probably require it again")
    elif payment.state == PaymentState.NEEDS_PAYMENT_METHOD and is_same_card:
        warnings.append(f"the card has not changed since the last attempt: {payment.state_reason}")
    return warnings


def _record_release(connection: Connection, payment: PaymentRow, cause: Cause) -> None:
    record_payment_event(
        connection,
        payment,
        EventType.HOLD_RELEASED,
        cause,
        before={
            "held_until": payment.held_until.isoformat() if payment.held_until else None,
            "state_reason": payment.state_reason,
        },
        after={"held_until": None},
    )


def _record_refusal(connection: Connection, payment: PaymentRow, refused: Refused, cause: Cause) -> None:
    record_payment_event(
        connection,
        payment,
        EventType.CHARGE_NOT_ATTEMPTED,
        replace(cause, reason=refused.reason),
        data={
            "trigger": Trigger.OPERATOR,
            "asked_because": cause.reason,
            "next_attempt_at": refused.free_at.isoformat() if refused.free_at else None,
        },
    )
