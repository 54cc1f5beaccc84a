"""What happens in the days after a decline. Decisions are values; `shared/payments` applies them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta

from shared.domain.declines import (
    Classified,
    Decline,
    DeclineCategory,
    budgets_for,
    classify,
    explain,
    what_follows,
)
from shared.domain.states import PaymentKind, Standing


@dataclass(frozen=True)
class DunningPolicy:
    """The company's own rules (`billing.toml`), within the networks'.

    `retry_every_days` gives the days between attempts by category; `retry_at` is wall-clock time in the coverage's
    zone. Counts are declines of one payment: of automatic charges for `mark_after_declines`, with one card for
    `stop_after_declines` and for `slower_after_declines`, from which on at least `slower_every_days` lie between
    attempts. Days are calendar days past the due date.
    """

    retry_at: time = time(9, 0)
    retry_every_days: dict[DeclineCategory, int] = field(
        default_factory=lambda: {
            DeclineCategory.RETRY_SOON: 1,
            DeclineCategory.RETRY_DAILY: 1,
            DeclineCategory.RETRY_SPARINGLY: 3,
        }
    )
    slower_after_declines: int = 365
    slower_every_days: int = 1
    mark_after_declines: int = 7
    mark_after_days_past_due: int = 14
    stop_after_declines: int = 30


@dataclass(frozen=True)
class RetryOn:
    """Charge the same card again on `day`."""

    day: date
    reason: str
    needs_attention: bool = False


@dataclass(frozen=True)
class AwaitPaymentMethod:
    """Stop charging this card; `is_never` forbids it for every payment, for as long as its network says."""

    reason: str
    is_never: bool = False


@dataclass(frozen=True)
class AwaitAuthentication:
    """Only the customer can authenticate this, on session."""

    reason: str


@dataclass(frozen=True)
class HoldForOperator:
    """The error may be ours: an operator checks before anything is sent again."""

    reason: str


@dataclass(frozen=True)
class StopRetrying:
    """No more automatic attempts with this card; a new card or an operator starts again."""

    reason: str


AfterDecline = RetryOn | AwaitPaymentMethod | AwaitAuthentication | HoldForOperator | StopRetrying


def decide_after_decline(
    decline: Decline,
    kind: PaymentKind,
    declines_so_far: int,
    policy: DunningPolicy,
    now: datetime,
    today: date,
) -> AfterDecline:
    """Decide what follows this decline. An outage is not a decline and is never passed in.

    `declines_so_far` are those of the payment with the present card, this one included: a new card begins anew.
    `now` is the business instant in the coverage's time zone and `today` its calendar day.
    """
    known, reason = classify(decline), explain(decline)
    match known.category:
        case DeclineCategory.NEVER_THIS_CARD:
            return AwaitPaymentMethod(f"{reason}: {what_follows(decline)}", is_never=True)
        case DeclineCategory.NEEDS_PAYMENT_METHOD:
            return AwaitPaymentMethod(f"{reason}: {what_follows(decline)}")
        case DeclineCategory.NEEDS_AUTHENTICATION:
            return AwaitAuthentication(f"{reason}: {what_follows(decline)}")
        case DeclineCategory.OUR_FAULT:
            return HoldForOperator(f"{reason}: looks like an error in our request, not in the card")
    if kind is PaymentKind.ORDER:
        return StopRetrying(f"{reason}: orders are never retried automatically")
    if declines_so_far >= policy.stop_after_declines:
        return StopRetrying(f"{reason}: declined {declines_so_far} times")
    return _retry(known, reason, declines_so_far, policy, now, today)


def _retry(
    known: Classified, reason: str, declines_so_far: int, policy: DunningPolicy, now: datetime, today: date
) -> RetryOn:
    every_days = policy.retry_every_days[known.category]
    if declines_so_far >= policy.slower_after_declines:
        every_days = max(every_days, policy.slower_every_days)
    day = today + timedelta(days=every_days)
    if known.wait is not None:
        # Hours are counted in UTC: on a local clock, 24 of them over the night of the spring change would be 23.
        earliest = (now.astimezone(UTC) + known.wait).astimezone(now.tzinfo)
        late = earliest.time() > policy.retry_at
        day = max(day, earliest.date() + timedelta(days=1 if late else 0))
    return RetryOn(day, reason, needs_attention=not known.is_known)


#: Business time until a card is tried again whose open attempts may still be declined: for another invoice of the
#: account, or beyond its network's budget.
OPEN_ATTEMPTS_WAIT = timedelta(minutes=15)


@dataclass(frozen=True)
class OverBudget:
    """The card has reached its network's limit of declines; `free_at` is when it may be charged again."""

    reason: str
    free_at: datetime


