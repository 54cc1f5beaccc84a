"""PaymentIntents: created without moving money, confirmed until one charge succeeds, final when canceled.

States and rules: docs.stripe.com/payments/paymentintents/lifecycle and the reference of each call.
"""

from dataclasses import replace
from typing import Any

from shared.domain.charge_limits import MAXIMUM_CHARGE_MINOR, minimum_charge_minor
from shared.domain.money import EXPONENTS
from simulator.api.call import Call, merged_metadata
from simulator.api.errors import Answer, ApiError, bad_parameter, error_body, refused
from simulator.api.payment_methods import resolve
from simulator.api.setup_intents import automatic_payment_methods
from simulator.api.views import Json, payment_intent
from simulator.issuer.charging import Attempt, book_capture, charge_card, fail_authentication
from simulator.store.records import Charge, Customer, PaymentIntent, PaymentMethod

CONFIRMABLE = ("requires_payment_method", "requires_confirmation", "requires_action")
CANCELABLE = (*CONFIRMABLE, "requires_capture", "processing")

_COPIED = ("description", "receipt_email", "statement_descriptor", "statement_descriptor_suffix")


def create_payment_intent(call: Call) -> Json | Answer:
    amount, currency = _money(call)
    if call.given("off_session") not in (None, "false") and not call.given("confirm"):
        raise bad_parameter("off_session can only be used with confirm=true.", "off_session")
    if customer := call.given("customer"):
        call.named(Customer, customer, "customer")
    method = _usable_method(call, token, customer) if (token := call.given("payment_method")) else None
    record = PaymentIntent(
        id=call.new_id(PaymentIntent),
        account=call.account,
        created=call.now,
        amount=amount,
        currency=currency,
        status="requires_confirmation" if method else "requires_payment_method",
        customer=customer,
        payment_method=method.id if method else None,
        capture_method=call.given("capture_method") or "automatic_async",
        setup_future_usage=call.given("setup_future_usage"),
        request_three_d_secure=_three_d_secure(call) or "automatic",
        automatic_payment_methods=automatic_payment_methods(call.params),
        payment_method_types=call.given("allowed_payment_method_types") or ["card"],
        metadata=merged_metadata({}, call.given("metadata")),
        **{name: call.given(name) for name in _COPIED},
    )
    call.store.add(record)
    call.emit("payment_intent.created", record)
    return _confirm(call, record, record.payment_method) if call.given("confirm") else payment_intent(record)


def retrieve_payment_intent(call: Call) -> Json:
    return payment_intent(call.subject(PaymentIntent))


def update_payment_intent(call: Call) -> Json:
    """Change descriptive fields. The amount can't be changed here; create a new PaymentIntent instead."""
    old = call.subject(PaymentIntent)
    changes: dict[str, Any] = {name: call.params[name] for name in _COPIED if name in call.params}
    if token := call.given("payment_method"):
        if old.status not in CONFIRMABLE:
            raise _unexpected("update", old, CONFIRMABLE)
        changes["payment_method"] = _usable_method(call, token, old.customer).id
        changes["status"] = "requires_confirmation"
    new = replace(old, metadata=merged_metadata(old.metadata, call.given("metadata")), **changes)
    call.store.save(new)
    return payment_intent(new)


def confirm_payment_intent(call: Call) -> Json | Answer:
    record = call.subject(PaymentIntent)
    return _confirm(call, record, call.given("payment_method") or record.payment_method)


def cancel_payment_intent(call: Call) -> Json:
    record = call.subject(PaymentIntent)
    if record.status not in CANCELABLE:
        raise _unexpected("cancel", record, CANCELABLE)
    return payment_intent(_cancel(call, record, call.given("cancellation_reason")))


def capture_payment_intent(call: Call) -> Json | Answer:
    """Capture the hold or part of it; the rest is released."""
    record = call.subject(PaymentIntent)
    if record.status != "requires_capture" or record.latest_charge is None:
        raise _unexpected("capture", record, ("requires_capture",))
    charge = call.named(Charge, record.latest_charge, "charge")
    if charge.capture_before is not None and call.now > charge.capture_before:
        return _expired_hold(call, record)
    amount = call.given("amount_to_capture") or record.amount_capturable
    if not 1 <= amount <= record.amount_capturable:
        raise bad_parameter(
            f"The amount to capture must be between 1 and {record.amount_capturable}.",
            "amount_to_capture",
            "amount_too_large",
        )
    taken = replace(charge, captured=True, amount_captured=amount, amount_refunded=charge.amount - amount)
    paid = replace(
        record,
        status="succeeded",
        amount_capturable=0,
        amount_received=amount,
        metadata=merged_metadata(record.metadata, call.given("metadata")),
    )
    call.store.save(taken)
    call.store.save(paid)
    book_capture(call, paid, taken)
    call.emit("charge.captured", taken)
    call.emit("payment_intent.succeeded", paid)
    return payment_intent(paid)


def authenticate(call: Call, record: PaymentIntent, *, succeeds: bool) -> Json | Answer:
    """The customer returns from 3-D Secure."""
    if record.status != "requires_action" or record.payment_method is None:
        raise _unexpected("authenticate", record, ("requires_action",))
    method = call.named(PaymentMethod, record.payment_method, "payment_method")
    if not succeeds:
        return payment_intent(fail_authentication(call, record, method))
    return charge_card(call, record, method, Attempt(is_authenticated=True))


