"""Stripe answers `lock_timeout` (HTTP 429) when two requests want to change one object at once: never a decline.

The request wasn't applied (docs.stripe.com/error-codes): the payment is charged a little later, and what the other
request did is found then.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from uuid import UUID

import pytest

from shared.gateway.port import Answer, Outcome
from simulator.faults.rules import FaultRule
from simulator.issuer.stories import AlwaysDeclines, Pays, Story
from tests.payments.closing import (
    account_with_declining_card,
    assert_verify_is_clean,
    billing_events_of,
    declined_payment,
    processor_status,
    request_close_by_operator,
    run_close_payment,
)
from tests.payments.wire import Wire
from tests.seed import Account
from tests.web.serving import wait_until
from tests.world import World, make_gateways

#: Milliseconds that the first request is under way at Stripe; the second arrives meanwhile.
UNDER_WAY = 1_000.0


class Elsewhere:
    """Another process confirms the payment's PaymentIntent: a worker resumed after its lease, or our page."""

    def __init__(self, world: World, pool: ThreadPoolExecutor) -> None:
        self._world, self._pool = world, pool
        self._gateway = make_gateways(world.simulator.url, world.policy.coverages)["global"]
        self.answer: Future[Answer] | None = None

    def confirms(self, payment: UUID, card: str, second: str) -> None:
        """Begin, and return once Stripe works on it; the next request of kind `second` finds its object locked."""
        first_confirm = 1 if second == "confirm" else 0
        self._world.simulator.add_faults(
            [
                FaultRule("slow_before", operation="confirm", delay_ms=UNDER_WAY),
                FaultRule("lock_timeout", operation=second, skip=first_confirm),
            ]
        )
        intent = self._world.intents(payment)[-1].stripe_payment_intent_id
        self.answer = self._pool.submit(self._gateway.confirm_payment_intent, intent, card, "elsewhere")
        wait_until(lambda: self._world.simulator.fault_counts()["slow_before"] == 1)

    def outcome(self) -> Outcome:
        assert self.answer is not None
        return self.answer.result().outcome


@pytest.fixture
def elsewhere(world: World) -> Iterator[Elsewhere]:
    with ThreadPoolExecutor(1) as pool:
        yield Elsewhere(world, pool)


def card_of(world: World, account: Account, story: Story) -> str:
    return world.register_card(account, story=story).payment_method


def assert_no_decline(world: World, payment: UUID) -> None:
    row = world.payment(payment)
    assert (row.decline_count, row.last_decline_code, row.first_declined_at) == (0, None, None)
    moves = [event.after["state"] for event in billing_events_of(world, payment, "payment_moved")]
    assert "retry_scheduled" not in moves


@pytest.mark.parametrize("story", [Pays(), AlwaysDeclines()], ids=["the other pays", "the other is declined"])
def test_payment_confirmed_twice_at_once_has_no_decline_by_us_and_one_charge(
    world: World, wire: Wire, elsewhere: Elsewhere, story: Story
) -> None:
    account = world.account("A-1")
    world.add_primary_card(account)
    card = card_of(world, account, story)
    payment = world.add_due_payment(account)
    wire.before["confirm_payment_intent"] = lambda: elsewhere.confirms(payment, card, "confirm")
    world.charge(payment)
    (attempt,) = world.attempts(payment)
    assert (attempt.state, attempt.http_status, attempt.code) == ("not_sent", 429, "lock_timeout")
    assert_no_decline(world, payment)
    assert world.payment(payment).state == "due"
    assert elsewhere.outcome() is (Outcome.SUCCEEDED if isinstance(story, Pays) else Outcome.DECLINED)
    wire.before.clear()
    world.machine.advance(seconds=6)
    world.charge(payment)
    assert world.payment(payment).state == "paid"
    assert world.captured_amounts(payment) == [5_00]
    assert_no_decline(world, payment)
    assert_verify_is_clean(world, payment)


def test_payment_canceled_while_the_customer_pays_is_paid_and_not_declined(
    world: World, wire: Wire, elsewhere: Elsewhere
) -> None:
    account = account_with_declining_card(world)
    payment = declined_payment(world, account)
    card = card_of(world, account, Pays())
    request_close_by_operator(world, payment)
    wire.before["cancel_payment_intent"] = lambda: elsewhere.confirms(payment, card, "cancel")
    run_close_payment(world, payment)
    declined, cancel = world.attempts(payment)
    assert (declined.state, cancel.kind, cancel.state) == ("declined", "cancel", "not_sent")
    assert (cancel.http_status, cancel.code) == (429, "lock_timeout")
    assert world.payment(payment).pending_close_as is not None, "the close is tried again"
    assert world.payment(payment).decline_count == 1, "only the card's own decline"
    assert elsewhere.outcome() is Outcome.SUCCEEDED
    wire.before.clear()
    world.machine.advance(minutes=2)
    run_close_payment(world, payment)
    assert (world.payment(payment).state, world.captured_amounts(payment)) == ("paid", [5_00])
    assert world.payment(payment).decline_count == 1


def test_close_goes_on_once_the_other_request_is_answered(world: World, wire: Wire, elsewhere: Elsewhere) -> None:
    account = account_with_declining_card(world)
    payment = declined_payment(world, account)
    card = card_of(world, account, AlwaysDeclines())
    request_close_by_operator(world, payment)
    wire.before["cancel_payment_intent"] = lambda: elsewhere.confirms(payment, card, "cancel")
    run_close_payment(world, payment)
    assert elsewhere.outcome() is Outcome.DECLINED
    wire.before.clear()
    world.machine.advance(minutes=2)
    run_close_payment(world, payment)
    assert (world.payment(payment).state, processor_status(world, payment)) == ("void", "canceled")
    assert world.captured_amounts(payment) == []
