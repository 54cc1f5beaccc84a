"""Each test card answers as Stripe documents, in Stripe's format."""

import json
from importlib.resources import files

import pytest
import stripe

from simulator.client import SimulatorClient, SimulatorError
from simulator.issuer import cards, declines
from simulator.issuer.stories import AlwaysDeclines, NeedsAuthentication
from tests.simulator.sdk_calls import body, confirm, new_intent, refusal

FACTS = json.loads(files("shared.domain").joinpath("declines.json").read_text("utf-8"))

# From shared/data/declines.json of the project, collected from docs.stripe.com/testing.
TOKENS = {
    "pm_card_visa": "4242424242424242",
    "pm_card_mastercard": "5555555555554444",
    "pm_card_amex": "378282246310005",
    "pm_card_discover": "6011111111111117",
    "pm_card_diners": "3056930009020004",
    "pm_card_jcb": "3566002020360505",
    "pm_card_unionpay": "6200000000000005",
    "pm_card_visa_chargeDeclined": "4000000000000002",
    "pm_card_visa_chargeDeclinedInsufficientFunds": "4000000000009995",
    "pm_card_visa_chargeDeclinedLostCard": "4000000000009987",
    "pm_card_visa_chargeDeclinedStolenCard": "4000000000009979",
    "pm_card_visa_chargeDeclinedVelocityLimitExceeded": "4000000000006975",
    "pm_card_chargeDeclinedExpiredCard": "4000000000000069",
    "pm_card_chargeDeclinedIncorrectCvc": "4000000000000127",
    "pm_card_chargeDeclinedProcessingError": "4000000000000119",
    "pm_card_chargeCustomerFail": "4000000000000341",
    "pm_card_authenticationRequiredOnSetup": "4000002500003155",
    "pm_card_authenticationRequired": "4000002760003184",
    "pm_card_threeDSecure2Required": "4000000000003220",
    "pm_card_threeDSecureRequired": "4000000000003063",
    "pm_card_threeDSecureRequiredChargeDeclined": "4000008400001629",
    "pm_card_threeDSecureOptional": "4000000000003055",
    "pm_card_amex_threeDSecureNotSupported": "378282246310005",
    "pm_card_createDispute": "4000000000000259",
    "pm_card_radarBlock": "4100000000000019",
}

# name, number, code, decline_code, network_decline_code, advice_code
DECLINING = [
    ("visa_chargeDeclined", "4000000000000002", "card_declined", "generic_decline", "01", "try_again_later"),
    (
        "visa_chargeDeclinedInsufficientFunds",
        "4000000000009995",
        "card_declined",
        "insufficient_funds",
        "51",
        "try_again_later",
    ),
    ("visa_chargeDeclinedLostCard", "4000000000009987", "card_declined", "lost_card", "41", "do_not_try_again"),
    ("visa_chargeDeclinedStolenCard", "4000000000009979", "card_declined", "stolen_card", "43", "do_not_try_again"),
    (
        "visa_chargeDeclinedVelocityLimitExceeded",
        "4000000000006975",
        "card_declined",
        "card_velocity_exceeded",
        "65",
        "try_again_later",
    ),
    ("chargeDeclinedExpiredCard", "4000000000000069", "expired_card", None, "54", "confirm_card_data"),
    ("chargeDeclinedIncorrectCvc", "4000000000000127", "incorrect_cvc", None, "N7", "confirm_card_data"),
    ("chargeDeclinedProcessingError", "4000000000000119", "processing_error", None, "96", "try_again_later"),
    ("chargeCustomerFail", "4000000000000341", "card_declined", "generic_decline", "01", "try_again_later"),
    ("radarBlock", "4100000000000019", "card_declined", "fraudulent", None, "do_not_try_again"),
]


@pytest.mark.parametrize(("name", "number", "code", "decline_code", "network", "advice"), DECLINING)
def test_a_declining_card_reports_its_codes_everywhere(
    client: stripe.StripeClient,
    name: str,
    number: str,
    code: str,
    decline_code: str | None,
    network: str | None,
    advice: str,
) -> None:
    intent = new_intent(client, None)
    error = refusal(lambda: confirm(client, intent.id, f"pm_card_{name}"))

    assert isinstance(error, stripe.CardError)
    assert error.http_status == 402
    said = body(error)
    assert (said["type"], said["code"], said.get("decline_code")) == ("card_error", code, decline_code)
    assert (said.get("network_decline_code"), said["advice_code"]) == (network, advice)
    assert said["message"]
    assert said["payment_method"]["card"]["last4"] == number[-4:]
    assert "network_advice_code" not in said, "nulls are left out"

    embedded = said["payment_intent"]
    assert (embedded["id"], embedded["status"]) == (intent.id, "requires_payment_method")
    assert embedded["payment_method"] is None
    assert embedded["latest_charge"] == said["charge"]
    assert embedded["last_payment_error"]["code"] == code
    assert embedded["last_payment_error"].get("decline_code") == decline_code

    charge = client.v1.charges.retrieve(said["charge"])
    assert (charge.status, charge.paid, charge.captured) == ("failed", False, False)
    assert charge.failure_code == code
    assert charge.outcome is not None
    is_blocked = name == "radarBlock"
    assert charge.outcome.type == ("blocked" if is_blocked else "issuer_declined")
    assert charge.outcome.network_decline_code == network


