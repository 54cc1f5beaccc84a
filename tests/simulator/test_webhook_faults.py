"""Scripted faults of webhooks: dropped, duplicated, delayed, reordered, and taken before the answer."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest
import stripe

from simulator.client import SimulatorClient
from simulator.faults.rules import FaultRule
from simulator.testing import Webhook, running_simulator
from tests.simulator.conftest import sdk
from tests.simulator.gateway import counting
from tests.simulator.receiver import SECRET, Receiver, receiving
from tests.simulator.sdk_calls import confirm, new_intent, until


@pytest.fixture
def received() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def own(received: Receiver) -> Iterator[SimulatorClient]:
    with running_simulator(webhooks=[Webhook("global", received.url, SECRET)]) as sim:
        yield sim


def is_quiet(sim: SimulatorClient) -> bool:
    return sim.webhook_stats().pending == 0


def new_customer(client: stripe.StripeClient) -> str:
    return client.v1.customers.create({}).id


def told_of(received: Receiver) -> list[str]:
    """The ids of the events' objects, in order of arrival."""
    return [event.data.object["id"] for event in list(received.events)]


def test_a_dropped_webhook_never_arrives_and_the_next_one_does(own: SimulatorClient, received: Receiver) -> None:
    own.add_faults([FaultRule("webhook_dropped")])
    with counting(own, "webhook_dropped"):
        lost, arrived = new_customer(sdk(own)), new_customer(sdk(own))
        until(lambda: is_quiet(own))
    assert told_of(received) == [arrived]
    assert {event.data.object["id"] for event in sdk(own).v1.events.list().data} == {lost, arrived}


def test_a_duplicated_webhook_arrives_twice_with_one_id(own: SimulatorClient, received: Receiver) -> None:
    own.add_faults([FaultRule("webhook_duplicated")])
    with counting(own, "webhook_duplicated"):
        new_customer(sdk(own))
        until(lambda: is_quiet(own))
    assert [event.type for event in received.events] == ["customer.created"] * 2
    assert len({event.id for event in received.events}) == 1


def test_a_duplicate_may_arrive_later(own: SimulatorClient, received: Receiver) -> None:
    own.add_faults([FaultRule("webhook_duplicated", delay_ms=100)])
    new_customer(sdk(own))
    received.wait_for("customer.created", count=2, timeout_s=60)
    (_, first), (_, second) = received.attempts
    assert second - first >= 0.1
    until(lambda: is_quiet(own))
    assert own.fault_counts()["webhook_duplicated"] == 1


def test_a_delayed_webhook_delays_no_other(own: SimulatorClient, received: Receiver) -> None:
    own.add_faults([FaultRule("webhook_delayed", delay_ms=300, count=40)])  # more than a sender delivers at once
    with counting(own, "webhook_delayed", 40):
        late = [new_customer(sdk(own)) for _ in range(40)]
        at_once = new_customer(sdk(own))
        until(lambda: is_quiet(own))
    assert sorted(told_of(received)) == sorted([*late, at_once])
    assert told_of(received).index(at_once) < 40


def test_a_delayed_webhook_arrives_after_its_delay(own: SimulatorClient, received: Receiver) -> None:
    own.add_faults([FaultRule("webhook_delayed", delay_ms=200)])
    began = time.monotonic()
    new_customer(sdk(own))
    received.wait_for("customer.created", timeout_s=60)
    assert received.attempts[0][1] - began >= 0.2


def test_a_reordered_webhook_waits_until_a_later_one_was_taken(own: SimulatorClient, received: Receiver) -> None:
    own.add_faults([FaultRule("webhook_reordered", delay_ms=60_000)])
    with counting(own, "webhook_reordered"):
        first = new_customer(sdk(own))
        until(lambda: own.fault_rules()[0].seen == 1)
        second = new_customer(sdk(own))
        until(lambda: is_quiet(own))
    assert told_of(received) == [second, first]


def test_reordering_all_webhooks_swaps_pairs_and_loses_none(own: SimulatorClient, received: Receiver) -> None:
    own.add_faults([FaultRule("webhook_reordered", count=None, delay_ms=60_000)])
    made = []
    for _ in range(3):
        made.append(new_customer(sdk(own)))
        until(lambda: own.fault_rules()[0].seen == len(made))
        made.append(new_customer(sdk(own)))
        until(lambda: is_quiet(own))
    assert told_of(received) == [made[1], made[0], made[3], made[2], made[5], made[4]]
    assert own.fault_counts()["webhook_reordered"] == 3


def test_a_reordered_webhook_that_nothing_overtakes_arrives_and_is_no_hit(
    own: SimulatorClient, received: Receiver
) -> None:
    own.add_faults([FaultRule("webhook_reordered", delay_ms=50)])
    with counting(own, "webhook_reordered", 0):
        only = new_customer(sdk(own))
        until(lambda: is_quiet(own))
    assert told_of(received) == [only]


