"""A create whose error Stripe saved under its key: a retry only replays it, so another key is used."""

import pytest

from simulator.faults.rules import FaultRule
from tests.seed import Account
from tests.world import World


@pytest.fixture
def account(world: World) -> Account:
    account = world.account("A-1")
    world.add_primary_card(account)
    return account


@pytest.mark.parametrize("kind", ["server_error", "server_error_unapplied"])
def test_saved_create_error_is_not_replayed_for_a_day(world: World, account: Account, kind: str) -> None:
    """Found by chaos: each attempt met the replayed 500 and backed off for longer, until Stripe dropped the key."""
    payment = world.add_due_payment(account)
    world.simulator.add_faults([FaultRule(kind, operation="create")])
    world.charge(payment)  # 500, saved under the key of the first PaymentIntent
    assert [row.closed_reason for row in world.intents(payment)] == [None], "it may be an outage: the key stays"
    world.machine.advance(seconds=6)
    world.charge(payment)  # the same key: replayed
    assert [row.closed_reason for row in world.intents(payment)] == ["abandoned"]
    world.machine.advance(seconds=11)
    world.charge(payment)
    assert [row.closed_reason for row in world.intents(payment)] == ["abandoned", "succeeded"]
    assert [row.state for row in world.attempts(payment)] == ["not_sent", "not_sent", "succeeded"]
    assert (world.payment(payment).state, world.captured_amounts(payment)) == ("paid", [5_00])


def test_key_used_with_other_parameters_is_given_up_at_once(world: World, account: Account) -> None:
    payment = world.add_due_payment(account)
    world.simulator.add_faults([FaultRule("idempotency_error", operation="create")])
    world.charge(payment)
    assert [row.closed_reason for row in world.intents(payment)] == ["abandoned"]
    world.machine.advance(seconds=6)
    world.charge(payment)
    assert (world.payment(payment).state, world.captured_amounts(payment)) == ("paid", [5_00])


def test_spent_confirm_key_keeps_the_payment_intent(world: World, account: Account) -> None:
    """Its PaymentIntent is known, may have captured the money, and is looked up."""
    payment = world.add_due_payment(account)
    world.simulator.add_faults([FaultRule("idempotency_error", operation="confirm")])
    world.charge(payment)
    assert [row.closed_reason for row in world.intents(payment)] == [None]
    assert world.attempts(payment)[-1].state == "unknown"
    world.machine.advance(minutes=5, seconds=1)  # inside the lease, a look-up that finds no money closes nothing
    world.settle(world.attempts(payment)[-1].id)
    world.machine.advance(seconds=6)
    world.charge(payment)
    assert [row.ordinal for row in world.intents(payment)] == [1]
    assert (world.payment(payment).state, world.captured_amounts(payment)) == ("paid", [5_00])
