"""What people ask for: the same transitions as the machine's, with a name and a reason (I14).

Used by the command line and the dashboard. A refusal says why and what to do instead, and is written down like
every attempt that was not made.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, select, update

from shared.db.billing_events import BillingEvent, Cause, record_event
from shared.db.rows import CardRow, PaymentRow, SettingsRow, read_one, read_one_or_none
from shared.db.tables.accounts import cards, payment_settings
from shared.db.tables.payments import payment_attempts, payments
from shared.domain.event_types import EventType
from shared.domain.money import format_minor
from shared.domain.refusals import Refused
from shared.domain.states import (
    WORD_OF_CLOSE,
    AttemptState,
    Lane,
    PaymentState,
    Trigger,
)
from shared.messaging.jobs import ChargePayment, SettleAttempt
from shared.payments.eligibility import (
    ASKED_ALREADY,
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
    Look,
    first_that_holds,
    is_held,
    look_at,
    over_budget,
)
from shared.payments.locked_rows import lock_payment, lock_settings_and_payment
from shared.payments.state_changes import make_due_now, open_attempt


@dataclass(frozen=True)
class ChargeSnapshot:
    """What a person saw before they said yes: the money, the card as it was, and what had been tried so far."""

    amount_minor: int
    currency: str
    card_id: UUID
    card_revision: int
    attempt_count: int


@dataclass(frozen=True)
class WouldCharge:
    """What a charge would ask for: minor units, and the card. `warnings` are reasons to think twice."""

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
    """Say what `request_charge` would do at this moment. Changes nothing; what it says may be outdated at once."""
    payment = read_one_or_none(PaymentRow, connection.execute(select(payments).where(payments.c.id == payment_id)))
    if payment is None:
        return _unknown(payment_id)
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
    """Make a payment due at once because an operator (`cause.actor`) wants it; enqueue the job after the commit.

    `snapshot` is what they saw: if it differs by now, it is refused. Releases a hold, unless `releases_hold`
    is false: then a held payment is refused. Commit after a refusal too: it is recorded as a billing event.
    """
    locked = lock_settings_and_payment(connection, payment_id)
    if locked is None:
        return _unknown(payment_id)
    settings, payment = locked
    if not cause.reason.strip():
        return Refused("no reason was given", "say why; the reason is kept in the payment's trail")
    look = look_at(connection, payment, settings, cause.at, machine_now)
    refused = _why_not(connection, payment, look)
    if refused is None and not releases_hold and HELD.holds(look.facts):
        refused = Refused(f"it is held: {payment.state_reason}", "release it first, or charge it by itself")
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
    """Have an attempt in doubt looked up at the processor now, because a person wants it; ring after commit.

    Never a way to ask for the money again: the attempt stays open until it is known what became of it.
    """
    if connection.scalar(select(payments.c.id).where(payments.c.id == payment_id)) is None:
        return _unknown(payment_id)
    payment = lock_payment(connection, payment_id)
    if not cause.reason.strip():
        return Refused("no reason was given", "say why; the reason is kept in the payment's trail")
    attempt = open_attempt(connection, payment_id)
    if attempt is None:
        return Refused("no attempt of it is in doubt", "nothing: `duecourse payment show` explains where it stands")
    if attempt.state != AttemptState.UNKNOWN and attempt.lease_expires_at > machine_now:
        return Refused(
            f"attempt {attempt.number} is under way, and its worker may still be answered",
            f"wait: it is looked up by itself from {attempt.lease_expires_at:%H:%M:%S} UTC on (machine time)",
        )
    connection.execute(
        update(payment_attempts)
        .where(payment_attempts.c.id == attempt.id, payment_attempts.c.state == AttemptState.UNKNOWN)
        .values(look_up_at=machine_now)
    )
    record_event(
        connection,
        BillingEvent(
            type=EventType.LOOK_UP_REQUESTED,
            at=cause.at,
            actor=cause.actor,
            reason=cause.reason,
            account_id=payment.account_id,
            payment_id=payment.id,
            attempt_id=attempt.id,
            data={"look_ups": attempt.look_ups},
        ),
    )
    return SettleAttempt(attempt.id)


def _unknown(payment_id: UUID) -> Refused:
    return Refused(f"there is no payment {payment_id}", "look it up by invoice number or account")


def _why_not(connection: Connection, payment: PaymentRow, look: Look) -> Refused | None:
    """Say why an operator may not charge it: the first of REFUSED_BY that holds, or the network's budget."""
    refusing = first_that_holds(REFUSED_BY, look.facts)
    if refusing is not None:
        return REFUSED_BY[refusing](connection, payment, look)
    budget = over_budget(connection, payment, look)
    if budget is not None:
        return Refused(
            f"{_named(look)} may not be asked now ({budget.reason})",
            f"wait: it may be asked again from {budget.free_at:%Y-%m-%d %H:%M} UTC on",
            budget.free_at,
        )
    return None


def _because_paid(_connection: Connection, payment: PaymentRow, _look: Look) -> Refused:
    return Refused(f"it was paid at {payment.paid_at:%Y-%m-%d %H:%M} UTC", "nothing: it is never asked for again")


def _because_ended(_connection: Connection, payment: PaymentRow, _look: Look) -> Refused:
    return Refused(f"it is {payment.state}: {payment.state_reason}", "nothing: collection has ended")


def _because_close_is_pending(_connection: Connection, payment: PaymentRow, _look: Look) -> Refused:
    return Refused(
        f"an operator wants it {WORD_OF_CLOSE[str(payment.pending_close_as)]}, "
        "and its PaymentIntent is being canceled",
        "take that back on its page first, as long as it can be",
    )


