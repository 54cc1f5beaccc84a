"""A running simulator, and the real SDK connected to it."""

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
import stripe

from shared.clock import ManualClock
from simulator.client import SimulatorClient
from simulator.testing import running_simulator

START = datetime(2026, 11, 1, 9, 0, tzinfo=UTC)


@pytest.fixture(scope="session")
def shared_simulator() -> Iterator[SimulatorClient]:
    """One simulator for all tests that create their own customers: a start takes longer than most tests."""
    with running_simulator() as sim:
        yield sim


@pytest.fixture(scope="session")
def faulty_simulator() -> Iterator[SimulatorClient]:
    """One simulator for all tests that script faults: no other request meets their rules."""
    with running_simulator() as sim:
        yield sim


@pytest.fixture
def faulty(faulty_simulator: SimulatorClient) -> Iterator[SimulatorClient]:
    """The simulator without rules and limits, restored after each test."""
    yield faulty_simulator
    faulty_simulator.clear_faults()
    faulty_simulator.set_rate_limit(None)


@pytest.fixture
def sim(shared_simulator: SimulatorClient) -> SimulatorClient:
    return shared_simulator


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)


def sdk(sim: SimulatorClient, account: str = "global", key: str | None = None) -> stripe.StripeClient:
    return stripe.StripeClient(
        key or f"sk_test_sim_{account}", base_addresses={"api": sim.url}, max_network_retries=0
    )


@pytest.fixture
def client(sim: SimulatorClient) -> stripe.StripeClient:
    return sdk(sim)


@pytest.fixture
def customer(client: stripe.StripeClient) -> str:
    return client.v1.customers.create({"email": "ada@example.com"}).id
