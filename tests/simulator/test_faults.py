"""Each fault hook does what its docstring says."""

import pytest
import stripe

from simulator.api.errors import Answer, error_body
from simulator.faults.hooks import Arrival, CutConnection, Delivery, NoFaults
from simulator.testing import Webhook, running_simulator
from tests.simulator.conftest import sdk
from tests.simulator.receiver import SECRET, receiving
from tests.simulator.sdk_calls import confirm, new_intent, refusal


class RefusesConfirms(NoFaults):
    async def before_apply(self, arrival: Arrival) -> Answer | None:
        is_confirm = arrival.path.endswith("/confirm")
        return Answer(429, error_body("Too many requests.", "invalid_request_error")) if is_confirm else None


def test_a_fault_before_apply_changes_nothing() -> None:
    with running_simulator(faults=RefusesConfirms()) as own:
        client = sdk(own)
        intent = new_intent(client, None)
        assert isinstance(refusal(lambda: confirm(client, intent.id, "pm_card_visa")), stripe.RateLimitError)
        assert client.v1.payment_intents.retrieve(intent.id).latest_charge is None


class CutsConfirms(NoFaults):
    def __init__(self, *, is_applied: bool) -> None:
        self.is_applied = is_applied

    async def before_apply(self, arrival: Arrival) -> Answer | None:
        if arrival.path.endswith("/confirm") and not self.is_applied:
            raise CutConnection
        return None

    async def before_answer(self, arrival: Arrival, answer: Answer) -> Answer:
        if arrival.path.endswith("/confirm"):
            raise CutConnection
        return answer


@pytest.mark.parametrize("is_applied", [False, True])
def test_a_cut_connection_hides_whether_money_moved(is_applied: bool) -> None:
    with running_simulator(faults=CutsConfirms(is_applied=is_applied)) as own:
        client = sdk(own)
        intent = new_intent(client, None)
        error = refusal(lambda: confirm(client, intent.id, "pm_card_visa"))
        assert isinstance(error, stripe.APIConnectionError)
        assert len(own.ledger()) == is_applied


class DropsTheFirst(NoFaults):
    async def before_delivery(self, delivery: Delivery) -> bool:
        return delivery.attempts > 0


def test_a_webhook_dropped_by_a_hook_is_delivered_by_the_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulator.webhooks.delivery.BACKOFF_S", (0.05,))
    with (
        receiving() as received,
        running_simulator(webhooks=[Webhook("global", received.url, SECRET)], faults=DropsTheFirst()) as own,
    ):
        sdk(own).v1.customers.create({})
        received.wait_for("customer.created")
