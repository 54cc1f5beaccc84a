"""Dates use business time, leases and keys use machine time, never the other clock (I11)."""

from datetime import timedelta
from typing import Any

from simulator.issuer.stories import AlwaysDeclines, DeclinesThenPays
from tests.world import World


def test_machine_time_alone_makes_nothing_due(world: World) -> None:
    account = world.account("A-1")
    world.add_primary_card(account, story=AlwaysDeclines(decline_code="insufficient_funds"))
    payment = world.add_due_payment(account)
    world.charge(payment)
    for _ in range(3):
        world.machine.advance(days=30)
        world.charge(payment)
    assert [row.state for row in world.attempts(payment)] == ["declined"]


def test_business_time_alone_expires_no_lease(world: World) -> None:
    account = world.account("A-1")
    world.add_primary_card(account)
    payment = world.add_due_payment(account)
    gateway: Any = world.runtime.gateways["global"]
    confirm = gateway.confirm_payment_intent

    def confirm_after_a_year(*arguments: str) -> object:
        world.clock.set(world.clock.now() + timedelta(days=365))
        (attempt,) = world.attempts(payment)
        world.settle(attempt.id)
        world.charge(payment)
        return confirm(*arguments)

    gateway.confirm_payment_intent = confirm_after_a_year
    world.charge(payment)
    assert [row.state for row in world.attempts(payment)] == ["succeeded"]
    assert world.captured_amounts(payment) == [5_00]


def test_old_payment_intent_has_no_successor_until_it_is_canceled(world: World) -> None:
    """Stripe has dropped its create key; that matters only while its ID is unknown."""
    account = world.account("A-1")
    world.add_primary_card(account, story=DeclinesThenPays(times=3, decline_code="insufficient_funds"))
    payment = world.add_due_payment(account)
    for _ in range(4):
        world.charge(payment)
        world.clock.set(world.clock.now() + timedelta(days=1))
        world.machine.advance(days=1)
    assert world.captured_amounts(payment) == [5_00]
    assert [(row.ordinal, row.closed_reason) for row in world.intents(payment)] == [(1, "succeeded")]
    assert world.simulator.health()["objects"]["payment_intents"] == 1
