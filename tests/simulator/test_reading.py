"""Keys, accounts, lists, expansion and parameters, which work the same at every endpoint."""

from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest
import stripe

from shared.clock import ManualClock
from simulator.client import SimulatorClient, SimulatorError
from simulator.testing import running_simulator
from tests.simulator.conftest import START, sdk
from tests.simulator.sdk_calls import body, confirm, new_intent, refusal


def test_the_key_selects_the_account_and_accounts_are_isolated(sim: SimulatorClient, customer: str) -> None:
    japan = sdk(sim, "japan")
    error = refusal(lambda: japan.v1.customers.retrieve(customer))
    assert (error.http_status, body(error)["code"]) == (404, "resource_missing")
    account = japan.v1.accounts.retrieve_current()
    assert (account.id, account.country, account.default_currency) == ("acct_sim_japan", "JP", "jpy")


@pytest.mark.parametrize("key", ["sk_live_abc", "sk_test_abc", "pk_test_sim_global", "sk_test_sim_Ä", ""])
def test_invalid_keys_are_refused(sim: SimulatorClient, key: str) -> None:
    headers = {"Authorization": f"Bearer {key}".encode()} if key else {}
    answer = httpx.get(f"{sim.url}/v1/account", headers=headers)
    assert answer.status_code == 401
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert key not in answer.text or not key


def test_every_answer_has_a_request_id(sim: SimulatorClient, client: stripe.StripeClient) -> None:
    assert refusal(lambda: client.v1.customers.retrieve("cus_none")).request_id
    account = client.v1.accounts.retrieve_current()
    assert account.last_response is not None
    assert account.last_response.request_id.startswith("req_")
    assert httpx.get(f"{sim.url}/v1/nothing").headers["Request-Id"]


def test_unknown_parameters_and_urls_are_refused(client: stripe.StripeClient, sim: SimulatorClient) -> None:
    params: Any = {"amont": 5}
    error = refusal(lambda: client.v1.customers.create(params))
    assert (body(error)["code"], body(error)["param"]) == ("parameter_unknown", "amont")
    missing: Any = {"currency": "usd"}
    error = refusal(lambda: client.v1.payment_intents.create(missing))
    assert (body(error)["code"], body(error)["param"]) == ("parameter_missing", "amount")
    wrong: Any = {"amount": "12.5", "currency": "usd"}
    error = refusal(lambda: client.v1.payment_intents.create(wrong))
    assert body(error)["code"] == "parameter_invalid_integer"
    auth = {"Authorization": "Bearer sk_test_sim_global"}
    assert httpx.get(f"{sim.url}/v1/payouts", headers=auth).status_code == 404


def test_charges_are_listed_newest_first_in_pages() -> None:
    clock = ManualClock(_day(0))
    with running_simulator(clock=clock) as own:
        client = sdk(own)
        customer = client.v1.customers.create({}).id
        charged = []
        for day in range(7):
            clock.set(_day(day))
            for _ in range(3):
                intent = new_intent(client, customer)
                charged.append(str(confirm(client, intent.id, "pm_card_visa").latest_charge))
        assert own.health()["objects"]["charges"] == 21

        def ids(**params: Any) -> list[str]:
            return [charge.id for charge in client.v1.charges.list(params).auto_paging_iter()]  # type: ignore[arg-type]

        assert ids(limit=4) == charged[::-1]
        assert ids(limit=2, customer=customer) == charged[::-1]
        within = {"gte": int(_day(2).timestamp()), "lt": int(_day(4).timestamp())}
        assert ids(created=within, limit=1) == charged[6:12][::-1]
        assert ids(created={"gt": int(_day(5).timestamp())}) == charged[18:][::-1]
        back = client.v1.charges.list({"ending_before": charged[0], "limit": 3})
        assert [charge.id for charge in back.data] == charged[1:4][::-1]
        assert back.has_more
        assert refusal(lambda: ids(limit=101)).http_status == 400
        assert refusal(lambda: ids(starting_after="ch_none")).http_status == 400
        assert [line.charge for line in own.ledger()] == charged


def _day(number: int) -> datetime:
    return START + timedelta(days=number)


def test_objects_are_listed_by_customer(sim: SimulatorClient, client: stripe.StripeClient, customer: str) -> None:
    registered = sim.register_card("global", customer)
    intent = new_intent(client, customer)
    new_intent(client, None)
    assert [one.id for one in client.v1.payment_intents.list({"customer": customer}).data] == [intent.id]
    assert [one.id for one in client.v1.setup_intents.list({"customer": customer}).data] == [
        registered.setup_intent
    ]
    methods = client.v1.customers.payment_methods.list(customer, {"type": "card"})
    assert [one.id for one in methods.data] == [registered.payment_method]
    assert [one.id for one in client.v1.payment_methods.list({"customer": customer, "type": "card"}).data] == [
        registered.payment_method
    ]
    client.v1.payment_methods.detach(registered.payment_method)
    assert client.v1.payment_methods.list({"customer": customer}).data == []


