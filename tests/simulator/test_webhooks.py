"""Webhooks are signed like Stripe's, sent at once, and retried until taken, also after a restart."""

import socket
import time
from pathlib import Path

import pytest
import stripe

from simulator.client import SimulatorClient
from simulator.issuer.stories import AlwaysDeclines
from simulator.testing import Webhook, running_simulator
from simulator.webhooks import delivery as webhooks
from simulator.webhooks.events import EVENT_TYPES
from tests.simulator.conftest import sdk
from tests.simulator.receiver import SECRET, receiving
from tests.simulator.sdk_calls import confirm, new_intent, refusal


def test_registering_a_card_sends_signed_webhooks_at_once() -> None:
    with receiving() as received, running_simulator(webhooks=[Webhook("global", received.url, SECRET)]) as own:
        customer = sdk(own).v1.customers.create({}).id
        received.wait_for("customer.created")
        began = time.monotonic()
        registered = own.register_card("global", customer, metadata={"coverage": "global", "mode": "replace"})
        event = received.wait_for("setup_intent.succeeded")
        assert time.monotonic() - began < 1.0
        assert event.id.startswith("evt_")
        assert (event.api_version, event.livemode) == ("2026-10-28.endive", False)
        told = event.data.object.to_dict()
        assert told["id"] == registered.setup_intent
        assert told["metadata"] == {"coverage": "global", "mode": "replace"}
        received.wait_for("setup_intent.created")
        attached = received.wait_for("payment_method.attached").data.object
        assert attached["id"] == registered.payment_method
        assert sorted(received.types()) == [
            "customer.created",
            "payment_method.attached",
            "setup_intent.created",
            "setup_intent.succeeded",
        ]
        assert received.bad_signatures == 0


def test_an_event_names_the_request_that_caused_it() -> None:
    with receiving() as received, running_simulator(webhooks=[Webhook("global", received.url, SECRET)]) as own:
        client = sdk(own)
        made = client.v1.customers.create({}, {"idempotency_key": "the-key"})
        event = received.wait_for("customer.created")
        assert event.request is not None
        assert event.request.idempotency_key == "the-key"
        assert made.last_response is not None
        assert event.request.id == made.last_response.request_id
        fetched = client.v1.events.retrieve(event.id)
        assert fetched.data.object["id"] == made.id


def test_every_outcome_of_a_payment_has_its_events() -> None:
    with running_simulator() as own:
        client = sdk(own)
        customer = client.v1.customers.create({}).id
        bad = own.register_card("global", customer, own.make_card("global", AlwaysDeclines()).token)
        intent = new_intent(client, customer)
        refusal(lambda: confirm(client, intent.id, bad.payment_method))
        confirm(client, intent.id, own.register_card("global", customer).payment_method)
        client.v1.payment_intents.cancel(new_intent(client, customer).id)
        client.v1.payment_intents.confirm(
            new_intent(client, customer).id, {"payment_method": "pm_card_authenticationRequired"}
        )
        held = new_intent(client, customer, capture_method="manual")
        confirm(client, held.id, "pm_card_visa")
        client.v1.payment_intents.capture(held.id)
        seen = {event.type for event in client.v1.events.list({"limit": 100}).auto_paging_iter()}
        later = {name for name in EVENT_TYPES if name.startswith("charge.dispute.")} | {"charge.refunded"}
        assert seen >= {name for name in EVENT_TYPES if name.startswith(("charge.", "payment_intent."))} - later


def test_a_refused_delivery_is_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "BACKOFF_S", (0.1, 0.2))
    with receiving() as received, running_simulator(webhooks=[Webhook("global", received.url, SECRET)]) as own:
        received.refusals = 3
        sdk(own).v1.customers.create({})
        event = received.wait_for("customer.created")
        assert [event_id for event_id, _ in received.attempts] == [event.id] * 4
        gaps = [
            later[1] - earlier[1] for earlier, later in zip(received.attempts, received.attempts[1:], strict=False)
        ]
        assert gaps[0] >= 0.1
        assert gaps[2] >= 0.2
        _wait_until_pending(own, 0)
        assert own.webhook_stats().refused == 3


def _wait_until_pending(sim: SimulatorClient, count: int) -> None:
    deadline = time.monotonic() + 15
    while sim.webhook_stats().pending != count:
        assert time.monotonic() < deadline, sim.webhook_stats()
        time.sleep(0.01)


def test_undelivered_webhooks_are_delivered_after_a_restart(tmp_path: Path) -> None:
    port = _free_port()
    webhook = Webhook("global", f"http://127.0.0.1:{port}/webhooks", SECRET)
    with running_simulator(data_dir=tmp_path, webhooks=[webhook]) as own:
        for _ in range(40):  # more than a sender delivers at once
            sdk(own).v1.customers.create({})
        assert own.webhook_stats().pending == 40
    with receiving(port) as received, running_simulator(data_dir=tmp_path) as own:
        received.wait_for("customer.created", count=40)
        _wait_until_pending(own, 0)
        assert len({event.id for event in received.events}) == 40


def test_an_endpoint_with_a_changed_url_gets_the_pending_webhooks(tmp_path: Path) -> None:
    old = Webhook("global", f"http://127.0.0.1:{_free_port()}/", SECRET)
    other = Webhook("japan", f"http://127.0.0.1:{_free_port()}/", SECRET)
    with running_simulator(data_dir=tmp_path, webhooks=[old, other]) as own:
        sdk(own).v1.customers.create({})
    with receiving() as received:
        new = Webhook("global", received.url, SECRET)
        with running_simulator(data_dir=tmp_path, webhooks=[new]) as own:
            received.wait_for("customer.created")
            assert {endpoint.url for endpoint in own.webhook_endpoints()} == {new.url, other.url}


def test_an_endpoint_gets_the_enabled_events_of_its_account() -> None:
    with receiving() as received, running_simulator() as own:
        first = own.add_webhook_endpoint("global", received.url, "whsec_old", ["setup_intent.succeeded"])
        again = own.add_webhook_endpoint("global", received.url, SECRET, ["setup_intent.succeeded"])
        assert first.id == again.id
        assert [endpoint.url for endpoint in own.webhook_endpoints()] == [received.url]
        for account in ("japan", "global"):
            customer = sdk(own, account).v1.customers.create({}).id
            own.register_card(account, customer)
        received.wait_for("setup_intent.succeeded")
        own.remove_webhook_endpoint(again.id)
        own.register_card("global", customer)
        _wait_until_pending(own, 0)
        assert received.types() == ["setup_intent.succeeded"]


def test_an_endpoint_that_is_down_delays_no_other() -> None:
    with receiving() as received, running_simulator() as own:
        own.add_webhook_endpoint("global", f"http://127.0.0.1:{_free_port()}/", SECRET)
        own.add_webhook_endpoint("global", received.url, SECRET)
        for _ in range(30):
            sdk(own).v1.customers.create({})
        received.wait_for("customer.created", count=30)
        _wait_until_pending(own, 30)


def test_a_wrong_secret_does_not_verify() -> None:
    payload = b'{"id": "evt_1"}'
    header = webhooks.sign("whsec_other", payload, int(time.time()))
    with pytest.raises(stripe.SignatureVerificationError):
        stripe.Webhook.construct_event(payload, header, SECRET)  # type: ignore[no-untyped-call]


def _free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])
