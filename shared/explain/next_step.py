"""The next step of one payment, as a sentence to act on: who must do what and when, and what is at risk.

Pure: rows in, text out. The checks run in the order in which the conditions block each other.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo

from shared.db.rows import AttemptRow, CardRow, PaymentRow, SettingsRow
from shared.domain.calendar import waits_for_operator
from shared.domain.states import (
    CHARGEABLE,
    UNPAID,
    WORD_OF_CLOSE,
    AttemptState,
    PaymentKind,
    PaymentState,
    SettingsKind,
)
from shared.payments.eligibility import is_backing_off, is_held
from shared.payments.network_budgets import CardBudget
from shared.policy import Policy


class Owner(StrEnum):
    """Who must act next."""

    NOBODY = "nobody"
    DUECOURSE = "Duecourse"
    CUSTOMER = "customer"
    OPERATOR = "operator"


@dataclass(frozen=True)
class NextStep:
    """The next step. `at` is business time, or machine time if `is_machine_time`; None if it isn't known.

    `impact` is what happens to the account if the payment stays unpaid; None if nothing does.
    """

    sentence: str
    owner: Owner
    at: datetime | None = None
    is_machine_time: bool = False
    what_to_do: str | None = None
    impact: str | None = None


@dataclass(frozen=True)
class Situation:
    """Everything that decides the next step: rows as they are in the database, and both clocks."""

    payment: PaymentRow
    standing: str
    settings: SettingsRow
    card: CardRow | None
    block_reason: str | None
    open_attempt: AttemptRow | None
    #: Another invoice of the account is charged first.
    waits_its_turn: bool
    #: Why the processor's answer to the open attempt could not be recorded.
    record_error: str | None
    automatic_declines: int
    card_budget: CardBudget | None
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
    def held_until(self) -> datetime | None:
        """The end of a hold that is in force."""
        return self.payment.held_until if is_held(self.payment.held_until, self.now) else None


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
    """Return the payment's next step and its impact."""
    return replace(_step(situation), impact=_suspension_impact(situation))


def _step(situation: Situation) -> NextStep:
    """Check first what blocks everything else, then the state."""
    state = PaymentState(situation.payment.state)
    if state in UNPAID and situation.payment.pending_close_as is not None:
        return _being_closed(situation, situation.payment.pending_close_as)
    if situation.open_attempt is not None:
        return _open_attempt(situation, situation.open_attempt)
    if state in UNPAID and situation.held_until is not None:
        return _held(situation, situation.held_until)
    if state in CHARGEABLE:
        return _chargeable(situation)
    return _BY_STATE[state](situation)


def _suspension_impact(situation: Situation) -> str | None:
    """Say when the account will be marked for suspension if the payment stays unpaid; None if it won't be."""
    payment, dunning = situation.payment, situation.policy.dunning
    if PaymentState(payment.state) not in UNPAID or payment.kind != PaymentKind.MONTHLY:
        return None
    if situation.standing == "marked_for_suspension":
        return "the account is marked for suspension; paying its declined and overdue payments removes the mark"
    marked_on: date = payment.due_on + timedelta(days=dunning.mark_after_days_past_due)
    left = dunning.mark_after_declines - situation.automatic_declines
    automatic = f"after {left} more decline{'s' if left > 1 else ''} of automatic charges"
    declines = automatic if payment.decline_count and left > 0 else ""
    return " or ".join(filter(None, [f"the account is marked for suspension on {marked_on} if unpaid", declines]))


