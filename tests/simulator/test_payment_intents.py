"""A PaymentIntent moves money at most once, and has the states that Stripe documents."""

from datetime import timedelta

import pytest
import stripe

from shared.clock import ManualClock
from simulator.client import SimulatorClient
from simulator.issuer.stories import AlwaysDeclines, Pays
from simulator.testing import running_simulator
from tests.simulator.conftest import sdk
from tests.simulator.sdk_calls import body, confirm, new_intent, refusal


def test_creating_moves_no_money_and_confirming_moves_it_once(
    sim: SimulatorClient, client: stripe.StripeClient, customer: str
) -> None:
    method = client.v1.payment_methods.attach("pm_card_visa", {"customer": customer})
    intent = new_intent(client, customer)
    assert (intent.status, intent.amount_received) == ("requires_payment_method", 0)
    assert [line for line in sim.ledger() if line.customer == customer] == []

    paid = confirm(client, intent.id, method.id)
    assert (paid.status, paid.amount_received) == ("succeeded", 2985)
    error = refusal(lambda: confirm(client, intent.id, method.id))
    said = body(error)
    assert (error.http_status, said["code"]) == (400, "payment_intent_unexpected_state")
    assert said["payment_intent"]["status"] == "succeeded"
    lines = [line for line in sim.ledger() if line.customer == customer]
    assert [(line.amount, line.currency, line.payment_intent) for line in lines] == [(2985, "usd", intent.id)]
    assert lines[0].metadata == {"payment": "pay_1"}


def test_the_call_after_the_tenth_decline_cancels(
    sim: SimulatorClient, client: stripe.StripeClient, customer: str
) -> None:
    registered = sim.register_card("global", customer, sim.make_card("global", AlwaysDeclines()).token)
    intent = new_intent(client, customer)
    for _ in range(10):
        said = body(refusal(lambda: confirm(client, intent.id, registered.payment_method)))
        assert said["payment_intent"]["status"] == "requires_payment_method"
    sim.set_story("global", registered.payment_method, Pays())

    for _ in range(2):  # the call that meets the limit, and any later one
        error = refusal(lambda: confirm(client, intent.id, registered.payment_method))
        said = body(error)
        assert (error.http_status, said["code"]) == (400, "payment_intent_unexpected_state")
        assert said["payment_intent"]["status"] == "canceled"
        assert said["payment_intent"]["cancellation_reason"] == "automatic"
    assert len(client.v1.charges.list({"payment_intent": intent.id, "limit": 100}).data) == 10
    canceled = client.v1.events.list({"type": "payment_intent.canceled", "limit": 100}).data
    assert [event.data.object["id"] for event in canceled].count(intent.id) == 1

    successor = new_intent(client, customer)
    assert confirm(client, successor.id, registered.payment_method).status == "succeeded"


def test_the_limit_can_be_set() -> None:
    with running_simulator(confirmation_limit=1) as own:
        client = sdk(own)
        intent = new_intent(client, None)
        refusal(lambda: confirm(client, intent.id, "pm_card_chargeDeclined"))
        said = body(refusal(lambda: confirm(client, intent.id, "pm_card_visa")))
        assert said["payment_intent"]["status"] == "canceled"


def test_a_decline_removes_the_payment_method(client: stripe.StripeClient) -> None:
    intent = new_intent(client, None)
    refusal(lambda: confirm(client, intent.id, "pm_card_chargeDeclined"))
    error = refusal(lambda: client.v1.payment_intents.confirm(intent.id, {"off_session": True}))
    assert "payment method" in str(error)
    assert body(error)["code"] == "payment_intent_unexpected_state"


def test_create_with_confirm_creates_one_payment_method_and_one_charge(
    client: stripe.StripeClient, customer: str
) -> None:
    paid = new_intent(client, customer, payment_method="pm_card_visa", confirm=True, off_session=True)
    assert paid.status == "succeeded"
    assert len(client.v1.charges.list({"payment_intent": paid.id}).data) == 1


def test_off_session_without_confirm_is_refused(client: stripe.StripeClient) -> None:
    assert body(refusal(lambda: new_intent(client, None, off_session=True)))["param"] == "off_session"


def test_payment_method_types_is_refused_in_this_api_version(client: stripe.StripeClient) -> None:
    error = refusal(lambda: new_intent(client, None, payment_method_types=["card"]))
    assert body(error)["code"] == "payment_method_types_no_longer_supported"


def test_without_allowed_types_an_on_session_confirm_needs_a_return_url(client: stripe.StripeClient) -> None:
    intent = client.v1.payment_intents.create({"amount": 500, "currency": "eur"})
    assert intent.automatic_payment_methods is not None
    error = refusal(lambda: client.v1.payment_intents.confirm(intent.id, {"payment_method": "pm_card_visa"}))
    assert body(error)["param"] == "return_url"