def test_every_documented_test_card_exists() -> None:
    for token, number in TOKENS.items():
        card = cards.by_token(token)
        assert card is not None, token
        assert card.number == number
        assert cards.passes_luhn(number)


def test_every_documented_decline_code_has_a_message() -> None:
    codes = {code for category in FACTS["categories"].values() for code in category["codes"]}
    errors_of_other_kinds = {
        "amount_too_small",
        "amount_too_large",
        "authentication_not_handled",
        "idempotency_error",
        "rate_limit",
        "lock_timeout",
    }
    assert codes - errors_of_other_kinds <= declines.KNOWN_CODES


def test_a_mastercard_decline_has_the_merchant_advice_code(
    sim: SimulatorClient, client: stripe.StripeClient, customer: str
) -> None:
    card = sim.make_card("global", AlwaysDeclines(decline_code="stolen_card"), brand="mastercard", last4="0505")
    method = client.v1.payment_methods.attach(card.token, {"customer": customer})
    said = body(refusal(lambda: confirm(client, new_intent(client, customer).id, method.id)))
    assert (said["network_advice_code"], said["advice_code"]) == ("03", "do_not_try_again")
    assert said["network_decline_code"] == "43"


def test_an_unknown_code_is_reported_verbatim(
    sim: SimulatorClient, client: stripe.StripeClient, customer: str
) -> None:
    story = AlwaysDeclines(
        decline_code="new_in_2027",
        network_decline_code="Z9",
        network_advice_code="24",
        advice_code="try_again_later",
    )
    registered = sim.register_card("global", customer, sim.make_card("global", story).token)
    said = body(refusal(lambda: confirm(client, new_intent(client, customer).id, registered.payment_method)))
    assert said["code"] == "card_declined"
    assert (said["decline_code"], said["network_decline_code"]) == ("new_in_2027", "Z9")
    assert (said["network_advice_code"], said["advice_code"]) == ("24", "try_again_later")


def test_a_card_that_declines_cannot_be_attached_but_customer_fail_can(
    client: stripe.StripeClient, customer: str
) -> None:
    error = refusal(lambda: client.v1.payment_methods.attach("pm_card_chargeDeclined", {"customer": customer}))
    assert body(error)["decline_code"] == "generic_decline"
    attached = client.v1.payment_methods.attach("pm_card_chargeCustomerFail", {"customer": customer})
    assert attached.customer == customer


def test_required_authentication_is_a_decline_off_session(client: stripe.StripeClient, customer: str) -> None:
    method = client.v1.payment_methods.attach("pm_card_authenticationRequired", {"customer": customer})
    intent = new_intent(client, customer)
    error = refusal(lambda: confirm(client, intent.id, method.id))
    said = body(error)
    assert isinstance(error, stripe.CardError)
    assert (said["code"], said["decline_code"]) == ("authentication_required", "authentication_required")
    charge = client.v1.charges.retrieve(said["charge"])
    assert (charge.status, charge.failure_code) == ("failed", "authentication_required")
    assert said["payment_intent"]["status"] == "requires_payment_method"


def test_on_session_the_customer_authenticates_and_pays(
    sim: SimulatorClient, client: stripe.StripeClient, customer: str
) -> None:
    method = client.v1.payment_methods.attach("pm_card_authenticationRequired", {"customer": customer})
    intent = new_intent(client, customer)
    waiting = client.v1.payment_intents.confirm(intent.id, {"payment_method": method.id})
    assert waiting.status == "requires_action"
    assert waiting.next_action is not None
    assert waiting.latest_charge is None
    sim.authenticate("global", intent.id)
    assert client.v1.payment_intents.retrieve(intent.id).status == "succeeded"


@pytest.mark.parametrize("name", ["threeDSecure2Required", "threeDSecureRequired"])
def test_3d_secure_card_asks_for_authentication_on_and_off_session(
    sim: SimulatorClient, client: stripe.StripeClient, customer: str, name: str
) -> None:
    method = client.v1.payment_methods.attach(f"pm_card_{name}", {"customer": customer})
    error = refusal(lambda: confirm(client, new_intent(client, customer).id, method.id))
    assert body(error)["decline_code"] == "authentication_required"
    intent = new_intent(client, customer)
    waiting = client.v1.payment_intents.confirm(intent.id, {"payment_method": method.id})
    assert waiting.status == "requires_action"
    sim.authenticate("global", intent.id)
    assert client.v1.payment_intents.retrieve(intent.id).status == "succeeded"


def test_3d_secure_card_may_decline_after_authentication(
    sim: SimulatorClient, client: stripe.StripeClient, customer: str
) -> None:
    method = client.v1.payment_methods.attach("pm_card_threeDSecureRequiredChargeDeclined", {"customer": customer})
    intent = new_intent(client, customer)
    client.v1.payment_intents.confirm(intent.id, {"payment_method": method.id})
    with pytest.raises(SimulatorError, match="402: Your card was declined"):
        sim.authenticate("global", intent.id)
    after = client.v1.payment_intents.retrieve(intent.id)
    assert after.status == "requires_payment_method"
    assert after.last_payment_error is not None
    assert after.last_payment_error.decline_code == "generic_decline"