def check_network_budget(
    network: str | None, declined_at: Sequence[datetime], now: datetime, *, open_attempts: int = 0
) -> OverBudget | None:
    """Check whether one more attempt with this card could break its network's rules.

    The networks limit attempts after a decline, so a success uses nothing up. `declined_at` holds the business
    instants of the declined attempts with the card's fingerprint, in any order; those before the longest window
    don't matter. They are counted over every payment and path, stricter than the networks, which count for each
    card, merchant and amount. `open_attempts` may still be declined, so each counts until it is answered.
    """
    worst: OverBudget | None = None
    for budget in budgets_for(network):
        recent = sorted(moment for moment in declined_at if moment > now - budget.window)
        if len(recent) + open_attempts < budget.max_attempts:
            continue
        days = budget.window / timedelta(days=1)
        reason = f"{network or 'card'}: {len(recent)} declines in {days:g} days"
        if len(recent) >= budget.max_attempts:
            free_at = recent[len(recent) - budget.max_attempts] + budget.window
        else:
            reason = f"{reason} and {open_attempts} attempts without an answer yet"
            free_at = now + OPEN_ATTEMPTS_WAIT
        if worst is None or free_at > worst.free_at:
            worst = OverBudget(f"{reason}, the network allows {budget.max_attempts}", free_at)
    return worst


def tries_left(network: str | None, declined_at: Sequence[datetime], now: datetime) -> int:
    """Return how many more declines of the card its network allows now, by the tightest of its budgets."""
    return min(
        max(0, budget.max_attempts - sum(moment > now - budget.window for moment in declined_at))
        for budget in budgets_for(network)
    )


@dataclass(frozen=True)
class DeclinedToday:
    """A decline of another invoice of the account with the same card, on this business day. Minor units."""

    amount_minor: int
    decline_code: str | None
    period: date | None


#: The one decline that says something about the amount: a smaller one may pass.
INSUFFICIENT_FUNDS = "insufficient_funds"


def why_not_today(amount_minor: int, declined_today: Sequence[DeclinedToday]) -> str | None:
    """Return why an automatic charge of this amount has to wait for the next business day; None if it hasn't.

    The calendar tries a card once a day across an account's invoices: what the issuer declined for the first, it
    declines for the others, and each decline counts against the network's limit.
    """
    for declined in declined_today:
        if declined.decline_code != INSUFFICIENT_FUNDS:
            return f"{_declined(declined)}: automatic charges try a card once a day"
    for declined in declined_today:
        if declined.amount_minor <= amount_minor:
            return f"{_declined(declined)}: only a smaller amount is tried on the same day"
    return None


def _declined(declined: DeclinedToday) -> str:
    invoice = "another invoice" if declined.period is None else f"the invoice of {declined.period:%Y-%m}"
    return f"the card was declined today for {invoice} ({declined.decline_code or 'no code'})"


@dataclass(frozen=True)
class UnpaidPayment:
    """What decides the standing, for one unpaid monthly payment.

    `declines` counts those of automatic charges, so that no number of clicks in an hour marks an account.
    `may_mark` is False while it is held because Stripe refuses our request: the customer can't change that.
    """

    payment_id: str
    declines: int
    due_on: date
    may_mark: bool = True
    is_declined: bool = False  # by whatever charge


@dataclass(frozen=True)
class StandingDecision:
    """An account's new standing, the reason, and the payment that decided it."""

    standing: Standing
    reason: str
    payment_id: str | None = None


def decide_standing(
    current: Standing,
    unpaid: Sequence[UnpaidPayment],
    policy: DunningPolicy,
    today: date,
    *,
    is_spared: bool = False,
) -> StandingDecision:
    """Decide an account's standing from its unpaid monthly payments. A spared account isn't marked.

    Overdue and declined payments count. A marked account stays marked until the last of them is paid: paying one of
    two must not restore half of the service.
    """
    unsettled = [payment for payment in unpaid if payment.declines or payment.is_declined or payment.due_on < today]
    if not unsettled:
        return StandingDecision(Standing.GOOD, "nothing overdue is unpaid")
    for payment in () if is_spared else (payment for payment in unsettled if payment.may_mark):
        if payment.declines >= policy.mark_after_declines:
            reason = f"{payment.declines} declines of one payment"
            return StandingDecision(Standing.MARKED_FOR_SUSPENSION, reason, payment.payment_id)
        days = (today - payment.due_on).days
        if days >= policy.mark_after_days_past_due:
            return StandingDecision(Standing.MARKED_FOR_SUSPENSION, f"{days} days past due", payment.payment_id)
    if current is Standing.MARKED_FOR_SUSPENSION:
        return StandingDecision(current, "still has unpaid payments", unsettled[0].payment_id)
    return StandingDecision(Standing.PAST_DUE, "has a declined or overdue payment", unsettled[0].payment_id)
