"""Outcome handlers: what an outcome does to its payment, one function each. The caller holds all locks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import Connection, bindparam, func, select, update

from shared.accounts.cards import detach_card, find_card
from shared.accounts.standing import REFUSED_CHARGE_FINDING, update_standing
from shared.db.billing_events import BillingEvent, Cause, record_event
from shared.db.rows import AttemptRow, SettingsRow, read_one
from shared.db.tables.accounts import payment_settings
from shared.db.tables.payments import payment_attempts, payments
from shared.domain.backoff import Backoff
from shared.domain.calendar import UNTIL_RELEASED, instant, local_date
from shared.domain.declines import Decline, explain
from shared.domain.dunning import (
    AfterDecline,
    AwaitAuthentication,
    AwaitPaymentMethod,
    HoldForOperator,
    RetryOn,
    StopRetrying,
    decide_after_decline,
)
from shared.domain.event_types import EventType
from shared.domain.states import (
    CHARGEABLE,
    ENDED,
    AttemptKind,
    AttemptState,
    Lane,
    PaymentKind,
    PaymentState,
    Standing,
    Trigger,
)
from shared.gateway.port import Answer, Missing, Outcome
from shared.payments.cancellation import close_as_requested, record_close_overtaken
from shared.payments.locked_rows import LockedPaymentIntent
from shared.payments.network_budgets import block_card
from shared.payments.receipts import has_other_receipt, open_finding, record_receipt
from shared.payments.state_changes import DeclineCounts, move_payment
from shared.policy import Coverage, Policy

#: Machine time until a payment is tried again whose request reached no issuer: mostly an outage.
NOT_SENT_BACKOFF = Backoff(first=timedelta(seconds=5), longest=timedelta(hours=1))
#: The same for a request that Stripe refused as such, where only time or an operator can help: longer than the
#: longest of an outage, whose end hardly shortens it, and shorter than clock.FARTHEST_AHEAD: none counts beyond it.
REFUSED_BACKOFF = timedelta(minutes=110)
WORDS_OF_MISSING: Mapping[Missing, str] = {
    Missing.CARD: "the card was removed at Stripe",
    Missing.CUSTOMER: "the customer was deleted at Stripe, with its cards",
}
#: Who canceled it, by `cancellation_reason` (docs.stripe.com/api/payment_intents/object): Stripe itself …
CANCELED_BY_STRIPE = frozenset({"automatic", "expired"})
#: … or a user of its API or dashboard, who may also give none. Null and reasons that Stripe adds later name none.
CANCELED_BY_A_USER = frozenset({"duplicate", "fraudulent", "requested_by_customer", "abandoned"})


_DECLINES_WITH_CARD = (
    select(func.count())
    .select_from(payment_attempts)
    .where(
        payment_attempts.c.payment_id == bindparam("payment"),
        payment_attempts.c.card_revision == bindparam("revision"),
        payment_attempts.c.state == AttemptState.DECLINED,
    )
)


@dataclass(frozen=True)
class Locked(LockedPaymentIntent):
    """The locked rows that an outcome changes, and the current time on both clocks."""

    attempt: AttemptRow | None
    policy: Policy
    now: datetime
    machine_now: datetime

    @property
    def coverage(self) -> Coverage:
        return self.policy.coverage(self.payment.coverage)

    @property
    def attempt_id(self) -> UUID | None:
        return None if self.attempt is None else self.attempt.id

    def cause(self, actor: str, reason: str) -> Cause:
        return Cause(actor, self.now, reason, attempt_id=self.attempt_id, run_id=self.payment.run_id)


def after_success(connection: Connection, locked: Locked, answer: Answer, actor: str) -> None:
    """Record the receipt; the payment is paid, whatever its state. Paid twice or after a close: a finding (I8)."""
    snapshot = answer.payment_intent
    if snapshot is None:
        raise AssertionError("success without a PaymentIntent that shows it")
    payment = locked.payment
    cause = locked.cause(actor, "the card was charged")
    record_receipt(connection, payment, locked.attempt_id, snapshot, cause)
    charge_id = snapshot.latest_charge_id or snapshot.stripe_id
    facts = {
        "charge_id": charge_id,
        "received_minor": snapshot.amount_received_minor,
        "currency": snapshot.currency,
    }
    is_paid = payment.state == PaymentState.PAID  # only then can there be a receipt before this one
    if is_paid and has_other_receipt(connection, payment, charge_id):
        open_finding(connection, "paid_more_than_once", payment, charge_id, facts, cause)
    if (snapshot.amount_received_minor, snapshot.currency) != (payment.amount_minor, payment.currency):
        open_finding(connection, "amount_differs", payment, charge_id, facts, cause)
    if is_paid:
        return
    if payment.state in ENDED:
        open_finding(connection, "paid_after_its_end", payment, charge_id, facts, cause)
    if payment.pending_close_as is not None:
        record_close_overtaken(connection, payment, PaymentState(payment.pending_close_as), cause)
    move_payment(
        connection, payment, PaymentState.PAID, cause, paid_at=locked.now, held_until=None, not_sent_count=0
    )
    if locked.account.standing != Standing.GOOD:  # a success never worsens the standing
        _update_standing(connection, locked, cause)


def after_decline(connection: Connection, locked: Locked, answer: Answer, actor: str) -> None:
    """Count the decline, decide what follows, and update the account's standing."""
    decline, payment = _with_network(answer.decline or Decline(), locked), locked.payment
    declines = _declines_with_card(connection, locked)
    local_now = locked.now.astimezone(locked.coverage.zone)
    decision = decide_after_decline(
        decline, PaymentKind(payment.kind), declines, locked.policy.dunning, local_now, local_now.date()
    )
    counted: DeclineCounts = {
        "decline_count": payment.decline_count + 1,
        "first_declined_at": payment.first_declined_at or locked.now,
        "last_decline_code": decline.decline_code or decline.code,
        "not_sent_count": 0,
    }
    if isinstance(decision, AwaitPaymentMethod) and decision.is_never:
        _block_card(connection, locked, decision.reason)
    _apply_decision(connection, locked, decision, actor, counted)
    _update_standing(connection, locked, locked.cause(actor, decision.reason), is_decline=True)
    if isinstance(decision, HoldForOperator) or (isinstance(decision, RetryOn) and decision.needs_attention):
        ask_for_attention(connection, locked, actor, decision.reason)


