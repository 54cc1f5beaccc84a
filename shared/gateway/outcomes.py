"""Classifies the processor's answers: problem × PaymentIntent status → outcome (I7).

The table is total: every pair has a row, and a test checks all of them. Only a success or a cancellation that the
processor *showed* counts as one. If the card may have been charged, the outcome is unknown, and settlement owns it.
"""

from collections.abc import Mapping
from enum import StrEnum

from shared.domain.declines import DeclineCategory, category_of_code
from shared.gateway.port import Outcome, PaymentIntentSnapshot


class Problem(StrEnum):
    """What came instead of a plain answer."""

    NONE = "none"
    NOT_CONNECTED = "not_connected"  # the connection was never made: nothing left this machine
    NO_ANSWER = "no_answer"  # timeout or reset
    UNREADABLE = "unreadable"  # not JSON, or not the object that we requested
    SERVER_ERROR = "server_error"  # 5xx; the same key would only return it again
    KEY_IN_USE = "key_in_use"  # 409
    KEY_MISUSED = "key_misused"  # idempotency_error: same key, other parameters
    RATE_LIMITED = "rate_limited"  # 429, lock_timeout
    KEY_REFUSED = "key_refused"  # 401
    FORBIDDEN = "forbidden"  # 403
    CARD = "card"  # 402
    AUTHENTICATION = "authentication"  # 402 whose code requires the customer's bank
    UNEXPECTED_STATE = "unexpected_state"  # 400 payment_intent_unexpected_state
    REFUSED = "refused"  # any other 4xx: our request is wrong


class Status(StrEnum):
    """A PaymentIntent's status (docs.stripe.com/payments/paymentintents/lifecycle), or the lack of one."""

    REQUIRES_PAYMENT_METHOD = "requires_payment_method"
    REQUIRES_CONFIRMATION = "requires_confirmation"
    REQUIRES_ACTION = "requires_action"
    PROCESSING = "processing"
    REQUIRES_CAPTURE = "requires_capture"
    SUCCEEDED = "succeeded"
    CANCELED = "canceled"
    NOT_SHOWN = "not_shown"
    NEVER_SEEN = "never_seen"  # a status that this release doesn't know


T, S = Problem, Status

#: The outcome of each problem while the PaymentIntent is neither paid nor canceled nor pending.
_WITHOUT_EVIDENCE: Mapping[Problem, Outcome] = {
    T.NONE: Outcome.NOT_SENT,  # a PaymentIntent that still waits for its confirmation
    T.NOT_CONNECTED: Outcome.NOT_SENT,
    T.NO_ANSWER: Outcome.UNKNOWN,
    T.UNREADABLE: Outcome.UNKNOWN,
    T.SERVER_ERROR: Outcome.UNKNOWN,
    T.KEY_IN_USE: Outcome.UNKNOWN,
    T.KEY_MISUSED: Outcome.UNKNOWN,
    T.RATE_LIMITED: Outcome.NOT_SENT,
    T.KEY_REFUSED: Outcome.NOT_SENT,
    T.FORBIDDEN: Outcome.NOT_SENT,
    T.CARD: Outcome.DECLINED,
    T.AUTHENTICATION: Outcome.AUTHENTICATION_NEEDED,
    T.UNEXPECTED_STATE: Outcome.NOT_SENT,
    T.REFUSED: Outcome.NOT_SENT,
}

#: The outcome of a status, whatever the problem was.
_EVIDENCE: Mapping[Status, Outcome] = {
    S.SUCCEEDED: Outcome.SUCCEEDED,
    S.CANCELED: Outcome.CANCELED,
    S.PROCESSING: Outcome.UNKNOWN,
    S.REQUIRES_CAPTURE: Outcome.UNKNOWN,  # a hold that we didn't request; an operator decides
    S.REQUIRES_ACTION: Outcome.AUTHENTICATION_NEEDED,
    S.NEVER_SEEN: Outcome.UNKNOWN,
}

OUTCOMES: Mapping[tuple[Problem, Status], Outcome] = {
    **{(t, s): _WITHOUT_EVIDENCE[t] for t in T for s in (S.REQUIRES_PAYMENT_METHOD, S.REQUIRES_CONFIRMATION)},
    **{(t, S.NOT_SHOWN): _WITHOUT_EVIDENCE[t] for t in T},
    **{(t, s): outcome for t in T for s, outcome in _EVIDENCE.items()},
    (T.NONE, S.REQUIRES_PAYMENT_METHOD): Outcome.DECLINED,  # answered 200, and the card was declined
    (T.NONE, S.NOT_SHOWN): Outcome.UNKNOWN,
    (T.UNEXPECTED_STATE, S.NOT_SHOWN): Outcome.UNKNOWN,  # the state may be unexpected because it is paid
}

#: Problems that don't go away by themselves: keys, permissions, wrong requests.
NEEDS_ATTENTION = frozenset(
    {T.KEY_MISUSED, T.KEY_REFUSED, T.FORBIDDEN, T.UNEXPECTED_STATE, T.REFUSED, T.UNREADABLE}
)


def status_of(payment_intent: PaymentIntentSnapshot | None) -> Status:
    """Return the table's column for a PaymentIntent."""
    if payment_intent is None:
        return Status.NOT_SHOWN
    try:
        return Status(payment_intent.status)
    except ValueError:
        return Status.NEVER_SEEN


def card_problem(code: str | None, decline_code: str | None) -> Problem:
    """Distinguish a decline from required authentication; both arrive as HTTP 402."""
    known = category_of_code()
    category = known.get(decline_code or "") or known.get(code or "")
    return Problem.AUTHENTICATION if category is DeclineCategory.NEEDS_AUTHENTICATION else Problem.CARD


def observed_outcome(payment_intent: PaymentIntentSnapshot, *, is_charge_new: bool) -> Outcome:
    """Classify a PaymentIntent that was looked up for an open attempt.

    Confirm takes no metadata, so an attempt is identified by its charge: `is_charge_new` says that the latest
    charge isn't recorded with an earlier attempt. Without a new charge, the card was not charged.
    """
    status = status_of(payment_intent)
    if status in _EVIDENCE:
        return _EVIDENCE[status]
    if not is_charge_new:
        return Outcome.NOT_SENT
    error = payment_intent.last_error
    if error is not None and card_problem(error.code, error.decline_code) is Problem.AUTHENTICATION:
        return Outcome.AUTHENTICATION_NEEDED
    return Outcome.DECLINED
