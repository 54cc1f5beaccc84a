"""Fixtures that the tests of all failpoints share."""

from collections.abc import Callable

import pytest
from sqlalchemy import Engine

from shared.failpoints import Failpoint
from tests.failpoints.stories import story_of
from tests.failpoints.story import Lived, live

Dies = Callable[..., Lived]


@pytest.fixture
def crashes_at(engine: Engine, database_url: str) -> Dies:
    """Live the story with a crash at one arrival at a point; `-s` prints what came of it."""

    def lived(point: Failpoint, arrival: int = 1) -> Lived:
        story = live(story_of(point), engine, database_url, point, arrival)
        print(f"{point:<34} arrival {arrival}, lives {story.lives}: each paid once, nothing open, records equal")
        return story

    return lived


def assert_crashed_there(story: Lived) -> None:
    """The crash happened, a second life was needed, and the dead process did nothing more."""
    assert story.has_crashed, "no step of the story reaches this point: write it into tests/failpoints/stories.py"
    assert story.lives == 2
    assert story.after_death == (), "code that SIGKILL would not have run"