def _declines_with_card(connection: Connection, locked: Locked) -> int:
    """Count the payment's declines since its card was registered or renewed, this one included."""
    attempt = locked.attempt
    if attempt is None:
        raise AssertionError("a decline is recorded with its attempt")
    count: int = connection.execute(
        _DECLINES_WITH_CARD, {"payment": attempt.payment_id, "revision": attempt.card_revision}
    ).scalar_one()
    return count


def after_authentication_needed(connection: Connection, locked: Locked, answer: Answer, actor: str) -> None:
    """Wait for the customer: no decline is counted, no retry can help."""
    decline = answer.decline or Decline(code="authentication_required")
    reason = f"{explain(decline)}: the customer must confirm with their bank"
    _apply_decision(connection, locked, AwaitAuthentication(reason), actor, {"not_sent_count": 0})


def after_cancellation(connection: Connection, locked: Locked, answer: Answer, actor: str) -> None:
    """Continue with a new PaymentIntent if Stripe or we canceled; otherwise hold the payment for an operator (I3).

    A pending close takes precedence: the payment is closed now. Without an attempt that it interrupts, a
    cancellation by Stripe changes no date and wakes nothing: it says nothing about the card that declined.
    """
    by = answer.payment_intent.cancellation_reason if answer.payment_intent else None
    payment, is_ours = locked.payment, locked.attempt is not None and locked.attempt.kind == AttemptKind.CANCEL
    if payment.state in ENDED:
        return
    if payment.pending_close_as is not None:
        to = PaymentState(payment.pending_close_as)
        close_as_requested(connection, locked.account, payment, to, locked.policy, locked.cause(actor, ""))
        return
    is_chargeable = payment.state in CHARGEABLE
    if is_ours or by in CANCELED_BY_STRIPE:
        if is_chargeable and locked.attempt is not None:
            reason = f"its PaymentIntent was canceled ({by or 'by us'}): continue with a new one"
            cause = locked.cause(actor, reason)
            move_payment(connection, payment, PaymentState.DUE, cause, next_attempt_at=locked.now)
        return
    is_by_a_user = by in CANCELED_BY_A_USER
    whom = "by a user of Stripe" if is_by_a_user else "by an unknown user or process"
    reason = f"its PaymentIntent was canceled at Stripe {whom} ({by or 'no reason given'}): an operator decides"
    cause = locked.cause(actor, reason)
    open_finding(
        connection,
        "canceled_by_a_person" if is_by_a_user else "canceled_for_unknown_reason",
        payment,
        locked.intent.stripe_payment_intent_id or str(locked.intent.id),
        {"cancellation_reason": by, "ordinal": locked.intent.ordinal},
        cause,
    )
    move_payment(
        connection,
        payment,
        PaymentState.DUE if is_chargeable else PaymentState(payment.state),
        cause,
        next_attempt_at=locked.now if is_chargeable else None,
        waiting_for_revision_after=payment.waiting_for_revision_after,
        held_until=UNTIL_RELEASED,
    )


