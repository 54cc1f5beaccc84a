"""Charges a card, and applies the issuer's answer to the PaymentIntent.

Money moves here: `_approve` is the only place that captures without a separate capture call, and the ledger's
unique index on the PaymentIntent limits it to once.
"""

from dataclasses import dataclass, replace
from typing import Any

from simulator.api.call import Call
from simulator.api.errors import Answer, error_body
from simulator.api.payment_methods import attach_to
from simulator.api.setup_intents import next_action
from simulator.api.views import Json, payment_intent, payment_method
from simulator.issuer import story_cards
from simulator.issuer.issuer import Approves, Ask, Declines, Verdict, WantsAuthentication, charge_verdict, decline
from simulator.store.records import Charge, PaymentIntent, PaymentMethod

#: How long a hold lasts, in seconds (docs.stripe.com/payments/place-a-hold-on-a-payment-method, as noted in
#: declines.json): Visa 4 days 18 hours when the merchant starts it, others 7 days, yen in Japan 30 days.
HOLD_VISA_S, HOLD_S, HOLD_JAPAN_S = 410_400, 7 * 86_400, 30 * 86_400


@dataclass(frozen=True)
class Attempt:
    """How a confirm charges: off session, or after the customer's authentication."""

    is_off_session: bool = False
    is_authenticated: bool = False


def charge_card(call: Call, intent: PaymentIntent, method: PaymentMethod, attempt: Attempt) -> Json | Answer:
    """Charge once and apply the issuer's answer."""
    match _ask(call, intent, method, attempt):
        case Approves() as verdict:
            return payment_intent(_approve(call, intent, method, verdict, attempt))
        case Declines() as verdict:
            return _decline(call, intent, method, verdict)
        case WantsAuthentication():
            waiting = replace(
                intent,
                status="requires_action",
                payment_method=method.id,
                next_action=next_action(call, intent.id),
            )
            call.store.save(waiting)
            call.emit("payment_intent.requires_action", waiting)
            return payment_intent(waiting)


def fail_authentication(call: Call, intent: PaymentIntent, method: PaymentMethod) -> PaymentIntent:
    """The customer failed or left 3-D Secure: no request reaches the issuer, and no charge is created."""
    body = error_body(
        "The provided PaymentMethod has failed authentication. Use another, or try again.",
        "invalid_request_error",
        code="payment_intent_authentication_failure",
        payment_method=payment_method(method),
    )
    failed = replace(
        intent,
        status="requires_payment_method",
        payment_method=None,
        next_action=None,
        last_payment_error=body["error"],
    )
    call.store.save(failed)
    call.emit("payment_intent.payment_failed", failed)
    return failed


def book_capture(call: Call, intent: PaymentIntent, charge: Charge) -> None:
    """Add a captured charge to the ledger."""
    line = {
        "account": call.account,
        "charge": charge.id,
        "amount": charge.amount_captured,
        "currency": charge.currency,
        "customer": charge.customer,
        "payment_intent": intent.id,
        "metadata": intent.metadata,
        "created": call.now,
    }
    call.store.add_to_ledger(call.account, charge.id, intent.id, line)


def _ask(call: Call, intent: PaymentIntent, method: PaymentMethod, attempt: Attempt) -> Verdict:
    card = story_cards.find(call.store, call.account, method.fingerprint)
    ask = Ask(
        brand=method.brand,
        behaviour=method.behaviour,
        story=card.story if card else None,
        declined=card.declined if card else 0,
        today=call.today,
        is_off_session=attempt.is_off_session,
        is_set_up=method.is_set_up,
        is_authenticated=attempt.is_authenticated,
    )
    verdict = decline(call.forced_decline, method.brand) if call.forced_decline else charge_verdict(ask)
    wants_3ds = intent.request_three_d_secure in ("any", "challenge") and not attempt.is_authenticated
    if isinstance(verdict, Approves) and wants_3ds and not attempt.is_off_session:
        return WantsAuthentication()
    if card and not isinstance(verdict, WantsAuthentication):
        story_cards.remember(call.store, card, has_paid=isinstance(verdict, Approves))
    return verdict