@pytest.mark.parametrize("kind", ["webhook_reordered", "webhook_delayed"])
def test_clearing_the_faults_sends_held_webhooks(own: SimulatorClient, received: Receiver, kind: str) -> None:
    own.add_faults([FaultRule(kind, delay_ms=3_600_000)])
    held = new_customer(sdk(own))
    until(lambda: own.fault_rules()[0].seen == 1)
    own.clear_faults()
    until(lambda: is_quiet(own))
    assert told_of(received) == [held]


def test_held_webhooks_survive_a_restart(received: Receiver, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("held")
    with running_simulator(data_dir=folder, webhooks=[Webhook("global", received.url, SECRET)]) as first:
        first.add_faults([FaultRule("webhook_delayed", delay_ms=400)])
        held = new_customer(sdk(first))
        until(lambda: first.fault_rules()[0].hits == 1)
    with running_simulator(data_dir=folder) as second:
        until(lambda: is_quiet(second))
    assert told_of(received) == [held]


def test_webhooks_of_a_confirm_are_taken_before_its_answer(own: SimulatorClient, received: Receiver) -> None:
    client = sdk(own)
    own.add_faults([FaultRule("webhook_before_answer", operation="confirm")])
    intent = new_intent(client, None)
    with counting(own, "webhook_before_answer"):
        confirm(client, intent.id, "pm_card_visa")
        assert {"payment_intent.succeeded", "charge.succeeded"} <= set(received.types())


def test_the_answer_may_be_lost_after_its_webhooks(own: SimulatorClient, received: Receiver) -> None:
    client = sdk(own)
    own.add_faults([FaultRule(kind, operation="confirm") for kind in ("cut_after", "webhook_before_answer")])
    intent = new_intent(client, None)
    with pytest.raises(stripe.APIConnectionError):
        confirm(client, intent.id, "pm_card_visa")
    assert "payment_intent.succeeded" in received.types()
    assert [each.hits for each in own.fault_rules()] == [1, 1]


def test_an_endpoint_that_is_down_delays_the_answer_only_for_a_limited_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("simulator.faults.scripted.TAKEN_WITHIN_S", 0.05)
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        away = Webhook("global", f"http://127.0.0.1:{held.getsockname()[1]}/", SECRET)
        with running_simulator(webhooks=[away]) as sim:
            sim.add_faults([FaultRule("webhook_before_answer")])
            with counting(sim, "webhook_before_answer", 0):
                new_customer(sdk(sim))


def test_a_webhook_fault_hits_its_customer_and_card_only(own: SimulatorClient, received: Receiver) -> None:
    client = sdk(own)
    ada, eve = new_customer(client), new_customer(client)
    card = own.make_card("global")
    until(lambda: is_quiet(own))
    received.events.clear()
    own.add_faults(
        [
            FaultRule("webhook_dropped", customer=ada, count=None),
            FaultRule("webhook_dropped", card=card.token, count=None),
            FaultRule("webhook_dropped", account="japan", count=None),
        ]
    )
    own.register_card("global", ada)
    new_intent(client, ada)
    registered = own.register_card("global", eve, card.token)
    intent = new_intent(client, eve)
    confirm(client, intent.id, registered.payment_method)
    until(lambda: is_quiet(own))
    # A PaymentIntent that waits has no card yet; all else of this card is silent.
    assert told_of(received) == [intent.id]
    assert received.types() == ["payment_intent.created"]
    assert [each.hits for each in own.fault_rules()] == [4, 5, 0]


def test_webhook_faults_hit_only_the_first_attempt(
    own: SimulatorClient, received: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simulator.webhooks.delivery.BACKOFF_S", (0.05,))
    received.refusals = 1
    customer = new_customer(sdk(own))
    until(lambda: own.webhook_stats().refused == 1)
    own.add_faults([FaultRule("webhook_dropped")])
    until(lambda: is_quiet(own))
    assert told_of(received) == [customer]


def test_under_all_faults_each_webhook_is_taken_or_dropped(own: SimulatorClient, received: Receiver) -> None:
    kinds = ("webhook_duplicated", "webhook_delayed", "webhook_reordered")
    own.add_faults(
        [FaultRule(kind, probability=0.3, seed=seed, count=None, delay_ms=20.0) for seed, kind in enumerate(kinds)]
    )
    own.add_faults([FaultRule("webhook_dropped", probability=0.1, seed=9, count=None)])
    made: list[str] = []

    def make() -> None:
        made.extend(new_customer(sdk(own)) for _ in range(40))

    threads = [threading.Thread(target=make) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: is_quiet(own))
    counts = own.fault_counts()
    assert len(made) == len(set(made)) == 120
    assert len(told_of(received)) == 120 + counts["webhook_duplicated"] - counts["webhook_dropped"]
    assert len(set(told_of(received))) == 120 - counts["webhook_dropped"]
    assert all(counts[kind] > 0 for kind in (*kinds, "webhook_dropped"))
