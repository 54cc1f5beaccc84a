"""The claim: check under locks that a payment is due, and commit an attempt before any request is sent.

Returns the claimed attempt, or why none was claimed. A due payment that can't be charged is moved on with a reason
(I13), so that it doesn't block the payments behind it. Between create and confirm, `allow_confirm` commits the
PaymentIntent's id if the attempt is still the worker's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, bindparam, insert, or_, select, update

from shared.db.billing_events import BillingEvent, Cause, record_event
from shared.db.rows import CardRow, PaymentIntentRow, PaymentRow, SettingsRow, read_one, read_one_or_none
from shared.db.tables.payments import payment_attempts, payment_intents, payments
from shared.domain.event_types import EventType
from shared.domain.states import (
    WAITING_FOR_CARD,
    AttemptKind,
    AttemptState,
    Lane,
    PaymentState,
    Trigger,
)
from shared.failpoints import Failpoint, reach
from shared.gateway.port import STRIPE_API_VERSION, PaymentIntentSnapshot
from shared.payments.eligibility import (
    ATTEMPT_OPEN,
    BACKING_OFF,
    BANK_TRANSFER,
    BY_CARD_AGAIN,
    CHARGEABLE_STATE,
    CLOSE_PENDING,
    HAS_NEWER_CARD,
    HELD,
    REACHED,
    STOPPED_BY,
    WAITS_FOR_CARD,
    WAITS_ITS_TURN,
    Condition,
    Facts,
    first_that_holds,
)
from shared.payments.locked_rows import lock_live_intent, lock_settings_and_payment
from shared.payments.look import look_at
from shared.payments.parking import ACTOR, WAITS_FOR_OLDER, park
from shared.payments.state_changes import make_due_now, move_payment
from shared.runtime import Runtime

#: No older request is repeated under its key: Stripe may prune keys after 24 hours.
KEY_GOOD_FOR = timedelta(hours=23)

#: Why a due payment isn't charged now, for the worker's log.
WORDS_OF_STOP: Mapping[Condition, str] = {
    HELD: "is held by an operator",
    CLOSE_PENDING: "is being closed by an operator",
    BACKING_OFF: "backs off from an outage",
    ATTEMPT_OPEN: "has an open attempt",
    WAITS_ITS_TURN: WAITS_FOR_OLDER,
}

# Built once: every claim runs them.
_LATEST_INTENT = (
    select(payment_intents)
    .where(payment_intents.c.payment_id == bindparam("payment_id"))
    .order_by(payment_intents.c.ordinal.desc())
    .limit(1)
)
_INSERT_INTENT = insert(payment_intents).returning(payment_intents)
_INSERT_ATTEMPT = insert(payment_attempts)
_COUNT_ATTEMPT = update(payments).where(payments.c.id == bindparam("payment_id"))


@dataclass(frozen=True)
class Claimed:
    """A committed attempt that this worker owns: the request to send, and its idempotency keys."""

    attempt_id: UUID
    payment_id: UUID
    number: int
    kind: AttemptKind
    coverage: str
    payment_intent_id: UUID
    ordinal: int
    stripe_payment_intent_id: str | None
    create_parameters: dict[str, Any]
    stripe_payment_method_id: str | None  # none is needed to cancel
    lease_expires_at: datetime

    @property
    def create_key(self) -> str:
        return f"duecourse-create-{self.payment_id}-{self.ordinal}"

    @property
    def attempt_key(self) -> str:
        return f"duecourse-{self.kind}-{self.payment_id}-{self.number}"


@dataclass(frozen=True)
class Wanted:
    """What an attempt is for: the card as it is now (none to cancel), the trigger, and who requested it."""

    kind: AttemptKind
    card: CardRow | None
    card_revision: int
    trigger: str
    requested_by: str | None


@dataclass(frozen=True)
class NotClaimed:
    """Why no attempt was claimed."""

    reason: str


def claim_charge(connection: Connection, runtime: Runtime, payment_id: UUID) -> Claimed | NotClaimed:
    """Claim the next attempt of one payment, in the caller's transaction. Both clocks are read once."""
    now, machine_now = runtime.clock.now(), runtime.machine_now()
    locked = lock_settings_and_payment(connection, payment_id)
    if locked is None:
        return NotClaimed("there is no such payment")
    settings, payment = locked
    look = look_at(connection, payment, settings, now, machine_now)
    not_due = _why_not_due(payment, look.facts)
    if not_due is not None:
        return NotClaimed(not_due)
    if payment.state in WAITING_FOR_CARD:
        payment = _wake(connection, payment, now)
    elif BY_CARD_AGAIN.holds(look.facts):
        payment = _by_card_again(connection, payment, now)
    if BANK_TRANSFER.holds(look.facts):
        cancellation = _cancel_before_transfer(connection, runtime, payment, settings, now, machine_now)
        if cancellation is not None:
            reach(Failpoint.CHARGE_CLAIM_BEFORE_COMMIT)
            return cancellation
    waits = park(connection, runtime.policy, payment, look)
    if waits is not None:
        reach(Failpoint.CHARGE_PARK_BEFORE_COMMIT)
        return NotClaimed(waits)
    claimed = _start(connection, runtime, payment, settings, look.charged_card, now, machine_now)
    reach(Failpoint.CHARGE_CLAIM_BEFORE_COMMIT)
    return claimed