def _open_attempt(situation: Situation, attempt: AttemptRow) -> NextStep:
    started = show_instant(attempt.started_at, situation.zone)
    if situation.record_error is not None:
        return NextStep(
            f"The processor answered attempt {attempt.number}, started {started}, but its answer could not be "
            f"recorded: {situation.record_error}. Until it is recorded, nothing else is charged.",
            Owner.OPERATOR,
            attempt.look_up_at or attempt.lease_expires_at,
            is_machine_time=True,
            what_to_do="report this error: it is a defect of Duecourse. Once it is fixed and the workers are "
            "restarted, the next look-up records the answer",
        )
    if attempt.state == AttemptState.STARTED:
        return NextStep(
            f"Attempt {attempt.number}, started {started}, is in progress. If no answer arrives, it is looked "
            f"up at the processor from {attempt.lease_expires_at:%H:%M:%S} UTC (machine time).",
            Owner.DUECOURSE,
            attempt.lease_expires_at,
            is_machine_time=True,
        )
    when = (
        f"next at {attempt.look_up_at:%Y-%m-%d %H:%M:%S} UTC (machine time)" if attempt.look_up_at else "next now"
    )
    return NextStep(
        f"The outcome of attempt {attempt.number}, started {started}, is unknown. It is looked up at the processor "
        f"until it is known ({attempt.look_ups} look-ups so far, {when}); until then nothing else is charged.",
        Owner.DUECOURSE,
        attempt.look_up_at,
        is_machine_time=True,
        what_to_do="nothing; if this lasts, `duecourse doctor` shows which dependency doesn't answer",
    )


def _being_closed(situation: Situation, close_as: str) -> NextStep:
    """An operator requested its close: its PaymentIntent is canceled first; money that arrives before wins (I3)."""
    word = WORD_OF_CLOSE[close_as]
    if situation.open_attempt is not None:
        step = _open_attempt(situation, situation.open_attempt)
        return replace(step, sentence=f"It is being {word}. {step.sentence}")
    outage = _backing_off(situation)
    if outage is not None:
        return replace(outage, sentence=f"It is being {word}. {outage.sentence}")
    return NextStep(
        f"It is being {word}: its PaymentIntent is canceled at the processor within seconds, then the payment is "
        "closed. It isn't charged again; money that arrives before the cancellation still counts.",
        Owner.DUECOURSE,
        what_to_do="nothing; until the cancellation starts, its page can take this back",
    )


def _held(situation: Situation, held_until: datetime) -> NextStep:
    payment = situation.payment
    charge = (
        f"`duecourse payment charge {payment.id} --reason …` releases the hold and charges it; "
        f"`duecourse payment release {payment.id} --reason …` only releases it"
    )
    if waits_for_operator(held_until):
        sentence = f"Held until an operator releases it: {payment.state_reason}."
        return NextStep(sentence, Owner.OPERATOR, what_to_do=f"check the reason; {charge}")
    until = show_instant(held_until, situation.zone)
    return NextStep(f"Held until {until}: {payment.state_reason}.", Owner.DUECOURSE, held_until, what_to_do=charge)


def _chargeable(situation: Situation) -> NextStep:
    payment, next_at = situation.payment, situation.payment.next_attempt_at
    outage = _backing_off(situation)
    is_due = next_at is None or next_at <= situation.now
    if outage is not None and is_due:
        return outage
    action = _next_action(situation)
    if next_at is not None and not is_due:
        next_at = _when_the_network_allows(situation, next_at)
        when = show_instant(next_at, situation.zone)
        why = f", after: {payment.state_reason}" if payment.state == PaymentState.RETRY_SCHEDULED else ""
        return NextStep(f"At {when} {action}{why}.{_tries_left(situation)}", Owner.DUECOURSE, next_at)
    if situation.waits_its_turn:
        return NextStep(
            "Due, and another invoice of the account is charged first: automatic charges go from the oldest on, "
            f"one at a time. Once that one is answered, {action}.",
            Owner.DUECOURSE,
            next_at,
        )
    return NextStep(
        f"Due now: as soon as a worker is free, {action}.{_tries_left(situation)}",
        Owner.DUECOURSE,
        next_at,
        what_to_do="nothing; if it stays due, `duecourse doctor` shows whether scheduler and workers run",
    )


def _when_the_network_allows(situation: Situation, planned: datetime) -> datetime:
    """Return the planned date or, if the card's network allows no try by then, the first one that it does."""
    over = situation.card_budget.over if situation.card_budget is not None else None
    return planned if over is None else max(planned, over.free_at)


def _tries_left(situation: Situation) -> str:
    """Say how many tries the network allows, once the payment was declined."""
    budget = situation.card_budget
    if budget is None or not situation.payment.decline_count:
        return ""
    if budget.over is not None:
        return f" The card network allows no try before {show_instant(budget.over.free_at, situation.zone)}."
    tries = "1 more declined try" if budget.tries_left == 1 else f"{budget.tries_left} more declined tries"
    return f" The card network allows {tries} with this card."


