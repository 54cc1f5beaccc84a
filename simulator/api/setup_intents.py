"""SetupIntents: store a customer's card for later, with authentication if the issuer asks for it."""

from dataclasses import replace
from typing import Any

from simulator.api.call import Call, merged_metadata
from simulator.api.errors import Answer, ApiError, error_body, refused
from simulator.api.payment_methods import attach_to, resolve
from simulator.api.views import Json, payment_method, setup_intent
from simulator.issuer import story_cards
from simulator.issuer.issuer import Ask, Declines, WantsAuthentication, setup_verdict
from simulator.store.records import Customer, PaymentMethod, SetupIntent

CONFIRMABLE = ("requires_payment_method", "requires_confirmation", "requires_action")


def create_setup_intent(call: Call) -> Json | Answer:
    if customer := call.given("customer"):
        call.named(Customer, customer, "customer")
    method = resolve(call, token) if (token := call.given("payment_method")) else None
    record = SetupIntent(
        id=call.new_id(SetupIntent),
        account=call.account,
        created=call.now,
        status="requires_confirmation" if method else "requires_payment_method",
        customer=customer,
        payment_method=method.id if method else None,
        usage=call.given("usage") or "off_session",
        description=call.given("description"),
        automatic_payment_methods=automatic_payment_methods(call.params),
        payment_method_types=call.given("allowed_payment_method_types") or ["card"],
        metadata=merged_metadata({}, call.given("metadata")),
    )
    call.store.add(record)
    call.emit("setup_intent.created", record)
    return confirm(call, record, record.payment_method) if call.given("confirm") else setup_intent(record)


def automatic_payment_methods(params: dict[str, Any]) -> Json | None:
    """The setting in the answer: on by default, unless types were given."""
    if params.get("allowed_payment_method_types"):
        return None
    given = params.get("automatic_payment_methods") or {}
    return {"allow_redirects": given.get("allow_redirects") or "always", "enabled": given.get("enabled", True)}


def retrieve_setup_intent(call: Call) -> Json:
    return setup_intent(call.subject(SetupIntent))


def confirm_setup_intent(call: Call) -> Json | Answer:
    record = call.subject(SetupIntent)
    return confirm(call, record, call.given("payment_method") or record.payment_method)


def cancel_setup_intent(call: Call) -> Json:
    record = call.subject(SetupIntent)
    if record.status not in CONFIRMABLE:
        raise _unexpected("cancel", record)
    reason = call.given("cancellation_reason")
    canceled = replace(record, status="canceled", cancellation_reason=reason, next_action=None)
    call.store.save(canceled)
    call.emit("setup_intent.canceled", canceled)
    return setup_intent(canceled)


def confirm(call: Call, record: SetupIntent, token: str | None) -> Json | Answer:
    """Store the card, ask for authentication, or decline."""
    if record.status not in CONFIRMABLE:
        raise _unexpected("confirm", record)
    if token is None:
        raise refused(
            "You cannot confirm this SetupIntent because it's missing a payment method.",
            "setup_intent_unexpected_state",
            setup_intent=setup_intent(record),
        )
    method = resolve(call, token)
    if method.customer not in (None, record.customer):
        raise refused("The payment method belongs to another customer.", param="payment_method")
    return _apply(call, replace(record, payment_method=method.id), method, is_authenticated=False)


def authenticate(call: Call, record: SetupIntent, *, succeeds: bool) -> Json | Answer:
    """The customer returns from 3-D Secure."""
    if record.status != "requires_action" or record.payment_method is None:
        raise _unexpected("authenticate", record)
    method = call.named(PaymentMethod, record.payment_method, "payment_method")
    if succeeds:
        return _apply(call, record, method, is_authenticated=True)
    message = "The latest attempt to set up the payment method has failed because authentication failed."
    code = "setup_intent_authentication_failure"
    return _fail(call, record, error_body(message, "invalid_request_error", code=code), method, status=200)


def _apply(call: Call, record: SetupIntent, method: PaymentMethod, *, is_authenticated: bool) -> Json | Answer:
    story = story_cards.find(call.store, call.account, method.fingerprint)
    ask = Ask(
        brand=method.brand,
        behaviour=method.behaviour,
        story=story.story if story else None,
        declined=0,
        today=call.today,
        is_off_session=False,
        is_set_up=method.is_set_up,
        is_authenticated=is_authenticated,
    )
    attempt = replace(record, latest_attempt=call.processor.mint.new("setatt"), next_action=None)
    match setup_verdict(ask):
        case WantsAuthentication():
            waiting = replace(attempt, status="requires_action", next_action=next_action(call, record.id))
            call.store.save(waiting)
            call.emit("setup_intent.requires_action", waiting)
            return setup_intent(waiting)
        case Declines() as verdict:
            body = error_body(verdict.message, "card_error", **verdict.error_fields())
            return _fail(call, attempt, body, method, status=402)
    if record.customer and method.customer is None:
        attach_to(call, method, record.customer, is_set_up=True)
    elif not method.is_set_up:
        call.store.save(replace(method, is_set_up=True))
    done = replace(attempt, status="succeeded", last_setup_error=None)
    call.store.save(done)
    call.emit("setup_intent.succeeded", done)
    return setup_intent(done)


def _fail(
    call: Call, record: SetupIntent, body: dict[str, Any], method: PaymentMethod, *, status: int
) -> Json | Answer:
    error = {**body["error"], "payment_method": payment_method(method)}
    failed = replace(
        record, status="requires_payment_method", payment_method=None, last_setup_error=error, next_action=None
    )
    call.store.save(failed)
    call.emit("setup_intent.setup_failed", failed)
    if status == 200:
        return setup_intent(failed)
    answer = {"error": {**error, "setup_intent": setup_intent(failed)}}
    return Answer(status, answer, (("Stripe-Should-Retry", "false"),))


def next_action(call: Call, intent_id: str) -> Json:
    """Where the customer authenticates. There is no page: `POST /_sim/intents/…/authenticate` replaces it."""
    if return_url := call.given("return_url"):
        url = f"https://hooks.stripe.com/3d_secure_2/hosted?intent={intent_id}"
        return {"type": "redirect_to_url", "redirect_to_url": {"return_url": return_url, "url": url}}
    return {"type": "use_stripe_sdk", "use_stripe_sdk": {"type": "three_d_secure_redirect"}}


def _unexpected(verb: str, record: SetupIntent) -> ApiError:
    return refused(
        f"You cannot {verb} this SetupIntent because it has a status of {record.status}.",
        "setup_intent_unexpected_state",
        setup_intent=setup_intent(record),
    )