def _because_of_transfer(_connection: Connection, _payment: PaymentRow, _look: Look) -> Refused:
    return Refused("the customer pays by bank transfer", "wait for the transfer, or have a card registered")


def _because_authorised(_connection: Connection, _payment: PaymentRow, _look: Look) -> Refused:
    return Refused("the money is on hold already", "capture or release the hold")


def _because_of_open_attempt(connection: Connection, payment: PaymentRow, _look: Look) -> Refused:
    attempt = open_attempt(connection, payment.id)
    if attempt is None:  # a preview locks nothing
        return Refused("its last attempt ended a moment ago", "look at it again")
    by = f" by {attempt.requested_by}" if (attempt.requested_by or "").startswith("operator:") else ""
    since = f"attempt {attempt.number}, begun{by} at {attempt.started_at:%Y-%m-%d %H:%M:%S} UTC,"
    if attempt.state == AttemptState.UNKNOWN:
        return Refused(
            f"nobody knows yet whether {since} moved money; looked up {attempt.look_ups} times so far",
            "wait until it is known, or `duecourse attempts look-up`: asking again could take the money twice",
        )
    return Refused(
        f"{since} is under way",
        "wait for its answer; without one it is looked up at the processor when its lease ends",
    )


def _because_asked_already(_connection: Connection, payment: PaymentRow, _look: Look) -> Refused:
    return Refused(
        f"{payment.requested_by} asked for it already, at {payment.next_attempt_at:%Y-%m-%d %H:%M:%S} UTC",
        "nothing: it is charged as soon as a worker is free; look at the payment again in a moment",
    )


def _because_of_no_card(_connection: Connection, _payment: PaymentRow, _look: Look) -> Refused:
    return Refused("no card is registered", "ask the customer to register one; then it is charged by itself")


def _because_card_is_blocked(_connection: Connection, _payment: PaymentRow, look: Look) -> Refused:
    return Refused(
        f"{_named(look)} must not be asked again ({look.block_reason})",
        "ask the customer to register another card",
    )


def _named(look: Look) -> str:
    return f"{look.charged_card.brand} ending in {look.charged_card.last4}"


#: What an operator's charge is refused by, in this order, and the words of the refusal.
REFUSED_BY: Mapping[Condition, Callable[[Connection, PaymentRow, Look], Refused]] = {
    PAID: _because_paid,
    COLLECTION_ENDED: _because_ended,
    CLOSE_PENDING: _because_close_is_pending,
    AWAITS_TRANSFER: _because_of_transfer,
    AUTHORISED: _because_authorised,
    ATTEMPT_OPEN: _because_of_open_attempt,
    ASKED_ALREADY: _because_asked_already,
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
    """What a person agreed to is what is done, or nothing is."""
    found = _snapshot(payment, settings, card)
    if found == snapshot:
        return None
    changes = []
    if (found.amount_minor, found.currency) != (snapshot.amount_minor, snapshot.currency):
        was = format_minor(snapshot.amount_minor, snapshot.currency)
        changes.append(f"the amount was {was} and is {format_minor(found.amount_minor, found.currency)} now")
    if found.card_id != snapshot.card_id:
        old = read_one_or_none(CardRow, connection.execute(select(cards).where(cards.c.id == snapshot.card_id)))
        was = f"{old.brand} ending in {old.last4}" if old else "another one"
        changes.append(f"the card was {was} and is {card.brand} ending in {card.last4} now")
    elif found.card_revision != snapshot.card_revision:
        changes.append("the card's data changed")
    if found.attempt_count != snapshot.attempt_count:
        changes.append(f"attempt {found.attempt_count} was made since")
    return Refused(f"it isn't what you saw any more: {', '.join(changes)}", "look at it again, and decide anew")


def _warnings(payment: PaymentRow, settings: SettingsRow, now: datetime) -> list[str]:
    warnings = []
    if is_held(payment.held_until, now):
        warnings.append(f"it is held, and the charge releases it: {payment.state_reason}")
    is_same_card = payment.waiting_for_revision_after == settings.card_revision
    if payment.state == PaymentState.NEEDS_AUTHENTICATION and is_same_card:
        warnings.append("the bank asked for the customer's confirmation, and probably will again")
    elif payment.state == PaymentState.NEEDS_PAYMENT_METHOD and is_same_card:
        warnings.append(f"the card hasn't changed since: {payment.state_reason}")
    return warnings


def _record_release(connection: Connection, payment: PaymentRow, cause: Cause) -> None:
    record_event(
        connection,
        BillingEvent(
            type=EventType.HOLD_RELEASED,
            at=cause.at,
            actor=cause.actor,
            reason=cause.reason,
            account_id=payment.account_id,
            payment_id=payment.id,
            before={
                "held_until": payment.held_until.isoformat() if payment.held_until else None,
                "state_reason": payment.state_reason,
            },
            after={"held_until": None},
        ),
    )


def _record_refusal(connection: Connection, payment: PaymentRow, refused: Refused, cause: Cause) -> None:
    record_event(
        connection,
        BillingEvent(
            type=EventType.CHARGE_NOT_ATTEMPTED,
            at=cause.at,
            actor=cause.actor,
            reason=refused.reason,
            account_id=payment.account_id,
            payment_id=payment.id,
            data={
                "trigger": Trigger.OPERATOR,
                "asked_because": cause.reason,
                "next_attempt_at": refused.free_at.isoformat() if refused.free_at else None,
            },
        ),
    )
