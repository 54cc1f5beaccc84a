"""SDK calls that many tests share."""

import time
from collections.abc import Callable
from typing import Any

import stripe


def new_intent(client: stripe.StripeClient, customer: str | None, **more: Any) -> stripe.PaymentIntent:
    """Create a PaymentIntent as Duecourse does: unconfirmed, cards only."""
    params: dict[str, Any] = {
        "amount": 2985,
        "currency": "usd",
        "allowed_payment_method_types": ["card"],
        "capture_method": "automatic",
        "metadata": {"payment": "pay_1"},
        **more,
    }
    if customer:
        params["customer"] = customer
    return client.v1.payment_intents.create(params)  # type: ignore[arg-type]


def confirm(client: stripe.StripeClient, intent: str, method: str, **more: Any) -> stripe.PaymentIntent:
    """An off-session confirm."""
    params: dict[str, Any] = {"payment_method": method, "off_session": True, **more}
    return client.v1.payment_intents.confirm(intent, params)  # type: ignore[arg-type]


def refusal(call: Any) -> stripe.StripeError:
    """Call `call` and return what the SDK raised."""
    try:
        call()
    except stripe.StripeError as error:
        return error
    raise AssertionError("the simulator accepted what it should refuse")


def body(error: stripe.StripeError) -> dict[str, Any]:
    """The error object of the HTTP answer."""
    assert isinstance(error.json_body, dict)
    found: dict[str, Any] = error.json_body["error"]
    return found


def until(holds: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Wait until the condition holds; the limit is for a busy machine."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.005)