def _why_not_due(payment: PaymentRow, facts: Facts) -> str | None:
    """Return why the payment isn't due now; None if it is, or if a newer card makes it due."""
    if WAITS_FOR_CARD.holds(facts):
        if not HAS_NEWER_CARD.holds(facts):
            return f"waits: {payment.state_reason}"
    elif BY_CARD_AGAIN.holds(facts):
        pass
    elif not CHARGEABLE_STATE.holds(facts):
        return f"is {payment.state}"
    elif payment.next_attempt_at is None:
        return "has no next attempt"
    elif not REACHED.holds(facts):
        return f"is due at {payment.next_attempt_at.isoformat()}"
    stopped = first_that_holds(STOPPED_BY, facts)
    return None if stopped is None else WORDS_OF_STOP[stopped]


def _wake(connection: Connection, payment: PaymentRow, now: datetime) -> PaymentRow:
    """Make a payment due whose blocking card was replaced (I15); interactive, since the customer may be waiting."""
    cause = Cause(ACTOR, now, "the blocking card was replaced or updated")
    make_due_now(connection, payment, Lane.INTERACTIVE, Trigger.CARD_REGISTERED, cause)
    return read_one(PaymentRow, connection.execute(select(payments).where(payments.c.id == payment.id)))


def _by_card_again(connection: Connection, payment: PaymentRow, now: datetime) -> PaymentRow:
    """Make a payment due that waited for a transfer. Without a card it then waits for one, like any other."""
    cause = Cause(ACTOR, now, "the customer pays by card again")
    move_payment(connection, payment, PaymentState.DUE, cause, next_attempt_at=now)
    return read_one(PaymentRow, connection.execute(select(payments).where(payments.c.id == payment.id)))


def _cancel_before_transfer(
    connection: Connection,
    runtime: Runtime,
    payment: PaymentRow,
    settings: SettingsRow,
    now: datetime,
    machine_now: datetime,
) -> Claimed | None:
    """Claim the cancellation of a live PaymentIntent; None without one: the payment may be parked (I3).

    Otherwise it could still be confirmed, while the customer transfers the same money.
    """
    intent = lock_live_intent(connection, payment.id)
    if intent is None:
        return None
    if is_create_key_stale(intent, machine_now):
        abandon_intent(connection, intent, now)
        return None
    wanted = Wanted(AttemptKind.CANCEL, None, settings.card_revision, payment.trigger, payment.requested_by)
    return start_attempt(connection, runtime, payment, intent, wanted, now, machine_now)


def _start(
    connection: Connection,
    runtime: Runtime,
    payment: PaymentRow,
    settings: SettingsRow,
    card: CardRow,
    now: datetime,
    machine_now: datetime,
) -> Claimed:
    intent = _live_intent(connection, payment, settings, now, machine_now)
    reach(Failpoint.CHARGE_CLAIM_INTENT_WRITTEN)
    # One that waits for the customer's bank, or was made for a Stripe customer that the account no longer has,
    # can't be confirmed with the present card: it is canceled and succeeded.
    must_be_replaced = intent.status == "requires_action" or _is_of_another_customer(intent, settings)
    kind = AttemptKind.CANCEL if must_be_replaced else AttemptKind.CHARGE
    wanted = Wanted(kind, card, settings.card_revision, payment.trigger, payment.requested_by)
    return start_attempt(connection, runtime, payment, intent, wanted, now, machine_now)


def start_attempt(
    connection: Connection,
    runtime: Runtime,
    payment: PaymentRow,
    intent: PaymentIntentRow,
    wanted: Wanted,
    now: datetime,
    machine_now: datetime,
) -> Claimed:
    """Insert an attempt for a locked payment, with its billing event. The caller owns it after the commit."""
    number, card = payment.attempt_count + 1, wanted.card
    lease_expires_at = machine_now + runtime.lease
    attempt_id = uuid4()
    connection.execute(
        _INSERT_ATTEMPT,
        {
            "id": attempt_id,
            "payment_id": payment.id,
            "number": number,
            "kind": wanted.kind,
            "state": AttemptState.STARTED,
            "payment_intent_id": intent.id,
            "coverage": payment.coverage,
            "trigger": wanted.trigger,
            "lane": payment.lane,
            "requested_by": wanted.requested_by,
            "card_id": card.id if card else None,
            "stripe_payment_method_id": card.stripe_payment_method_id if card else None,
            "card_revision": wanted.card_revision,
            "card_fingerprint": card.fingerprint if card else None,
            "card_network": card.network if card else None,
            "started_at": now,
            "lease_expires_at": lease_expires_at,
            # The id is known, so the confirm may be sent as soon as this is committed.
            "confirm_allowed_at": machine_now if intent.stripe_payment_intent_id else None,
        },
    )
    connection.execute(_COUNT_ATTEMPT, {"payment_id": payment.id, "attempt_count": number})
    record_event(
        connection,
        BillingEvent(
            type=EventType.ATTEMPT_STARTED,
            at=now,
            actor=wanted.requested_by or ACTOR,
            reason=wanted.trigger,
            account_id=payment.account_id,
            payment_id=payment.id,
            attempt_id=attempt_id,
            run_id=payment.run_id,
            after={"number": number, "kind": wanted.kind, "lane": payment.lane, "ordinal": intent.ordinal},
        ),
    )
    return Claimed(
        attempt_id=attempt_id,
        payment_id=payment.id,
        number=number,
        kind=wanted.kind,
        coverage=payment.coverage,
        payment_intent_id=intent.id,
        ordinal=intent.ordinal,
        stripe_payment_intent_id=intent.stripe_payment_intent_id,
        create_parameters=intent.create_parameters,
        stripe_payment_method_id=card.stripe_payment_method_id if card else None,
        lease_expires_at=lease_expires_at,
    )


