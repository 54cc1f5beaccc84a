"""An operator's desk in a small real world."""

import pytest

from tests.bulk.company import Desk
from tests.world import World


@pytest.fixture
def desk(world: World) -> Desk:
    return Desk(world)
