"""Fixtures that several test files share."""

from dataclasses import replace

import pytest

from tests.payments.wire import Wire
from tests.world import World


@pytest.fixture
def wire(world: World) -> Wire:
    wire = Wire(world.runtime.gateways["global"])
    world.runtime = replace(world.runtime, gateways={**world.runtime.gateways, "global": wire})
    return wire
