"""Payment methods: create from numbers and tokens, attach, detach, update."""

from dataclasses import replace
from typing import Any

from simulator.api.call import Call, merged_metadata
from simulator.api.errors import Answer, ApiError, bad_parameter, error_body, missing, refused
from simulator.api.views import Json, payment_method
from simulator.issuer import story_cards
from simulator.issuer.cards import BY_NUMBER, EXP_MONTH, EXP_YEAR, TestCard, by_token, fingerprint_of, passes_luhn
from simulator.issuer.issuer import Ask, Declines, decline, setup_verdict
from simulator.store.records import Customer, PaymentMethod

_SPENT = (
    "The PaymentMethod was detached from a customer, or used without one; it may not be used again. "
    "Create a new one and attach it first."
)


def create_payment_method(call: Call) -> Json:
    if call.given("type") != "card":
        raise bad_parameter("Missing required param: type.", "type", "parameter_missing")
    details = call.given("card") or {}
    token = details.get("token")
    record = _from_token(call, token) if token else _from_number(call, details)
    record = replace(
        record,
        allow_redisplay=call.given("allow_redisplay") or "unspecified",
        billing_details=call.given("billing_details") or {},
        metadata=merged_metadata({}, call.given("metadata")),
    )
    call.store.add(record)
    return payment_method(record)


def retrieve_payment_method(call: Call) -> Json:
    return payment_method(call.subject(PaymentMethod))


def update_payment_method(call: Call) -> Json:
    old = call.subject(PaymentMethod)
    if old.customer is None:
        raise refused("You must save this PaymentMethod to a customer before you can update it.")
    card = call.given("card") or {}
    new = replace(
        old,
        exp_month=card.get("exp_month") or old.exp_month,
        exp_year=card.get("exp_year") or old.exp_year,
        allow_redisplay=call.given("allow_redisplay") or old.allow_redisplay,
        billing_details={**old.billing_details, **(call.given("billing_details") or {})},
        metadata=merged_metadata(old.metadata, call.given("metadata")),
    )
    _require_expiry(new.exp_month, new.exp_year)
    return payment_method(save_changed(call, old, new, "payment_method.updated"))


def save_changed(call: Call, old: PaymentMethod, new: PaymentMethod, event_type: str) -> PaymentMethod:
    """Save a changed payment method, and emit its event with the previous values."""
    call.store.save(new)
    before, after = payment_method(old), payment_method(new)
    changed: dict[str, Any] = {name: before[name] for name in before if before[name] != after[name]}
    if "card" in changed:
        changed["card"] = {name: was for name, was in before["card"].items() if was != after["card"][name]}
    call.emit(event_type, new, previous=changed)
    return new


def attach_payment_method(call: Call) -> Json | Answer:
    """Attach. Stripe asks the issuer first: a test card that declines can't be attached."""
    customer_id = call.given("customer")
    if customer_id is None:
        raise bad_parameter("Missing required param: customer.", "customer", "parameter_missing")
    call.named(Customer, customer_id, "customer")
    record = resolve(call, call.ids[0], in_path=True)
    if record.customer == customer_id:
        return payment_method(record)
    if record.customer is not None:
        raise refused("The payment method you provided has already been attached to a customer.")
    verdict = setup_verdict(_ask(call, record))
    if isinstance(verdict, Declines):
        raise ApiError(declined(verdict, record), is_saved=True)
    return payment_method(attach_to(call, record, customer_id))


def detach_payment_method(call: Call) -> Json:
    record = call.subject(PaymentMethod)
    if record.customer is None:
        raise refused("The payment method you provided is not attached to a customer so detachment is impossible.")
    return payment_method(detach(call, record))


def detach(call: Call, record: PaymentMethod) -> PaymentMethod:
    """Detach for good: it can be neither used nor attached again."""
    detached = replace(record, customer=None, is_spent=True, is_set_up=False)
    return save_changed(call, record, detached, "payment_method.detached")


def attach_to(call: Call, record: PaymentMethod, customer: str, *, is_set_up: bool = False) -> PaymentMethod:
    """Attach without asking the issuer; `is_set_up` records that the customer authenticated."""
    attached = replace(record, customer=customer, is_set_up=is_set_up or record.is_set_up)
    call.store.save(attached)
    call.emit("payment_method.attached", attached)
    return attached


