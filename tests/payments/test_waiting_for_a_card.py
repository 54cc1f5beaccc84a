"""A payment that waits for a card is woken only by another card, however often it is enqueued (I15)."""

import pytest

from simulator.issuer.stories import AlwaysDeclines, NeedsAuthentication, Story
from tests.world import World


@pytest.mark.parametrize(
    ("story", "state"),
    [
        (NeedsAuthentication(), "needs_authentication"),
        (AlwaysDeclines(decline_code="expired_card"), "needs_payment_method"),
    ],
    ids=["needs_authentication", "needs_payment_method"],
)
def test_message_does_not_wake_a_payment_for_the_card_that_blocked_it(
    world: World, story: Story, state: str
) -> None:
    account = world.account("A-1")
    world.add_primary_card(account, story=story)
    payment = world.add_due_payment(account)
    for _ in range(4):
        world.charge(payment)
    assert world.payment(payment).state == state
    assert len(world.attempts(payment)) == 1
    world.add_primary_card(account)
    for _ in range(2):
        world.charge(payment)
    assert world.captured_amounts(payment) == [5_00]