def after_not_sent(connection: Connection, locked: Locked, answer: Answer, actor: str) -> None:
    """Back off (machine time): the request reached no issuer. Never dunning, never a decline."""
    if answer.is_refused and _after_refusal(connection, locked, answer, actor):
        return
    count = locked.payment.not_sent_count
    wait = REFUSED_BACKOFF if answer.is_refused else NOT_SENT_BACKOFF.after(count + 1)
    connection.execute(
        update(payments)
        .where(payments.c.id == locked.payment.id)
        .values(not_sent_count=count + 1, backoff_until=locked.machine_now + wait)
    )
    record_event(
        connection,
        BillingEvent(
            type=EventType.CHARGE_NOT_ATTEMPTED,
            at=locked.now,
            actor=actor,
            reason=answer.reason,
            account_id=locked.account.id,
            payment_id=locked.payment.id,
            attempt_id=locked.attempt_id,
            data={"again_in_s": int(wait.total_seconds()), "code": answer.code},
        ),
    )
    if answer.needs_attention and count == 0:
        ask_for_attention(connection, locked, actor, answer.reason)


def _after_refusal(connection: Connection, locked: Locked, answer: Answer, actor: str) -> bool:
    """Park or hold a payment whose charge is refused each time it is sent; False if waiting may still help.

    A spent key is no reason to stop: the next claim sends the request under a new one. A refused cancellation is
    repeated, rarely, because the close must come to its end. So is a charge whose customer and card were never at
    Stripe, because then the API key is probably another account's, and no card is to blame.
    """
    attempt = locked.attempt
    if attempt is None or attempt.kind == AttemptKind.CANCEL or answer.is_key_spent:
        return False
    if answer.missing is Missing.BOTH_UNKNOWN:
        return False
    if answer.missing is not None:
        reason = WORDS_OF_MISSING[answer.missing]
        card = find_card(connection, locked.payment.coverage, attempt.stripe_payment_method_id or "")
        detach_card(connection, card, locked.now)
        # Detaching raised the revision: only a card that is registered from now on may wake the payment.
        changed = select(payment_settings).where(payment_settings.c.id == locked.settings.id)
        settings = read_one(SettingsRow, connection.execute(changed))
        _apply_decision(
            connection, replace(locked, settings=settings), AwaitPaymentMethod(reason), actor, {"not_sent_count": 0}
        )
        return True
    reason = f"Stripe refuses the charge ({answer.code or answer.reason}): sent again, it would be refused again"
    subject = locked.intent.stripe_payment_intent_id or str(locked.intent.id)
    details = {"http_status": answer.http_status, "code": answer.code, "request_id": answer.request_id}
    cause = locked.cause(actor, reason)
    open_finding(connection, REFUSED_CHARGE_FINDING, locked.payment, subject, details, cause)
    _apply_decision(connection, locked, HoldForOperator(reason), actor, {"not_sent_count": 0})
    ask_for_attention(connection, locked, actor, reason)
    return True


