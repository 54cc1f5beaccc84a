"""What comes next for one payment, in a sentence that a person can act on: who must do what, and when.

Pure: rows in, words out. The order of the questions is the order in which things block each other.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import Row

from shared.domain.states import (
    CHARGEABLE,
    UNPAID,
    WORD_OF_CLOSE,
    AttemptState,
    PaymentKind,
    PaymentState,
    SettingsKind,
)
from shared.payments.outcome_handlers import UNTIL_RELEASED
from shared.policy import Policy


class Owner(StrEnum):
    """Whose turn it is."""

    NOBODY = "nobody"
    DUECOURSE = "Duecourse"
    CUSTOMER = "the customer"
    OPERATOR = "an operator"


@dataclass(frozen=True)
class NextStep:
    """What comes next. `at` is business time, or machine time if `is_machine_time`; None: nobody knows."""

    sentence: str
    who: Owner
    at: datetime | None = None
    is_machine_time: bool = False
    what_to_do: str | None = None


@dataclass(frozen=True)
class Situation:
    """All that decides what comes next; rows as they are in the database, both clocks."""

    payment: Row[Any]
    settings: Row[Any]
    card: Row[Any] | None
    block_reason: str | None
    open_attempt: Row[Any] | None
    policy: Policy
    now: datetime
    machine_now: datetime

    @property
    def zone(self) -> ZoneInfo:
        return self.policy.coverage(self.payment.coverage).zone

    @property
    def has_usable_card(self) -> bool:
        return (
            self.card is not None and self.card.detached_at is None and self.settings.stripe_customer_id is not None
        )

    @property
    def is_held(self) -> bool:
        return self.payment.held_until is not None and self.payment.held_until > self.now


def show_instant(moment: datetime, zone: ZoneInfo) -> str:
    """Write an instant in a coverage's zone, with UTC beside it: `2026-11-02 09:00 JST (00:00 UTC)`."""
    local, utc = moment.astimezone(zone), moment.astimezone(UTC)
    clock = "%H:%M:%S" if moment.second else "%H:%M"
    shown = f"{local:%Y-%m-%d} {local.strftime(clock)} {local.tzname()}"
    if local.tzname() == "UTC":
        return shown
    day = f"{utc:%Y-%m-%d} " if utc.date() != local.date() else ""
    return f"{shown} ({day}{utc.strftime(clock)} UTC)"


def next_step_of(situation: Situation) -> NextStep:
    """Say what comes next: first what blocks everything, then the state's own answer."""
    state = PaymentState(situation.payment.state)
    if state in UNPAID and situation.payment.pending_close_as is not None:
        return _being_ended(situation)
    if situation.open_attempt is not None:
        return _open_attempt(situation, situation.open_attempt)
    if state in UNPAID and situation.is_held:
        return _held(situation)
    if state in CHARGEABLE:
        return _chargeable(situation)
    return _OF_STATE[state](situation)


def suspension_outlook(situation: Situation, standing: str) -> str | None:
    """Say when the account will be marked for suspension if nothing is paid; None if that isn't at stake."""
    payment, dunning = situation.payment, situation.policy.dunning
    if PaymentState(payment.state) not in UNPAID or payment.kind != PaymentKind.MONTHLY:
        return None
    if standing == "marked_for_suspension":
        return "the account is marked for suspension; paying everything in trouble takes the mark away"
    marked_on: date = payment.due_on + timedelta(days=dunning.mark_after_days_past_due)
    left = dunning.mark_after_declines - payment.decline_count
    declines = f"after {left} more decline{'s' if left > 1 else ''}" if payment.decline_count else ""
    return " or ".join(filter(None, [f"the account is marked for suspension on {marked_on} if unpaid", declines]))


def _open_attempt(situation: Situation, attempt: Row[Any]) -> NextStep:
    begun = show_instant(attempt.started_at, situation.zone)
    if attempt.state == AttemptState.STARTED:
        return NextStep(
            f"Attempt {attempt.number}, begun {begun}, is under way. Should no answer come, it is looked up at the "
            f"processor from {attempt.lease_expires_at:%H:%M:%S} UTC (machine time) on.",
            Owner.DUECOURSE,
            attempt.lease_expires_at,
            is_machine_time=True,
        )
    when = f"next at {attempt.look_up_at:%Y-%m-%d %H:%M:%S} UTC (machine time)" if attempt.look_up_at else "soon"
    return NextStep(
        f"Nobody knows yet whether attempt {attempt.number}, begun {begun}, moved money. It is looked up at the "
        f"processor again and again ({attempt.look_ups} looks so far, {when}); until then nothing else is asked.",
        Owner.DUECOURSE,
        attempt.look_up_at,
        is_machine_time=True,
        what_to_do="nothing; if this lasts, `duecourse doctor` shows what doesn't answer",
    )


def _being_ended(situation: Situation) -> NextStep:
    """A person wants it ended: its PaymentIntent is canceled first, and money that comes before wins (I3)."""
    begun = f"It is being {WORD_OF_CLOSE[situation.payment.pending_close_as]}"
    if situation.open_attempt is not None:
        way = _open_attempt(situation, situation.open_attempt)
        return replace(way, sentence=f"{begun}. {way.sentence}")
    outage = _backing_off(situation)
    if outage is not None:
        return replace(outage, sentence=f"{begun}. {outage.sentence}")
    return NextStep(
        f"{begun}: within seconds its PaymentIntent is canceled at the processor, then it ends. It isn't charged "
        "any more; money that comes in before still counts.",
        Owner.DUECOURSE,
        what_to_do="nothing; until the cancellation begins, its page can take it back",
    )