@pytest.mark.parametrize("name", ["threeDSecureOptional", "amex_threeDSecureNotSupported"])
def test_card_that_does_not_require_3d_secure_pays_without_it(
    client: stripe.StripeClient, customer: str, name: str
) -> None:
    method = client.v1.payment_methods.attach(f"pm_card_{name}", {"customer": customer})
    assert confirm(client, new_intent(client, customer).id, method.id).status == "succeeded"


def test_objects_have_no_fields_that_stripe_does_not_send(client: stripe.StripeClient, customer: str) -> None:
    method = client.v1.payment_methods.attach("pm_card_visa", {"customer": customer})
    paid = confirm(client, new_intent(client, customer).id, method.id)
    assert "source" not in paid.to_dict()
    charge = client.v1.charges.retrieve(str(paid.latest_charge)).to_dict()
    assert "source" not in charge
    assert "capture_before" not in charge["payment_method_details"]["card"], "there is no hold"


def test_a_failed_authentication_creates_no_charge(
    sim: SimulatorClient, client: stripe.StripeClient, customer: str
) -> None:
    card = sim.make_card("global", NeedsAuthentication())
    method = client.v1.payment_methods.attach(card.token, {"customer": customer})
    intent = new_intent(client, customer)
    client.v1.payment_intents.confirm(intent.id, {"payment_method": method.id})
    sim.authenticate("global", intent.id, succeeds=False)
    after = client.v1.payment_intents.retrieve(intent.id)
    assert after.status == "requires_payment_method"
    assert after.last_payment_error is not None
    assert after.last_payment_error.code == "payment_intent_authentication_failure"
    assert client.v1.charges.list({"payment_intent": intent.id}).data == []


def test_a_card_set_up_with_authentication_pays_off_session(
    sim: SimulatorClient, client: stripe.StripeClient, customer: str
) -> None:
    set_up = sim.register_card("global", customer, "pm_card_authenticationRequiredOnSetup")
    assert confirm(client, new_intent(client, customer).id, set_up.payment_method).status == "succeeded"
    attached = client.v1.payment_methods.attach("pm_card_authenticationRequiredOnSetup", {"customer": customer})
    error = refusal(lambda: confirm(client, new_intent(client, customer).id, attached.id))
    assert body(error)["code"] == "authentication_required"


@pytest.mark.parametrize(
    ("name", "brand"),
    [
        ("visa", "visa"),
        ("mastercard", "mastercard"),
        ("amex", "amex"),
        ("discover", "discover"),
        ("diners", "diners"),
        ("jcb", "jcb"),
        ("unionpay", "unionpay"),
        ("createDispute", "visa"),
    ],
)
def test_a_good_card_pays(client: stripe.StripeClient, customer: str, name: str, brand: str) -> None:
    method = client.v1.payment_methods.attach(f"pm_card_{name}", {"customer": customer})
    assert method.id.startswith("pm_")
    assert not method.id.startswith("pm_card_")
    assert method.card is not None
    assert method.card.brand == brand
    paid = confirm(client, new_intent(client, customer).id, method.id, expand=["latest_charge"])
    assert paid.status == "succeeded"
    assert isinstance(paid.latest_charge, stripe.Charge)
    assert paid.latest_charge.disputed == (name == "createDispute")


@pytest.mark.parametrize(
    ("card", "code"),
    [
        ({"number": "4242424242424241", "exp_month": 12, "exp_year": 2030}, "incorrect_number"),
        ({"number": "4242424242424242", "exp_month": 13, "exp_year": 2030}, "invalid_expiry_month"),
        ({"number": "4242424242424242", "exp_month": 12, "exp_year": 1970}, "invalid_expiry_year"),
        ({"number": "4111111111111111", "exp_month": 12, "exp_year": 2030}, "card_declined"),
    ],
)
def test_a_wrong_card_number_is_refused(client: stripe.StripeClient, card: dict[str, object], code: str) -> None:
    error = refusal(lambda: client.v1.payment_methods.create({"type": "card", "card": card}))  # type: ignore[typeddict-item]
    assert (error.http_status, body(error)["code"]) == (402, code)


def test_the_same_number_has_the_same_fingerprint_within_an_account(client: stripe.StripeClient) -> None:
    def made(**card: object) -> stripe.PaymentMethod:
        return client.v1.payment_methods.create({"type": "card", "card": card})  # type: ignore[typeddict-item]

    by_number = made(number="4242 4242 4242 4242", exp_month=1, exp_year=2030)
    by_token = made(token="tok_visa")
    other = made(token="tok_mastercard")
    assert by_number.card is not None
    assert by_token.card is not None
    assert other.card is not None
    assert by_number.card.fingerprint == by_token.card.fingerprint != other.card.fingerprint