@pytest.mark.parametrize(("amount", "currency", "code"), [
    (49, "usd", "amount_too_small"),
    (49, "jpy", "amount_too_small"),
    (100_000_000, "usd", "amount_too_large"),
])  # fmt: skip
def test_amounts_have_bounds(client: stripe.StripeClient, amount: int, currency: str, code: str) -> None:
    error = refusal(lambda: new_intent(client, None, amount=amount, currency=currency))
    assert (error.http_status, body(error)["code"], body(error)["param"]) == (400, code, "amount")


def test_cancel_is_final_and_keeps_its_reason(sim: SimulatorClient, client: stripe.StripeClient) -> None:
    intent = new_intent(client, None)
    sim.cancel_payment_intent("global", intent.id)
    canceled = client.v1.payment_intents.retrieve(intent.id)
    assert (canceled.status, canceled.cancellation_reason) == ("canceled", "requested_by_customer")
    assert canceled.canceled_at is not None
    for call in (
        lambda: client.v1.payment_intents.cancel(intent.id),
        lambda: confirm(client, intent.id, "pm_card_visa"),
        lambda: client.v1.payment_intents.capture(intent.id),
    ):
        said = body(refusal(call))
        assert said["code"] == "payment_intent_unexpected_state"
        assert said["payment_intent"]["status"] == "canceled"


def test_a_succeeded_payment_intent_cannot_be_canceled(client: stripe.StripeClient) -> None:
    paid = confirm(client, new_intent(client, None).id, "pm_card_visa")
    said = body(refusal(lambda: client.v1.payment_intents.cancel(paid.id)))
    assert said["payment_intent"]["status"] == "succeeded"


def test_a_hold_enters_the_ledger_when_it_is_captured(
    sim: SimulatorClient, client: stripe.StripeClient, customer: str
) -> None:
    intent = new_intent(client, customer, capture_method="manual")
    held = confirm(client, intent.id, "pm_card_visa", expand=["latest_charge"])
    assert (held.status, held.amount_capturable) == ("requires_capture", 2985)
    assert isinstance(held.latest_charge, stripe.Charge)
    assert held.latest_charge.captured is False
    assert [line for line in sim.ledger() if line.customer == customer] == []
    taken = client.v1.payment_intents.capture(intent.id, {"amount_to_capture": 2000})
    assert (taken.status, taken.amount_received) == ("succeeded", 2000)
    assert [line.amount for line in sim.ledger() if line.customer == customer] == [2000]
    assert refusal(lambda: client.v1.payment_intents.capture(intent.id)).http_status == 400


def test_a_hold_that_is_canceled_is_released(
    sim: SimulatorClient, client: stripe.StripeClient, customer: str
) -> None:
    intent = new_intent(client, customer, capture_method="manual")
    held = confirm(client, intent.id, "pm_card_visa")
    client.v1.payment_intents.cancel(intent.id)
    charge = client.v1.charges.retrieve(str(held.latest_charge))
    assert (charge.refunded, charge.captured) == (True, False)
    assert [line for line in sim.ledger() if line.customer == customer] == []


def test_a_hold_expires_on_the_business_clock(clock: ManualClock) -> None:
    with running_simulator(clock=clock) as own:
        client = sdk(own)
        intent = new_intent(client, None, capture_method="manual")
        confirm(client, intent.id, "pm_card_visa")
        clock.set(clock.now() + timedelta(days=5))
        said = body(refusal(lambda: client.v1.payment_intents.capture(intent.id)))
        assert said["code"] == "charge_expired_for_capture"
        assert said["payment_intent"]["status"] == "canceled"
        assert own.ledger() == []


def test_a_detached_card_cannot_pay(client: stripe.StripeClient, customer: str) -> None:
    method = client.v1.payment_methods.attach("pm_card_visa", {"customer": customer})
    client.v1.payment_methods.detach(method.id)
    intent = new_intent(client, customer)
    assert refusal(lambda: confirm(client, intent.id, method.id)).http_status == 400
    assert client.v1.payment_intents.retrieve(intent.id).latest_charge is None


def test_another_customers_card_cannot_pay(client: stripe.StripeClient, customer: str) -> None:
    other = client.v1.customers.create({})
    method = client.v1.payment_methods.attach("pm_card_visa", {"customer": other.id})
    assert refusal(lambda: confirm(client, new_intent(client, customer).id, method.id)).http_status == 400


def test_created_is_the_business_time(clock: ManualClock) -> None:
    with running_simulator(clock=clock) as own:
        client = sdk(own)
        first = new_intent(client, None)
        clock.set(clock.now() + timedelta(days=31))
        paid = confirm(client, new_intent(client, None).id, "pm_card_visa")
        assert first.created == int((clock.now() - timedelta(days=31)).timestamp())
        assert paid.created == int(clock.now().timestamp())
        assert [line.created_at for line in own.ledger()] == [clock.now()]
