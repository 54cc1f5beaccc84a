"""All states and the allowed moves between them. A test checks `docs/states.md` against this file."""

from collections.abc import Mapping
from enum import StrEnum


class PaymentState(StrEnum):
    """The state of collecting one invoice or order. The attempt has `started` and `unknown`, not the payment."""

    DUE = "due"
    RETRY_SCHEDULED = "retry_scheduled"
    NEEDS_PAYMENT_METHOD = "needs_payment_method"
    NEEDS_AUTHENTICATION = "needs_authentication"
    NEEDS_SUPPORT = "needs_support"
    AWAITING_TRANSFER = "awaiting_transfer"
    AUTHORISED = "authorised"
    PAID = "paid"
    CARRIED_FORWARD = "carried_forward"
    UNCOLLECTIBLE = "uncollectible"
    VOID = "void"


class AttemptState(StrEnum):
    """The state of one request about money. `started` and `unknown` are open: they block everything else."""

    STARTED = "started"
    UNKNOWN = "unknown"
    SUCCEEDED = "succeeded"
    DECLINED = "declined"
    AUTHENTICATION_NEEDED = "authentication_needed"
    CANCELED = "canceled"
    NOT_SENT = "not_sent"


class AttemptKind(StrEnum):
    """What an attempt requests from the processor."""

    CHARGE = "charge"
    CANCEL = "cancel"
    CAPTURE = "capture"
    RELEASE = "release"
    REFUND = "refund"


class Standing(StrEnum):
    """An account's standing. Suspension itself belongs to the provisioning system and is not in here."""

    GOOD = "good"
    PAST_DUE = "past_due"
    MARKED_FOR_SUSPENSION = "marked_for_suspension"


class Trigger(StrEnum):
    """Why a payment is charged now."""

    MONTH_START = "month_start"
    DAILY_RETRY = "daily_retry"
    CARD_REGISTERED = "card_registered"
    CUSTOMER = "customer"
    OPERATOR = "operator"
    ORDER = "order"
    SETTLEMENT = "settlement"


#: Charges that start by the calendar: only their declines lead to a mark, however often a user clicks.
AUTOMATIC = frozenset({Trigger.MONTH_START, Trigger.DAILY_RETRY})


class Lane(StrEnum):
    """Which workers charge a payment: those for users who wait, or those for thousands at a time."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


class PaymentKind(StrEnum):
    """What the payment collects."""

    MONTHLY = "monthly"
    ORDER = "order"


class SettingsKind(StrEnum):
    """How an account pays in a coverage."""

    CARD = "card"
    BANK_TRANSFER = "bank_transfer"
    TRIAL = "trial"


class RunState(StrEnum):
    """The state of a scheduled run. Past the catch-up window a run awaits confirmation."""

    AWAITING_CONFIRMATION = "awaiting_confirmation"
    READY = "ready"
    RUNNING = "running"
    FINISHED = "finished"


class StripeEventState(StrEnum):
    """The state of a stored Stripe event."""

    RECEIVED = "received"
    APPLIED = "applied"
    IGNORED = "ignored"
    TROUBLE = "trouble"


P, A = PaymentState, AttemptState

#: States in which a card may be charged, once `next_attempt_at` is reached.
CHARGEABLE = frozenset({P.DUE, P.RETRY_SCHEDULED})
#: States that wait until the customer does something about the card.
WAITING_FOR_CARD = frozenset({P.NEEDS_PAYMENT_METHOD, P.NEEDS_AUTHENTICATION})
#: States that end collection. Only evidence of money leaves them, and only towards paid.
ENDED = frozenset({P.PAID, P.CARRIED_FORWARD, P.UNCOLLECTIBLE, P.VOID})
#: States that may still bring in money without an operator's decision.
UNPAID = frozenset(P) - ENDED

#: The closes that an operator may request, and the state each leads to.
WORD_OF_CLOSE: Mapping[str, str] = {P.UNCOLLECTIBLE: "written off", P.VOID: "voided"}

_COLLECTABLE = frozenset(
    {P.DUE, P.RETRY_SCHEDULED, P.NEEDS_PAYMENT_METHOD, P.NEEDS_AUTHENTICATION, P.AWAITING_TRANSFER}
)
_EXITS = frozenset({P.PAID, P.UNCOLLECTIBLE, P.VOID})

PAYMENT_MOVES: Mapping[PaymentState, frozenset[PaymentState]] = {
    P.DUE: _COLLECTABLE - {P.DUE} | {P.NEEDS_SUPPORT, P.AUTHORISED, P.CARRIED_FORWARD} | _EXITS,
    P.RETRY_SCHEDULED: _COLLECTABLE - {P.RETRY_SCHEDULED} | {P.NEEDS_SUPPORT} | _EXITS,
    P.NEEDS_PAYMENT_METHOD: frozenset({P.DUE, P.RETRY_SCHEDULED, P.AWAITING_TRANSFER}) | _EXITS,
    P.NEEDS_AUTHENTICATION: frozenset({P.DUE, P.RETRY_SCHEDULED, P.NEEDS_PAYMENT_METHOD, P.AWAITING_TRANSFER})
    | _EXITS,
    P.NEEDS_SUPPORT: frozenset({P.DUE}) | _EXITS,
    P.AWAITING_TRANSFER: frozenset({P.DUE}) | _EXITS,
    P.AUTHORISED: frozenset({P.DUE, P.NEEDS_SUPPORT}) | _EXITS,  # captured, or the hold ran out or was released
    P.PAID: frozenset(),  # a paid payment is never charged again
    P.CARRIED_FORWARD: frozenset({P.PAID}),  # evidence of money always wins, from here on
    P.UNCOLLECTIBLE: frozenset({P.PAID}),
    P.VOID: frozenset({P.PAID}),
}

ATTEMPT_MOVES: Mapping[AttemptState, frozenset[AttemptState]] = {
    A.STARTED: frozenset(A) - {A.STARTED},
    A.UNKNOWN: frozenset(A) - {A.STARTED, A.UNKNOWN},
    A.SUCCEEDED: frozenset(),
    A.DECLINED: frozenset({A.SUCCEEDED}),  # evidence of money always wins, from here on
    A.AUTHENTICATION_NEEDED: frozenset({A.SUCCEEDED}),
    A.CANCELED: frozenset({A.SUCCEEDED}),
    A.NOT_SENT: frozenset({A.SUCCEEDED}),
}

#: Attempt states that block every other path to the payment's money.
OPEN_ATTEMPT = frozenset({A.STARTED, A.UNKNOWN})
#: Attempt states in which the issuer refused: the card networks limit how often that is repeated.
DECLINED_ATTEMPT = frozenset({A.DECLINED, A.AUTHENTICATION_NEEDED})


class ForbiddenMoveError(Exception):
    """A move that the table doesn't allow. It is always a defect of ours, never of the data."""


def check_payment_move(before: PaymentState, after: PaymentState) -> None:
    """Raise ForbiddenMoveError unless the table allows the move; staying in a state is always allowed."""
    if before is not after and after not in PAYMENT_MOVES[before]:
        raise ForbiddenMoveError(f"a payment may not go from {before} to {after}; see shared/domain/states.py")


def check_attempt_move(before: AttemptState, after: AttemptState) -> None:
    """Raise ForbiddenMoveError unless the table allows the move."""
    if after not in ATTEMPT_MOVES[before]:
        raise ForbiddenMoveError(f"an attempt may not go from {before} to {after}; see shared/domain/states.py")