def allow_confirm(
    connection: Connection, claimed: Claimed, snapshot: PaymentIntentSnapshot, machine_now: datetime
) -> bool:
    """Store the PaymentIntent's id before its confirm is sent; False if settlement has taken the attempt."""
    is_ours = connection.execute(
        update(payment_attempts)
        .where(payment_attempts.c.id == claimed.attempt_id, payment_attempts.c.state == AttemptState.STARTED)
        .values(confirm_allowed_at=machine_now)
        .returning(payment_attempts.c.id)
    ).one_or_none()
    if is_ours is None:
        return False
    known = payment_intents.c.stripe_payment_intent_id
    committed = connection.execute(
        update(payment_intents)
        .where(payment_intents.c.id == claimed.payment_intent_id, or_(known.is_(None), known == snapshot.stripe_id))
        .values(stripe_payment_intent_id=snapshot.stripe_id, status=snapshot.status)
        .returning(payment_intents.c.id)
    ).one_or_none()
    return committed is not None


def is_create_key_stale(intent: PaymentIntentRow, machine_now: datetime) -> bool:
    """Whether Stripe may have pruned the create's key (24 h): a repetition could create a second one (I6)."""
    if intent.stripe_payment_intent_id is not None or intent.first_sent_at is None:
        return False
    return intent.first_sent_at < machine_now - KEY_GOOD_FOR


def _is_of_another_customer(intent: PaymentIntentRow, settings: SettingsRow) -> bool:
    """Whether it was made for a Stripe customer that the account no longer has: the present card can't pay it."""
    return bool(intent.stripe_customer_id != settings.stripe_customer_id)


def abandon_intent(connection: Connection, intent: PaymentIntentRow, now: datetime) -> None:
    """Close a PaymentIntent whose create key is stale, or whose customer is gone. `now` is business time.

    Its id was never known, so it was never confirmed: whatever the lost create left behind moves no money.
    """
    connection.execute(
        update(payment_intents)
        .where(payment_intents.c.id == intent.id)
        .values(closed_reason="abandoned", closed_at=now)
    )


def _live_intent(
    connection: Connection, payment: PaymentRow, settings: SettingsRow, now: datetime, machine_now: datetime
) -> PaymentIntentRow:
    """Return the payment's live PaymentIntent row, or insert the next ordinal's before its create is sent (I3)."""
    latest = read_one_or_none(PaymentIntentRow, connection.execute(_LATEST_INTENT, {"payment_id": payment.id}))
    if latest is not None and latest.closed_reason is None:
        is_never_created = latest.stripe_payment_intent_id is None and _is_of_another_customer(latest, settings)
        if not (is_never_created or is_create_key_stale(latest, machine_now)):
            return latest
        abandon_intent(connection, latest, now)
    ordinal = 1 if latest is None else latest.ordinal + 1
    parameters = {
        "amount": payment.amount_minor,
        "currency": payment.currency.lower(),
        "customer": settings.stripe_customer_id,
        "capture_method": "automatic",
        "allowed_payment_method_types": ["card"],  # the account's defaults would require a return_url
        "metadata": {
            "duecourse_payment_id": str(payment.id),
            "duecourse_ordinal": str(ordinal),
            "duecourse_invoice_id": str(payment.invoice_id),
            "duecourse_coverage": payment.coverage,
        },
    }
    inserted = connection.execute(
        _INSERT_INTENT,
        {
            "payment_id": payment.id,
            "ordinal": ordinal,
            "coverage": payment.coverage,
            "amount_minor": payment.amount_minor,
            "currency": payment.currency,
            "stripe_customer_id": settings.stripe_customer_id,
            "create_parameters": parameters,
            "api_version": STRIPE_API_VERSION,
            "first_sent_at": machine_now,
        },
    )
    return read_one(PaymentIntentRow, inserted)
