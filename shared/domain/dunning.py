"""What happens over days after a decline. Decisions are values; `shared/payments` applies them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta

from shared.domain.declines import Classified, Decline, DeclineCategory, budgets_for, classify
from shared.domain.states import PaymentKind, Standing


@dataclass(frozen=True)
class DunningPolicy:
    """The company's own rules (`billing.toml`), within the networks'.

    `retry_every_days` gives the days between attempts by category; `retry_at` is wall-clock time in the
    coverage's zone; counts are of declines of one payment, days are calendar days past the due date.
    """

    retry_at: time = time(9, 0)
    retry_every_days: dict[DeclineCategory, int] = field(
        default_factory=lambda: {
            DeclineCategory.RETRY_SOON: 1,
            DeclineCategory.RETRY_DAILY: 1,
            DeclineCategory.RETRY_SPARINGLY: 3,
        }
    )
    mark_after_declines: int = 7
    mark_after_days_past_due: int = 14
    stop_after_declines: int = 30


@dataclass(frozen=True)
class RetryOn:
    """Ask the same card again on `day`."""

    day: date
    reason: str
    needs_attention: bool = False


@dataclass(frozen=True)
class AwaitPaymentMethod:
    """Nothing more from this card; `is_never` forbids it for good, on every payment."""

    reason: str
    is_never: bool = False


@dataclass(frozen=True)
class AwaitAuthentication:
    """Only the customer, on session, can let this pass."""

    reason: str


@dataclass(frozen=True)
class HoldForOperator:
    """The fault may be ours: a person looks before anything is sent again."""

    reason: str


@dataclass(frozen=True)
class StopRetrying:
    """No more automatic attempts with this card; a new card or a person starts again."""

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
    """Say what follows this decline. An outage is not a decline and never comes here.

    `declines_so_far` includes this one; `now` is the business instant in the coverage's time zone and
    `today` its calendar day.
    """
    known = classify(decline)
    match known.category:
        case DeclineCategory.NEVER_THIS_CARD:
            return AwaitPaymentMethod(f"{known.cause}: this card must never be asked again", is_never=True)
        case DeclineCategory.NEEDS_PAYMENT_METHOD:
            return AwaitPaymentMethod(f"{known.cause}: can't work until the customer mends or replaces the card")
        case DeclineCategory.NEEDS_AUTHENTICATION:
            return AwaitAuthentication(f"{known.cause}: the customer must confirm with their bank")
        case DeclineCategory.OUR_FAULT:
            return HoldForOperator(f"{known.cause}: looks like a fault of our request, not of the card")
    if kind is PaymentKind.ORDER:
        return StopRetrying(f"{known.cause}: orders are never retried by themselves")
    if declines_so_far >= policy.stop_after_declines:
        return StopRetrying(f"{known.cause}: declined {declines_so_far} times")
    return _retry(known, policy, now, today)


def _retry(known: Classified, policy: DunningPolicy, now: datetime, today: date) -> RetryOn:
    day = today + timedelta(days=policy.retry_every_days[known.category])
    if known.wait is not None:
        # Hours are counted in UTC: on a local clock, 24 of them over a spring night would be 23.
        earliest = (now.astimezone(UTC) + known.wait).astimezone(now.tzinfo)
        late = earliest.time() > policy.retry_at
        day = max(day, earliest.date() + timedelta(days=1 if late else 0))
    return RetryOn(day, known.cause, needs_attention=not known.is_known)


@dataclass(frozen=True)
class OverBudget:
    """The card has been asked as often as its network allows; `free_at` is when it may be asked again."""

    reason: str
    free_at: datetime


def check_network_budget(network: str | None, asked_at: Sequence[datetime], now: datetime) -> OverBudget | None:
    """Say whether one more attempt with this card would break its network's rules.

    `asked_at` holds the business instants of all attempts with the card's fingerprint, over every payment and
    path, open ones included, in any order; only those within the longest window matter.
    """
    worst: OverBudget | None = None
    for budget in budgets_for(network):
        recent = sorted(moment for moment in asked_at if moment > now - budget.window)
        if len(recent) < budget.max_attempts:
            continue
        free_at = recent[len(recent) - budget.max_attempts] + budget.window
        if worst is None or free_at > worst.free_at:
            days = budget.window / timedelta(days=1)
            worst = OverBudget(
                f"{network or 'card'}: {len(recent)} attempts in {days:g} days, the network allows "
                f"{budget.max_attempts}",
                free_at,
            )
    return worst


@dataclass(frozen=True)
class UnpaidPayment:
    """What standing looks at in one unpaid monthly payment."""

    payment_id: str
    declines: int
    due_on: date


@dataclass(frozen=True)
class StandingDecision:
    """An account's standing from now on, the reason, and the payment that decided it."""

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
    """Say how an account stands, given its unpaid monthly payments. One that a person spares isn't marked.

    A payment in trouble is one that was declined or whose due date has passed. A marked account stays marked
    until its last payment in trouble is paid: paying one of two must not give service back by halves.
    """
    troubled = [payment for payment in unpaid if payment.declines or payment.due_on < today]
    if not troubled:
        return StandingDecision(Standing.GOOD, "nothing overdue is unpaid")
    for payment in () if is_spared else troubled:
        if payment.declines >= policy.mark_after_declines:
            reason = f"{payment.declines} declines of one payment"
            return StandingDecision(Standing.MARKED_FOR_SUSPENSION, reason, payment.payment_id)
        days = (today - payment.due_on).days
        if days >= policy.mark_after_days_past_due:
            return StandingDecision(Standing.MARKED_FOR_SUSPENSION, f"{days} days past due", payment.payment_id)
    if current is Standing.MARKED_FOR_SUSPENSION:
        return StandingDecision(current, "still has unpaid payments", troubled[0].payment_id)
    return StandingDecision(Standing.PAST_DUE, "has a declined or overdue payment", troubled[0].payment_id)
