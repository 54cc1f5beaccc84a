"""What uses up a card network's budget: declines, and attempts that may still be declined. Never a success."""

from datetime import timedelta
from uuid import UUID

import pytest

from shared.domain.dunning import OPEN_ATTEMPTS_WAIT
from shared.payments.claim import Claimed, claim_charge
from shared.payments.network_budgets import free_dates
from simulator.issuer.stories import AlwaysDeclines
from tests.world import World

NO_MONEY = AlwaysDeclines(decline_code="insufficient_funds")


def payments_with(world: World, token: str, brand: str, count: int, name: str = "R") -> list[UUID]:
    """One due payment for each of `count` accounts that all registered the same card, as a reseller does."""
    payments = []
    for number in range(count):
        account = world.account(f"{name}-{number}")
        world.add_primary_card(account, token, brand=brand)
        payments.append(world.add_due_payment(account))
    return payments


@pytest.mark.parametrize("brand", ["visa", "mastercard"])
def test_twenty_five_accounts_on_one_good_card_are_all_paid_on_day_one(world: World, brand: str) -> None:
    payments = payments_with(world, world.simulator.make_card("global", brand=brand).token, brand, 25)
    for payment in payments:
        world.charge(payment)
    assert [world.captured_amounts(payment) for payment in payments] == [[5_00]] * 25


def test_declines_of_all_payments_and_triggers_use_the_budget_and_successes_do_not(world: World) -> None:
    card = world.simulator.make_card("global", brand="mastercard")
    for payment in payments_with(world, card.token, "mastercard", 12, "good"):
        world.charge(payment)
    world.simulator.set_story("global", card.token, NO_MONEY)
    declined = payments_with(world, card.token, "mastercard", 11, "bad")
    for payment in declined:
        world.charge(payment)
    assert [len(world.attempts(payment)) for payment in declined] == [1] * 10 + [0]
    assert world.payment(declined[-1]).state_reason == ("mastercard: 10 declines in 1 days, the network allows 10")


def test_payment_behind_open_attempts_waits_minutes_and_not_the_month_of_a_used_budget(world: World) -> None:
    token = world.simulator.make_card("global", brand="mastercard").token
    *first, last = payments_with(world, token, "mastercard", 11)
    for payment in first:
        with world.engine.begin() as connection:
            assert isinstance(claim_charge(connection, world.runtime, payment), Claimed)
    world.charge(last)
    row = world.payment(last)
    assert (row.state, row.next_attempt_at) == ("retry_scheduled", world.clock.now() + OPEN_ATTEMPTS_WAIT)
    assert world.attempts(last) == []
    world.machine.advance(minutes=10)
    for payment in first:
        world.settle(world.attempts(payment)[0].id)
        world.do_enqueued()
    world.clock.set(world.clock.now() + OPEN_ATTEMPTS_WAIT + timedelta(seconds=1))
    world.charge(last)
    assert world.captured_amounts(last) == [5_00]


def test_lists_show_the_date_on_which_the_network_allows_the_next_try(world: World) -> None:
    token = world.simulator.make_card("global", NO_MONEY, brand="mastercard").token
    declined = payments_with(world, token, "mastercard", 10)
    for payment in declined:
        world.charge(payment)
    (other,) = payments_with(world, world.simulator.make_card("global", NO_MONEY).token, "visa", 1, "V")
    world.charge(other)
    now = world.clock.now()
    with world.engine.connect() as connection:
        found = free_dates(connection, [*declined, other], now)
    assert found == dict.fromkeys(declined, now + timedelta(days=1))
    world.clock.set(now + timedelta(days=1, seconds=1))
    with world.engine.connect() as connection:
        assert free_dates(connection, declined, world.clock.now()) == {}