def _backing_off(situation: Situation) -> NextStep | None:
    payment = situation.payment
    if not is_backing_off(payment.backoff_until, situation.machine_now):
        return None
    return NextStep(
        f"The processor could not be reached ({payment.not_sent_count} times in a row; this is no decline). The "
        f"next try is at {payment.backoff_until:%Y-%m-%d %H:%M:%S} UTC (machine time).",
        Owner.DUECOURSE,
        payment.backoff_until,
        is_machine_time=True,
    )


def _next_action(situation: Situation) -> str:
    if situation.settings.kind == SettingsKind.BANK_TRANSFER:
        return "it starts to wait for the customer's bank transfer"
    if situation.card is None or not situation.has_usable_card:
        return "it starts to wait for a card: none is registered"
    named = f"{situation.card.brand} ending in {situation.card.last4}"
    if situation.block_reason is not None:
        return f"it starts to wait for another card: {named} must not be charged again ({situation.block_reason})"
    return f"{named} is charged"


def _needs_payment_method(situation: Situation) -> NextStep:
    return _newer_card(situation) or NextStep(
        f"Waits for the customer to register or update a card: {situation.payment.state_reason}. "
        "It is then charged automatically.",
        Owner.CUSTOMER,
        what_to_do=_charge_anyway(situation, "contact the customer"),
    )


def _needs_authentication(situation: Situation) -> NextStep:
    return _newer_card(situation) or NextStep(
        f"Waits for the customer: {situation.payment.state_reason}. It is charged automatically once a card is "
        "registered again with the bank's confirmation.",
        Owner.CUSTOMER,
        what_to_do=_charge_anyway(situation, "contact the customer"),
    )


def _newer_card(situation: Situation) -> NextStep | None:
    """The card changed after the payment started to wait: the sweep wakes it (I15)."""
    blocked_by = situation.payment.waiting_for_revision_after
    if not situation.has_usable_card or blocked_by is None or situation.settings.card_revision <= blocked_by:
        return None
    return NextStep(f"A newer card is registered: within seconds, {_next_action(situation)}.", Owner.DUECOURSE)


def _charge_anyway(situation: Situation, first: str) -> str:
    if not situation.has_usable_card or situation.block_reason is not None:
        return first
    charge = f"`duecourse payment charge {situation.payment.id} --reason …`"
    return f"{first}; the same card is charged again only by {charge}"


def _paid(situation: Situation) -> NextStep:
    paid_at = situation.payment.paid_at
    paid = "earlier" if paid_at is None else show_instant(paid_at, situation.zone)
    return NextStep(f"None: paid {paid}. It is never charged again.", Owner.NOBODY)


def _closed(situation: Situation) -> NextStep:
    return NextStep(f"None: {situation.payment.state_reason or situation.payment.state}.", Owner.NOBODY)


_BY_STATE: dict[PaymentState, Callable[[Situation], NextStep]] = {
    PaymentState.NEEDS_PAYMENT_METHOD: _needs_payment_method,
    PaymentState.NEEDS_AUTHENTICATION: _needs_authentication,
    PaymentState.NEEDS_SUPPORT: lambda s: NextStep(
        f"Waits for customer support: {s.payment.state_reason}.",
        Owner.OPERATOR,
        what_to_do=f"`duecourse payment charge {s.payment.id} --reason …` once it should be charged",
    ),
    PaymentState.AWAITING_TRANSFER: lambda s: NextStep(
        f"Waits for the customer's bank transfer, due on {s.payment.due_on}. No card is charged.", Owner.CUSTOMER
    ),
    PaymentState.AUTHORISED: lambda s: NextStep(
        f"The amount is on hold at the bank: {s.payment.state_reason}.", Owner.DUECOURSE
    ),
    PaymentState.PAID: _paid,
    PaymentState.CARRIED_FORWARD: _closed,
    PaymentState.UNCOLLECTIBLE: _closed,
    PaymentState.VOID: _closed,
}
