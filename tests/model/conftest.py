"""How much the model is made to do: `model` in every run of the tests, `deep` when there is time."""

import logging
import os
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import HealthCheck, Phase, settings

from tests.model.company import Company, running_company
from tests.servers import Servers

_ALWAYS = settings(
    deadline=None,  # an example takes as long as a loaded machine makes it
    database=None,  # a break prints its own blob
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
settings.register_profile("model", _ALWAYS, max_examples=100, stateful_step_count=30, derandomize=True)
settings.register_profile("deep", _ALWAYS, max_examples=2_000, stateful_step_count=50)


@pytest.fixture(scope="module")
def company(servers: Servers, migrated: str) -> Iterator[Company]:
    """Without our log lines: an example tells its own story, and a deep run would tell millions."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        with servers.fresh_database(migrated) as url, running_company(url) as running:
            yield running
    finally:
        structlog.reset_defaults()


@pytest.fixture
def profile(request: pytest.FixtureRequest) -> settings:
    """`--hypothesis-profile=deep`, or MODEL_PROFILE=deep; MODEL_EXAMPLES=300 for another number."""
    profile = request.config.getoption("--hypothesis-profile") or os.environ.get("MODEL_PROFILE") or "model"
    chosen = settings.get_profile(profile if profile in ("model", "deep") else "model")
    if examples := os.environ.get("MODEL_EXAMPLES"):
        chosen = settings(chosen, max_examples=int(examples))
    if os.environ.get("MODEL_SHRINK") == "0":  # the first break as it was found, at once
        chosen = settings(chosen, phases=[Phase.generate])
    return chosen