def test_ids_are_expanded_on_request(sim: SimulatorClient, client: stripe.StripeClient, customer: str) -> None:
    registered = sim.register_card("global", customer)
    intent = new_intent(client, customer)
    paid = confirm(
        client, intent.id, registered.payment_method, expand=["latest_charge", "customer", "payment_method"]
    )
    assert isinstance(paid.latest_charge, stripe.Charge)
    assert isinstance(paid.customer, stripe.Customer)
    assert isinstance(paid.payment_method, stripe.PaymentMethod)
    plain = client.v1.payment_intents.retrieve(intent.id)
    assert plain.latest_charge == paid.latest_charge.id
    listed = client.v1.payment_intents.list({"customer": customer, "expand": ["data.latest_charge"]})
    assert isinstance(listed.data[0].latest_charge, stripe.Charge)
    error = refusal(lambda: client.v1.payment_intents.retrieve(intent.id, {"expand": ["amount"]}))
    assert error.http_status == 400


def test_a_customer_is_updated_with_metadata_merged(client: stripe.StripeClient) -> None:
    made = client.v1.customers.create({"email": "a@b.c", "metadata": {"one": "1", "two": "2"}})
    changed = client.v1.customers.update(made.id, {"name": "Ada", "metadata": {"two": "", "three": "3"}})
    assert (changed.name, changed.email) == ("Ada", "a@b.c")
    assert changed.metadata is not None
    assert changed.metadata.to_dict() == {"one": "1", "three": "3"}
    event = client.v1.events.list({"type": "customer.updated", "limit": 1}).data[0]
    assert event.data.previous_attributes is not None
    assert event.data.previous_attributes.to_dict()["name"] is None


def test_setup_intents_store_cards_and_their_metadata(client: stripe.StripeClient, customer: str) -> None:
    made = client.v1.setup_intents.create(
        {
            "customer": customer,
            "usage": "off_session",
            "allowed_payment_method_types": ["card"],
            "metadata": {"coverage": "global", "mode": "replace"},
        }
    )
    assert made.status == "requires_payment_method"
    done = client.v1.setup_intents.confirm(made.id, {"payment_method": "pm_card_mastercard"})
    assert done.status == "succeeded"
    assert done.metadata is not None
    assert done.metadata["mode"] == "replace"
    method = client.v1.payment_methods.retrieve(str(done.payment_method))
    assert method.customer == customer
    again = refusal(lambda: client.v1.setup_intents.confirm(made.id, {"payment_method": "pm_card_visa"}))
    assert body(again)["code"] == "setup_intent_unexpected_state"
    declined = client.v1.setup_intents.create({"customer": customer, "allowed_payment_method_types": ["card"]})
    error = refusal(
        lambda: client.v1.setup_intents.confirm(declined.id, {"payment_method": "pm_card_chargeDeclined"})
    )
    assert body(error)["setup_intent"]["last_setup_error"]["decline_code"] == "generic_decline"


def test_a_card_is_updated_by_its_owner_and_by_the_network(
    sim: SimulatorClient, client: stripe.StripeClient, customer: str
) -> None:
    registered = sim.register_card("global", customer)
    updated = client.v1.payment_methods.update(
        registered.payment_method, {"card": {"exp_year": 2040, "exp_month": 3}}
    )
    assert updated.card is not None
    assert (updated.card.exp_month, updated.card.exp_year) == (3, 2040)
    sim.automatically_update("global", registered.payment_method, exp_month=4, exp_year=2041, last4="1881")
    replaced = client.v1.payment_methods.retrieve(registered.payment_method)
    assert replaced.card is not None
    assert (replaced.card.last4, replaced.card.exp_year) == ("1881", 2041)
    assert replaced.card.fingerprint != registered.fingerprint
    types = [event.type for event in client.v1.events.list({"limit": 2}).data]
    assert types == ["payment_method.automatically_updated", "payment_method.updated"]
    assert confirm(client, new_intent(client, customer).id, registered.payment_method).status == "succeeded"


def test_the_admin_endpoints_explain_errors(sim: SimulatorClient) -> None:
    with pytest.raises(SimulatorError, match="No such customer"):
        sim.register_card("global", "cus_none")
    with pytest.raises(SimulatorError, match="brand"):
        sim.make_card("global", brand="vista")
    with pytest.raises(SimulatorError, match="sends no"):
        sim.add_webhook_endpoint("global", "http://x", "whsec_x", enabled_events=["payment.done"])


def test_requests_are_counted_and_the_last_ones_are_logged(
    sim: SimulatorClient, client: stripe.StripeClient
) -> None:
    before = sim.request_counts().get("POST /v1/payment_intents/:id/confirm", 0)
    intent = new_intent(client, None)
    confirm(client, intent.id, "pm_card_visa")
    assert sim.request_counts()["POST /v1/payment_intents/:id/confirm"] == before + 1
    seen = sim.requests(path_contains=f"{intent.id}/confirm")
    assert [(one.method, one.status, one.account) for one in seen] == [("POST", 200, "global")]
    assert seen[0].arrived_ns > 0