def _approve(
    call: Call, intent: PaymentIntent, method: PaymentMethod, verdict: Approves, attempt: Attempt
) -> PaymentIntent:
    is_hold = intent.capture_method == "manual"
    charge = _new_charge(
        call,
        intent,
        method,
        status="succeeded",
        captured=not is_hold,
        amount_captured=0 if is_hold else intent.amount,
        disputed=verdict.is_disputed,
        authorization_code=f"{(call.now * 7919) % 1_000_000:06d}",
        capture_before=_capture_before(call, intent, method, attempt) if is_hold else None,
        outcome=_outcome("approved_by_network", "authorized", "Payment complete."),
    )
    paid = replace(
        intent,
        status="requires_capture" if is_hold else "succeeded",
        payment_method=method.id,
        latest_charge=charge.id,
        last_payment_error=None,
        next_action=None,
        amount_capturable=intent.amount if is_hold else 0,
        amount_received=0 if is_hold else intent.amount,
    )
    call.store.add(charge)
    call.store.save(paid)
    if not is_hold:
        book_capture(call, paid, charge)
    call.emit("charge.succeeded", charge)
    call.emit("payment_intent.amount_capturable_updated" if is_hold else "payment_intent.succeeded", paid)
    _keep_or_spend(call, paid, method, attempt)
    return paid


def _decline(call: Call, intent: PaymentIntent, method: PaymentMethod, verdict: Declines) -> Answer:
    charge = _new_charge(
        call,
        intent,
        method,
        status="failed",
        failure_code=verdict.code,
        failure_message=verdict.message,
        outcome=_declined_outcome(verdict),
    )
    error = error_body(
        verdict.message,
        "card_error",
        charge=charge.id,
        payment_method=payment_method(method),
        **verdict.error_fields(),
    )["error"]
    failed = replace(
        intent,
        status="requires_payment_method",
        payment_method=None,
        next_action=None,
        latest_charge=charge.id,
        last_payment_error=error,
        declines=intent.declines + 1,
    )
    call.store.add(charge)
    call.store.save(failed)
    call.emit("charge.failed", charge)
    call.emit("payment_intent.payment_failed", failed)
    body = {"error": {**error, "payment_intent": payment_intent(failed)}}
    return Answer(402, body, (("Stripe-Should-Retry", "false"),))


def _keep_or_spend(call: Call, intent: PaymentIntent, method: PaymentMethod, attempt: Attempt) -> None:
    """A card used without a customer can't be used again, unless this payment stores it."""
    if method.customer is not None:
        if intent.setup_future_usage == "off_session" and attempt.is_authenticated:
            call.store.save(replace(method, is_set_up=True))
    elif intent.customer and intent.setup_future_usage:
        attach_to(call, method, intent.customer, is_set_up=intent.setup_future_usage == "off_session")
    else:
        call.store.save(replace(method, is_spent=True))


def _new_charge(call: Call, intent: PaymentIntent, method: PaymentMethod, **fields: Any) -> Charge:
    return Charge(
        id=call.new_id(Charge),
        account=call.account,
        created=call.now,
        amount=intent.amount,
        currency=intent.currency,
        customer=intent.customer,
        payment_intent=intent.id,
        payment_method=method.id,
        brand=method.brand,
        last4=method.last4,
        exp_month=method.exp_month,
        exp_year=method.exp_year,
        fingerprint=method.fingerprint,
        country=method.country,
        billing_details=method.billing_details,
        description=intent.description,
        receipt_email=intent.receipt_email,
        statement_descriptor=intent.statement_descriptor,
        statement_descriptor_suffix=intent.statement_descriptor_suffix,
        metadata=intent.metadata,
        **fields,
    )


def _capture_before(call: Call, intent: PaymentIntent, method: PaymentMethod, attempt: Attempt) -> int:
    if intent.currency == "jpy":
        return call.now + HOLD_JAPAN_S
    return call.now + (HOLD_VISA_S if method.brand == "visa" and attempt.is_off_session else HOLD_S)


def _declined_outcome(verdict: Declines) -> dict[str, Any]:
    reason = verdict.decline_code or verdict.code
    if verdict.is_blocked:
        message = "Stripe blocked this payment as too risky."
        blocked = _outcome("not_sent_to_network", "blocked", message, "highest_risk_level")
        return {**blocked, "risk_level": "highest", "risk_score": 92}
    declined = _outcome("declined_by_network", "issuer_declined", verdict.seller_message, reason)
    return {
        **declined,
        "advice_code": verdict.advice_code,
        "network_advice_code": verdict.network_advice_code,
        "network_decline_code": verdict.network_decline_code,
    }


def _outcome(network_status: str, kind: str, message: str, reason: str | None = None) -> dict[str, Any]:
    return {
        "advice_code": None,
        "network_advice_code": None,
        "network_decline_code": None,
        "network_status": network_status,
        "reason": reason,
        "risk_level": "normal",
        "risk_score": 12,
        "seller_message": message,
        "type": kind,
    }