def _confirm(call: Call, record: PaymentIntent, token: str | None) -> Json | Answer:
    if record.status not in CONFIRMABLE:
        raise _unexpected("confirm", record, CONFIRMABLE)
    if record.declines >= call.processor.confirmation_limit:
        return cancel_at_limit(call, record)
    if token is None:
        raise refused(
            "You cannot confirm this PaymentIntent because it's missing a payment method. A decline takes the "
            "payment method off a PaymentIntent: give it again with the confirm.",
            "payment_intent_unexpected_state",
            payment_intent=payment_intent(record),
        )
    method = _usable_method(call, token, record.customer)
    is_off_session = call.given("off_session") not in (None, "false")
    automatic = record.automatic_payment_methods or {}
    if automatic.get("allow_redirects") == "always" and not is_off_session and not call.given("return_url"):
        raise bad_parameter(
            "This PaymentIntent accepts payment methods that redirect, so a return_url is needed. Create it with "
            "allowed_payment_method_types=[card], or automatic_payment_methods[allow_redirects]=never.",
            "return_url",
        )
    changed = replace(
        record,
        capture_method=call.given("capture_method") or record.capture_method,
        receipt_email=call.given("receipt_email") or record.receipt_email,
        setup_future_usage=call.given("setup_future_usage") or record.setup_future_usage,
        request_three_d_secure=_three_d_secure(call) or record.request_three_d_secure,
    )
    # error_on_requires_action: the customer isn't there to authenticate, as with off_session.
    nobody_there = is_off_session or bool(call.given("error_on_requires_action"))
    return charge_card(call, changed, method, Attempt(is_off_session=nobody_there))


def cancel_at_limit(call: Call, record: PaymentIntent) -> Answer:
    """After the limit "any further calls to this endpoint will transition the PaymentIntent to canceled"."""
    canceled = _cancel(call, record, "automatic")
    body = error_body(
        "You cannot confirm this PaymentIntent because it was confirmed too many times; it has been canceled.",
        "invalid_request_error",
        code="payment_intent_unexpected_state",
        payment_intent=payment_intent(canceled),
    )
    return Answer(400, body)


def _cancel(call: Call, record: PaymentIntent, reason: str | None) -> PaymentIntent:
    if record.status == "requires_capture" and record.latest_charge:
        charge = call.named(Charge, record.latest_charge, "charge")
        released = replace(charge, amount_refunded=charge.amount)
        call.store.save(released)
        call.emit("charge.refunded", released)
    canceled = replace(
        record,
        status="canceled",
        canceled_at=call.now,
        cancellation_reason=reason,
        amount_capturable=0,
        next_action=None,
    )
    call.store.save(canceled)
    call.emit("payment_intent.canceled", canceled)
    return canceled


def _expired_hold(call: Call, record: PaymentIntent) -> Answer:
    canceled = _cancel(call, record, "automatic")
    body = error_body(
        "The hold has expired before it was captured; the PaymentIntent has been canceled.",
        "invalid_request_error",
        code="charge_expired_for_capture",
        payment_intent=payment_intent(canceled),
    )
    return Answer(400, body)


def _usable_method(call: Call, token: str, customer: str | None) -> PaymentMethod:
    method = resolve(call, token)
    if method.customer is not None and method.customer != customer:
        owner = "its own customer" if customer is None else "another customer"
        raise refused(
            f"The payment method {method.id} is attached to {owner} and can only be used together with it.",
            param="payment_method",
        )
    return method


def _money(call: Call) -> tuple[int, str]:
    amount, currency = call.params["amount"], str(call.given("currency")).lower()
    if currency.upper() not in EXPONENTS:
        raise bad_parameter(f"Invalid currency: {currency}", "currency")
    minimum = minimum_charge_minor(currency.upper())
    if amount < minimum:
        message = f"Amount must be at least {minimum} {currency} in its smallest unit."
        raise bad_parameter(message, "amount", "amount_too_small")
    if amount > MAXIMUM_CHARGE_MINOR:
        message = f"Amount must be no more than {MAXIMUM_CHARGE_MINOR} {currency} in its smallest unit."
        raise bad_parameter(message, "amount", "amount_too_large")
    return amount, currency


def _three_d_secure(call: Call) -> str | None:
    card = (call.given("payment_method_options") or {}).get("card") or {}
    wanted: str | None = card.get("request_three_d_secure")
    return wanted


def _unexpected(verb: str, record: PaymentIntent, allowed: tuple[str, ...]) -> ApiError:
    if verb == "confirm" and record.status == "succeeded":
        message = "You cannot confirm this PaymentIntent because it has already succeeded after being confirmed."
    else:
        message = (
            f"You cannot {verb} this PaymentIntent because it has a status of {record.status}. "
            f"Only a PaymentIntent with one of these statuses may be used so: {', '.join(allowed)}."
        )
    return refused(message, "payment_intent_unexpected_state", payment_intent=payment_intent(record))