def after_unknown(connection: Connection, locked: Locked, answer: Answer, actor: str) -> None:
    """Change nothing: the open attempt blocks every other charge until settlement knows the outcome."""
    if answer.needs_attention:
        ask_for_attention(connection, locked, actor, answer.reason)


OUTCOME_HANDLERS: Mapping[Outcome, Callable[[Connection, Locked, Answer, str], None]] = {
    Outcome.SUCCEEDED: after_success,
    Outcome.DECLINED: after_decline,
    Outcome.AUTHENTICATION_NEEDED: after_authentication_needed,
    Outcome.CANCELED: after_cancellation,
    Outcome.NOT_SENT: after_not_sent,
    Outcome.UNKNOWN: after_unknown,
}


def _apply_decision(
    connection: Connection, locked: Locked, decision: AfterDecline, actor: str, counted: DeclineCounts
) -> None:
    payment, settings = locked.payment, locked.settings
    cause = locked.cause(actor, decision.reason)
    has_newer_card = (
        locked.attempt is not None
        and settings.card_revision > locked.attempt.card_revision
        and settings.primary_card_id is not None
    )
    if has_newer_card and not isinstance(decision, HoldForOperator) and payment.kind == PaymentKind.MONTHLY:
        # The customer registered a card while the old one was being charged: charge the new one now (I15).
        newer = locked.cause(actor, f"{decision.reason}; a newer card was registered meanwhile")
        move_payment(
            connection,
            payment,
            PaymentState.DUE,
            newer,
            next_attempt_at=locked.now,
            lane=Lane.INTERACTIVE,
            trigger=Trigger.CARD_REGISTERED,
            **counted,
        )
        return
    match decision:
        case RetryOn(day):
            at = instant(day, locked.policy.dunning.retry_at, locked.coverage.zone)
            move_payment(
                connection,
                payment,
                PaymentState.RETRY_SCHEDULED,
                cause,
                next_attempt_at=at,
                lane=Lane.BATCH,
                trigger=Trigger.DAILY_RETRY,
                requested_by=None,
                **counted,
            )
        case HoldForOperator():
            move_payment(
                connection,
                payment,
                PaymentState.DUE,
                cause,
                next_attempt_at=locked.now,
                held_until=UNTIL_RELEASED,
                **counted,
            )
        case AwaitPaymentMethod() | StopRetrying() | AwaitAuthentication():
            to = (
                PaymentState.NEEDS_AUTHENTICATION
                if isinstance(decision, AwaitAuthentication)
                else PaymentState.NEEDS_PAYMENT_METHOD
            )
            move_payment(
                connection, payment, to, cause, waiting_for_revision_after=settings.card_revision, **counted
            )


def _with_network(decline: Decline, locked: Locked) -> Decline:
    """Fill in the card's network where the error doesn't name it: the network's rules depend on it."""
    network = decline.network or (locked.attempt.card_network if locked.attempt is not None else None)
    return Decline(**{**vars(decline), "network": network})


def _block_card(connection: Connection, locked: Locked, reason: str) -> None:
    attempt = locked.attempt
    if attempt is not None and attempt.card_fingerprint is not None:
        block_card(connection, locked.payment.coverage, attempt.card_fingerprint, reason, attempt.id, locked.now)


def _update_standing(connection: Connection, locked: Locked, cause: Cause, *, is_decline: bool = False) -> None:
    if locked.payment.kind == PaymentKind.MONTHLY:
        today, payment_id = local_date(locked.now, locked.coverage.zone), locked.payment.id
        update_standing(connection, locked.account, locked.policy, today, cause, payment_id, is_decline=is_decline)


def ask_for_attention(connection: Connection, locked: Locked, actor: str, reason: str) -> None:
    """Record an alert that the dashboard shows."""
    record_event(
        connection,
        BillingEvent(
            type=EventType.ATTENTION_NEEDED,
            at=locked.now,
            actor=actor,
            reason=reason,
            account_id=locked.account.id,
            payment_id=locked.payment.id,
            attempt_id=locked.attempt_id,
        ),
    )
