"""The table that reads the processor's answers: what went wrong × what the PaymentIntent shows → outcome (I7).

It is total: every pair has a row, and a test walks them all. Only a success or a cancellation that we were
*shown* counts as one; whatever leaves it open whether the issuer was asked is unknown, and settlement owns it.
"""

from collections.abc import Mapping
from enum import StrEnum

from shared.domain.declines import DeclineCategory, category_of_code
from shared.gateway.port import Outcome, PaymentIntentSnapshot


class Trouble(StrEnum):
    """What came instead of a plain answer."""

    NONE = "none"
    NOT_CONNECTED = "not_connected"  # the connection was never made: nothing left this machine
    NO_ANSWER = "no_answer"  # timeout or reset
    UNREADABLE = "unreadable"  # not JSON, or not the object that we asked about
    SERVER_ERROR = "server_error"  # 5xx; the same key would only replay it
    KEY_IN_USE = "key_in_use"  # 409
    KEY_MISUSED = "key_misused"  # idempotency_error: same key, other parameters
    RATE_LIMITED = "rate_limited"  # 429, lock_timeout
    KEY_REFUSED = "key_refused"  # 401
    FORBIDDEN = "forbidden"  # 403
    CARD = "card"  # 402
    AUTHENTICATION = "authentication"  # 402 whose code asks for the customer's bank
    UNEXPECTED_STATE = "unexpected_state"  # 400 payment_intent_unexpected_state
    REFUSED = "refused"  # any other 4xx: our request can't be right


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
    NEVER_SEEN = "never_seen"  # a word that this release doesn't know


T, S = Trouble, Status

#: What each trouble means while the PaymentIntent says neither paid nor canceled nor pending.
_WITHOUT_EVIDENCE: Mapping[Trouble, Outcome] = {
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

#: What a status means whatever the trouble was.
_EVIDENCE: Mapping[Status, Outcome] = {
    S.SUCCEEDED: Outcome.SUCCEEDED,
    S.CANCELED: Outcome.CANCELED,
    S.PROCESSING: Outcome.UNKNOWN,
    S.REQUIRES_CAPTURE: Outcome.UNKNOWN,  # a hold that we didn't ask for; a person decides
    S.REQUIRES_ACTION: Outcome.AUTHENTICATION_NEEDED,
    S.NEVER_SEEN: Outcome.UNKNOWN,
}

OUTCOMES: Mapping[tuple[Trouble, Status], Outcome] = {
    **{(t, s): _WITHOUT_EVIDENCE[t] for t in T for s in (S.REQUIRES_PAYMENT_METHOD, S.REQUIRES_CONFIRMATION)},
    **{(t, S.NOT_SHOWN): _WITHOUT_EVIDENCE[t] for t in T},
    **{(t, s): outcome for t in T for s, outcome in _EVIDENCE.items()},
    (T.NONE, S.REQUIRES_PAYMENT_METHOD): Outcome.DECLINED,  # answered 200, and the card was turned down
    (T.NONE, S.NOT_SHOWN): Outcome.UNKNOWN,
    (T.UNEXPECTED_STATE, S.NOT_SHOWN): Outcome.UNKNOWN,  # it may be unexpected because it is paid
}

#: Troubles that don't pass by themselves: keys, permissions, requests that we build wrongly.
NEEDS_ATTENTION = frozenset(
    {T.KEY_MISUSED, T.KEY_REFUSED, T.FORBIDDEN, T.UNEXPECTED_STATE, T.REFUSED, T.UNREADABLE}
)


def status_of(payment_intent: PaymentIntentSnapshot | None) -> Status:
    """Name the column of the table for what we were shown."""
    if payment_intent is None:
        return Status.NOT_SHOWN
    try:
        return Status(payment_intent.status)
    except ValueError:
        return Status.NEVER_SEEN


def card_trouble(code: str | None, decline_code: str | None) -> Trouble:
    """Tell a decline from a demand for authentication; both arrive as HTTP 402."""
    known = category_of_code()
    category = known.get(decline_code or "") or known.get(code or "")
    return Trouble.AUTHENTICATION if category is DeclineCategory.NEEDS_AUTHENTICATION else Trouble.CARD


def observed_outcome(payment_intent: PaymentIntentSnapshot, *, is_charge_new: bool) -> Outcome:
    """Read a PaymentIntent that we looked up on behalf of an open attempt.

    Confirm takes no metadata, so an attempt is known by its charge: `is_charge_new` says that the latest one
    isn't recorded with an earlier attempt. Without a new charge the issuer was never asked.
    """
    status = status_of(payment_intent)
    if status in _EVIDENCE:
        return _EVIDENCE[status]
    if not is_charge_new:
        return Outcome.NOT_SENT
    error = payment_intent.last_error
    if error is not None and card_trouble(error.code, error.decline_code) is Trouble.AUTHENTICATION:
        return Outcome.AUTHENTICATION_NEEDED
    return Outcome.DECLINED