def _held(situation: Situation) -> NextStep:
    payment = situation.payment
    charge = f"`duecourse payment charge {payment.id} --reason …` releases it and charges"
    if payment.held_until >= UNTIL_RELEASED:
        sentence = f"Held until an operator decides: {payment.state_reason}."
        return NextStep(sentence, Owner.OPERATOR, what_to_do=f"look at the reason; {charge}")
    until = show_instant(payment.held_until, situation.zone)
    return NextStep(
        f"Held until {until}: {payment.state_reason}.", Owner.DUECOURSE, payment.held_until, what_to_do=charge
    )


def _chargeable(situation: Situation) -> NextStep:
    payment = situation.payment
    outage = _backing_off(situation)
    if outage is not None and payment.next_attempt_at <= situation.now:
        return outage
    what = _what_is_asked(situation)
    if payment.next_attempt_at > situation.now:
        when = show_instant(payment.next_attempt_at, situation.zone)
        why = f" (after: {payment.state_reason})" if payment.state == PaymentState.RETRY_SCHEDULED else ""
        return NextStep(f"At {when} {what}{why}.", Owner.DUECOURSE, payment.next_attempt_at)
    return NextStep(
        f"Due now: as soon as a worker is free, {what}.",
        Owner.DUECOURSE,
        payment.next_attempt_at,
        what_to_do="nothing; if it stays so, `duecourse doctor` shows whether scheduler and workers run",
    )


def _backing_off(situation: Situation) -> NextStep | None:
    payment = situation.payment
    if payment.backoff_until is None or payment.backoff_until <= situation.machine_now:
        return None
    return NextStep(
        f"The processor could not be asked ({payment.not_sent_count} times in a row; no decline). It is tried "
        f"again at {payment.backoff_until:%Y-%m-%d %H:%M:%S} UTC (machine time).",
        Owner.DUECOURSE,
        payment.backoff_until,
        is_machine_time=True,
    )


def _what_is_asked(situation: Situation) -> str:
    if situation.settings.kind == SettingsKind.BANK_TRANSFER:
        return "it is set aside to wait for the customer's bank transfer"
    if situation.card is None or not situation.has_usable_card:
        return "it is set aside to wait for a card, since none is registered"
    named = f"{situation.card.brand} ending in {situation.card.last4}"
    if situation.block_reason is not None:
        return (
            f"it is set aside to wait for another card: {named} must not be asked again ({situation.block_reason})"
        )
    return f"{named} is asked"


def _needs_payment_method(situation: Situation) -> NextStep:
    return _woken(situation) or NextStep(
        f"Waits for the customer to register or mend a card: {situation.payment.state_reason}. "
        "Then it is charged at once, by itself.",
        Owner.CUSTOMER,
        what_to_do=_ask_anyway(situation, "write to the customer"),
    )


def _needs_authentication(situation: Situation) -> NextStep:
    return _woken(situation) or NextStep(
        f"Waits for the customer: {situation.payment.state_reason}. Registering a card anew, with the bank's "
        "confirmation, charges it at once.",
        Owner.CUSTOMER,
        what_to_do=_ask_anyway(situation, "write to the customer"),
    )


def _woken(situation: Situation) -> NextStep | None:
    """The card changed after the payment began to wait: the sweep wakes it (I15)."""
    if not situation.has_usable_card:
        return None
    if situation.settings.card_revision <= situation.payment.waiting_for_revision_after:
        return None
    return NextStep(f"A newer card is registered: within seconds, {_what_is_asked(situation)}.", Owner.DUECOURSE)


def _ask_anyway(situation: Situation, first: str) -> str:
    if not situation.has_usable_card or situation.block_reason is not None:
        return first
    charge = f"`duecourse payment charge {situation.payment.id} --reason …`"
    return f"{first}; the same card is asked again only by {charge}"


def _paid(situation: Situation) -> NextStep:
    paid = show_instant(situation.payment.paid_at, situation.zone)
    return NextStep(f"Nothing: paid {paid}. It is never asked for again.", Owner.NOBODY)


def _ended(situation: Situation) -> NextStep:
    return NextStep(f"Nothing: {situation.payment.state_reason or situation.payment.state}.", Owner.NOBODY)


_OF_STATE: dict[PaymentState, Callable[[Situation], NextStep]] = {
    PaymentState.NEEDS_PAYMENT_METHOD: _needs_payment_method,
    PaymentState.NEEDS_AUTHENTICATION: _needs_authentication,
    PaymentState.NEEDS_SUPPORT: lambda s: NextStep(
        f"Waits for customer support: {s.payment.state_reason}.",
        Owner.OPERATOR,
        what_to_do=f"`duecourse payment charge {s.payment.id} --reason …` once it should be charged",
    ),
    PaymentState.AWAITING_TRANSFER: lambda s: NextStep(
        f"Waits for the customer's bank transfer, due on {s.payment.due_on}. No card is asked.", Owner.CUSTOMER
    ),
    PaymentState.AUTHORISED: lambda s: NextStep(
        f"The money is on hold at the bank: {s.payment.state_reason}.", Owner.DUECOURSE
    ),
    PaymentState.PAID: _paid,
    PaymentState.CARRIED_FORWARD: _ended,
    PaymentState.UNCOLLECTIBLE: _ended,
    PaymentState.VOID: _ended,
}
