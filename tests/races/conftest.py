"""Processes are started once for all tests of this folder; each test has its own company."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from sqlalchemy import Engine

from tests.conftest import sqlalchemy_url
from tests.races.racers import Racers, running_racers
from tests.races.track import Track, running_track

PROCESSES = 6

OpenTrack = Callable[[int], Track]


@pytest.fixture(scope="session")
def racers() -> Iterator[Racers]:
    with running_racers(PROCESSES) as running:
        yield running


@pytest.fixture
def open_track(engine: Engine, database_url: str, racers: Racers) -> Iterator[OpenTrack]:
    """Opens a company whose chance comes from a seed."""
    with ExitStack() as tracks:
        yield lambda seed: tracks.enter_context(running_track(engine, sqlalchemy_url(database_url), racers, seed))
