"""The rules of docs.stripe.com/api/idempotent_requests, one by one."""

import threading
import time
from typing import Any
from uuid import uuid4

import httpx
import pytest
import stripe

from simulator.api.errors import Answer, error_body
from simulator.client import SimulatorClient
from simulator.faults.hooks import Arrival, NoFaults
from simulator.issuer.stories import DeclinesThenPays
from simulator.testing import running_simulator
from tests.simulator.conftest import sdk
from tests.simulator.sdk_calls import body, new_intent, refusal


def create(client: stripe.StripeClient, key: str, amount: int = 1000, **more: Any) -> stripe.PaymentIntent:
    params: Any = {"amount": amount, "currency": "usd", "allowed_payment_method_types": ["card"], **more}
    return client.v1.payment_intents.create(params, {"idempotency_key": key})


def test_the_same_key_and_parameters_replay_the_first_answer(client: stripe.StripeClient) -> None:
    key = str(uuid4())
    first, again = create(client, key), create(client, key)
    assert first.id == again.id
    assert first.last_response is not None
    assert again.last_response is not None
    assert "idempotent-replayed" not in first.last_response.headers
    assert again.last_response.headers["idempotent-replayed"] == "true"
    assert again.last_response.headers["original-request"] == first.last_response.request_id
    assert again.last_response.request_id != first.last_response.request_id
    assert first.last_response.body == again.last_response.body


def test_a_replay_returns_the_first_answer_not_the_current_state(client: stripe.StripeClient) -> None:
    key = str(uuid4())
    intent = create(client, key)
    client.v1.payment_intents.cancel(intent.id)
    assert create(client, key).status == "requires_payment_method"


def test_a_decline_is_replayed_and_the_card_is_charged_once(
    sim: SimulatorClient, client: stripe.StripeClient, customer: str
) -> None:
    card = sim.make_card("global", DeclinesThenPays(times=1, decline_code="insufficient_funds"))
    method = client.v1.payment_methods.attach(card.token, {"customer": customer})
    intent = new_intent(client, customer)
    key = str(uuid4())

    def confirm_once() -> Any:
        params: Any = {"payment_method": method.id, "off_session": True}
        return client.v1.payment_intents.confirm(intent.id, params, {"idempotency_key": key})

    first, again = refusal(confirm_once), refusal(confirm_once)
    assert first.http_body == again.http_body
    assert again.headers is not None
    assert again.headers["idempotent-replayed"] == "true"
    assert sim.card("global", card.token).declined == 1
    assert len(client.v1.charges.list({"payment_intent": intent.id}).data) == 1


def test_other_parameters_under_the_key_are_refused(client: stripe.StripeClient) -> None:
    key = str(uuid4())
    create(client, key, amount=1000)
    error = refusal(lambda: create(client, key, amount=1001))
    assert isinstance(error, stripe.IdempotencyError)
    assert (error.http_status, body(error)["type"]) == (400, "idempotency_error")


def test_another_endpoint_under_the_key_is_refused(client: stripe.StripeClient) -> None:
    key = str(uuid4())
    create(client, key)
    error = refusal(lambda: client.v1.customers.create({}, {"idempotency_key": key}))
    assert isinstance(error, stripe.IdempotencyError)


def test_parameters_in_another_order_are_the_same_request(sim: SimulatorClient) -> None:
    headers = {"Authorization": "Bearer sk_test_sim_global", "Idempotency-Key": str(uuid4())}
    first = httpx.post(f"{sim.url}/v1/customers", content="email=a%40b.c&name=Ada", headers=headers)
    again = httpx.post(f"{sim.url}/v1/customers", content="name=Ada&email=a%40b.c", headers=headers)
    assert first.json() == again.json()


def test_a_refused_parameter_is_not_saved(client: stripe.StripeClient) -> None:
    key = str(uuid4())
    assert body(refusal(lambda: create(client, key, amount=49)))["code"] == "amount_too_small"
    assert create(client, key, amount=50).amount == 50


def test_a_refusal_for_a_wrong_state_is_saved(client: stripe.StripeClient) -> None:
    """The endpoint had started to execute, so its refusal is saved under the key."""
    intent, key = create(client, str(uuid4())), str(uuid4())

    def confirm() -> Any:
        return client.v1.payment_intents.confirm(intent.id, {}, {"idempotency_key": key})

    assert body(refusal(confirm))["code"] == "payment_intent_unexpected_state"
    again = refusal(confirm)
    assert again.headers is not None
    assert again.headers["idempotent-replayed"] == "true"


def test_a_key_in_use_is_a_conflict_that_is_not_saved(sim: SimulatorClient, client: stripe.StripeClient) -> None:
    key = str(uuid4())
    sim.set_latency(300)
    try:
        first = threading.Thread(target=lambda: create(client, key))
        first.start()
        time.sleep(0.1)
        error = refusal(lambda: create(client, key))
        first.join()
    finally:
        sim.set_latency(0)
    assert (error.http_status, body(error)["code"]) == (409, "idempotency_key_in_use")
    replayed = create(client, key)
    assert replayed.last_response is not None
    assert replayed.last_response.headers["idempotent-replayed"] == "true"


def test_keys_belong_to_an_account(sim: SimulatorClient) -> None:
    key = str(uuid4())
    assert create(sdk(sim, "global"), key).id != create(sdk(sim, "japan"), key).id


def test_a_key_may_have_255_characters(client: stripe.StripeClient) -> None:
    assert create(client, str(uuid4()).ljust(255, "x")).id
    assert refusal(lambda: create(client, "x" * 256)).http_status == 400


def test_a_pruned_key_is_a_new_request() -> None:
    with running_simulator() as own:
        client, key = sdk(own), str(uuid4())
        first = create(client, key)
        assert own.prune_idempotency_keys(older_than_s=86_400) == 0
        assert own.prune_idempotency_keys() == 1
        assert create(client, key).id != first.id


class SavedServerErrors(NoFaults):
    """The money moves, and a 500 is saved and answered."""

    def before_commit(self, arrival: Arrival, answer: Answer) -> Answer:
        if not arrival.path.endswith("/confirm"):
            return answer
        return Answer(500, error_body("An error occurred.", "api_error"))


@pytest.mark.parametrize("repeats", [1, 2])
def test_a_saved_500_is_replayed_although_the_money_moved(repeats: int) -> None:
    with running_simulator(faults=SavedServerErrors()) as own:
        client = sdk(own)
        intent = new_intent(client, None)
        params: Any = {"payment_method": "pm_card_visa", "off_session": True}
        for _ in range(1 + repeats):
            error = refusal(lambda: client.v1.payment_intents.confirm(intent.id, params, {"idempotency_key": "k"}))
            assert error.http_status == 500
        assert error.headers is not None
        assert error.headers["idempotent-replayed"] == "true"
        assert [line.payment_intent for line in own.ledger()] == [intent.id]
        assert client.v1.payment_intents.retrieve(intent.id).status == "succeeded"