def automatically_updated(
    call: Call, old: PaymentMethod, exp_month: int | None, exp_year: int | None, last4: str | None
) -> PaymentMethod:
    """Apply a network's account updater. Another last4 means another number, and another fingerprint."""
    new = replace(
        old,
        exp_month=exp_month or old.exp_month,
        exp_year=exp_year or old.exp_year,
        last4=last4 or old.last4,
        fingerprint=fingerprint_of(call.account, old.fingerprint + last4) if last4 else old.fingerprint,
        behaviour=None if last4 else old.behaviour,
    )
    return save_changed(call, old, new, "payment_method.automatically_updated")


def resolve(call: Call, token: str, *, in_path: bool = False) -> PaymentMethod:
    """Find a payment method; `pm_card_*`, `tok_*` and `pm_story_*` make a new one, as Stripe's test ids do."""
    if token.startswith(("pm_card_", "tok_", "pm_story_")):
        record = _from_token(call, token)
        call.store.add(record)
        return record
    found = call.store.get(PaymentMethod, call.account, token)
    if found is None:
        raise missing("PaymentMethod", token, "payment_method", status=404 if in_path else 400)
    if found.is_spent:
        raise refused(_SPENT, param="payment_method")
    return found


def declined(verdict: Declines, record: PaymentMethod) -> Answer:
    """402 for a card that can't be stored."""
    body = error_body(
        verdict.message, "card_error", **verdict.error_fields(), payment_method=payment_method(record)
    )
    return Answer(402, body, (("Stripe-Should-Retry", "false"),))


def _ask(call: Call, record: PaymentMethod) -> Ask:
    story = story_cards.find(call.store, call.account, record.fingerprint)
    return Ask(
        brand=record.brand,
        behaviour=record.behaviour,
        story=story.story if story else None,
        declined=story.declined if story else 0,
        today=call.today,
        is_off_session=False,
        is_set_up=record.is_set_up,
        # Attaching by API doesn't involve the customer; the issuer may ask for authentication at the charge.
        is_authenticated=True,
    )


def _from_token(call: Call, token: str) -> PaymentMethod:
    if token.startswith("pm_story_"):
        card = story_cards.by_token(call.store, call.account, token)
        if card is None:
            raise missing("PaymentMethod", token, "payment_method", status=400)
        return _new(call, fingerprint=card.fingerprint, **card.face)
    test_card = by_token(token)
    if test_card is None:
        raise missing("PaymentMethod" if token.startswith("pm_") else "token", token, "payment_method", status=400)
    return _of_test_card(call, test_card, EXP_MONTH, EXP_YEAR)


def _from_number(call: Call, details: dict[str, Any]) -> PaymentMethod:
    number = (details.get("number") or "").replace(" ", "").replace("-", "")
    for name in ("number", "exp_month", "exp_year"):
        if not details.get(name):
            raise bad_parameter(f"Missing required param: card[{name}].", f"card[{name}]", "parameter_missing")
    if not passes_luhn(number):
        raise _card_error("incorrect_number", "number")
    _require_expiry(details["exp_month"], details["exp_year"])
    test_card = BY_NUMBER.get(number)
    if test_card is None:
        raise _card_error("test_mode_live_card", "")
    return _of_test_card(call, test_card, details["exp_month"], details["exp_year"])


def _of_test_card(call: Call, card: TestCard, exp_month: int, exp_year: int) -> PaymentMethod:
    return _new(
        call,
        brand=card.brand,
        last4=card.number[-4:],
        exp_month=exp_month,
        exp_year=exp_year,
        country=card.country,
        fingerprint=fingerprint_of(call.account, card.number),
        behaviour=card.name,
    )


def _new(call: Call, **fields: Any) -> PaymentMethod:
    return PaymentMethod(id=call.new_id(PaymentMethod), account=call.account, created=call.now, **fields)


def _require_expiry(month: int, year: int) -> None:
    if not 1 <= month <= 12:
        raise _card_error("invalid_expiry_month", "exp_month")
    if not 2000 <= year <= 2099:
        raise _card_error("invalid_expiry_year", "exp_year")


def _card_error(code: str, param: str) -> ApiError:
    verdict = decline(code, "visa")
    fields = {"code": verdict.code, "decline_code": verdict.decline_code, "param": param or None}
    return ApiError(Answer(402, error_body(verdict.message, "card_error", **fields)), is_saved=True)
