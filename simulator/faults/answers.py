"""The error answers of faults, in Stripe's words (docs.stripe.com/api/errors, …/error-codes)."""

from dataclasses import replace
from typing import Any

from simulator.api.errors import Answer, error_body

#: The answer of a proxy in front of a processor that is down.
HTML = b"<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"

_RATE = "Request rate limit exceeded: send fewer requests a second (docs.stripe.com/rate-limits)."
_LOCKED = "Another request or a process of Stripe is using this object, so it can't be accessed now. Try again."
_KEY_OF_ANOTHER = "The idempotency key '{key}' was first used with other parameters. Use another key."
_IN_USE = "There is currently another request in progress using the idempotency key {key}. Try again later."

#: kind → status, type, code, message. `{key}` is the request's idempotency key.
_REFUSALS: dict[str, tuple[int, str, str | None, str]] = {
    "idempotency_error": (400, "idempotency_error", None, _KEY_OF_ANOTHER),
    "unauthorized": (401, "invalid_request_error", None, "Invalid API Key provided: sk_test_***."),
    "forbidden": (403, "invalid_request_error", None, "The key has no permission for this endpoint."),
    "key_in_use": (
        409,
        "invalid_request_error",
        "idempotency_key_in_use",
        _IN_USE,
    ),
    "rate_limited": (429, "invalid_request_error", "rate_limit", _RATE),
    "lock_timeout": (429, "invalid_request_error", "lock_timeout", _LOCKED),
    "server_error": (500, "api_error", None, "An unknown error occurred."),
    "server_error_unapplied": (500, "api_error", None, "An unknown error occurred."),
    "unavailable": (503, "api_error", None, "Stripe is temporarily unavailable. Please try again."),
}

REFUSALS = frozenset(_REFUSALS)


def refusal(kind: str, *, key: str | None = None, should_retry: bool | None = None) -> Answer:
    """Return the answer of a kind in REFUSALS. Raises KeyError for any other."""
    status, error_type, code, message = _REFUSALS[kind]
    answer = Answer(status, error_body(message.replace("{key}", key or ""), error_type, code=code))
    if kind == "rate_limited":
        answer = replace(answer, headers=(("Stripe-Rate-Limited-Reason", "global-rate"),))
    return advised(answer, should_retry)


def rate_limited() -> Answer:
    """The 429 of the account's global limit."""
    return refusal("rate_limited")


def unexpected_state(verb: str, payment_intent: dict[str, Any]) -> Answer:
    """400 for a PaymentIntent in the wrong state."""
    message = (
        f"You cannot {verb} this PaymentIntent because it has a status of {payment_intent['status']}. "
        "The state of the PaymentIntent was changed by another request."
    )
    code = "payment_intent_unexpected_state"
    return Answer(400, error_body(message, "invalid_request_error", code=code, payment_intent=payment_intent))


def advised(answer: Answer, should_retry: bool | None) -> Answer:
    """Add Stripe-Should-Retry, unless `should_retry` is None."""
    if should_retry is None:
        return answer
    return replace(answer, headers=(*answer.headers, ("Stripe-Should-Retry", "true" if should_retry else "false")))
