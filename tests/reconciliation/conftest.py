"""Reconciliation of one account with one good card."""

import pytest

from tests.reconciliation.records import Night
from tests.world import World


@pytest.fixture
def night(world: World) -> Night:
    account = world.account("A-1")
    token = world.simulator.make_card("global").token
    card = world.add_primary_card(account, token)
    return Night(world, account, card.payment_method)
