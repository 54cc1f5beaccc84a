"""A card that Mastercard forbids for 30 days is charged once more if the customer registers it again after them."""

from datetime import timedelta

import pytest
from sqlalchemy import select

from shared.db.tables.accounts import card_blocks
from shared.db.tables.system import billing_events
from simulator.issuer.stories import AlwaysDeclines, DeclinesThenPays, Story
from tests.accounts.conftest import CardWorld
from tests.seed import Account

MONTH = timedelta(days=30)


def declined_by_mastercard(here: CardWorld, anna: Account, story: Story) -> str:
    """Register a card whose first charge is declined; return its token, which registers it again."""
    card = here.world.simulator.make_card("global", story, brand="mastercard")
    here.world.register_card(anna, card.token)
    here.live()
    return card.token


def says(advice: str, times: int = 1, decline_code: str = "do_not_honor") -> Story:
    return DeclinesThenPays(
        times=times, decline_code=decline_code, network_advice_code=advice, advice_code="do_not_try_again"
    )


def blocks(here: CardWorld) -> list[str]:
    with here.world.engine.connect() as connection:
        return list(connection.scalars(select(card_blocks.c.reason)))


@pytest.mark.parametrize("advice", ["03", "21"])
def test_same_card_registered_again_after_30_days_is_asked(here: CardWorld, advice: str) -> None:
    world, anna = here.world, here.world.account("A-1")
    owed = world.add_due_payment(anna)
    token = declined_by_mastercard(here, anna, says(advice))
    (reason,) = blocks(here)
    assert f"Mastercard advice {advice}): this card must not be charged for 30 days, and then once" in reason
    world.clock.set(world.clock.now() + MONTH - timedelta(minutes=1))
    world.register_card(anna, token)
    here.live()
    assert (world.payment(owed).state, len(world.attempts(owed))) == ("needs_payment_method", 1), "too early"
    world.clock.set(world.clock.now() + timedelta(minutes=1))
    here.live()
    assert len(world.attempts(owed)) == 1, "30 days alone don't end it: the customer has to register the card"
    world.register_card(anna, token)
    here.live()
    assert (world.payment(owed).state, world.captured_amounts(owed)) == ("paid", [5_00])
    assert blocks(here) == []
    with world.engine.connect() as connection:
        registered = connection.execute(
            select(billing_events.c.data).where(billing_events.c.type == "card_registered")
        )
        ended = [row.data.get("ended_block") for row in registered]
    assert ended[:-1] == [None, None]
    assert ended[-1] == reason


def test_card_that_declines_so_again_is_blocked_for_another_30_days(here: CardWorld) -> None:
    world, anna = here.world, here.world.account("A-1")
    owed = world.add_due_payment(anna)
    token = declined_by_mastercard(here, anna, says("03", times=2))
    for days, attempts in ((30, 2), (29, 2), (1, 3)):
        world.clock.set(world.clock.now() + timedelta(days=days))
        world.register_card(anna, token)
        here.live()
        assert len(world.attempts(owed)) == attempts
    assert world.captured_amounts(owed) == [5_00]


@pytest.mark.parametrize(
    "story",
    [
        says("03", decline_code="stolen_card"),
        AlwaysDeclines(decline_code="generic_decline", advice_code="do_not_try_again", network_advice_code="24"),
    ],
    ids=["a stolen card", "Stripe's advice without the network's"],
)
def test_other_blocks_do_not_end(here: CardWorld, story: Story) -> None:
    world, anna = here.world, here.world.account("A-1")
    owed = world.add_due_payment(anna)
    token = declined_by_mastercard(here, anna, story)
    world.clock.set(world.clock.now() + timedelta(days=400))
    world.register_card(anna, token)
    here.live()
    assert len(world.attempts(owed)) == 1
    assert len(blocks(here)) == 1
