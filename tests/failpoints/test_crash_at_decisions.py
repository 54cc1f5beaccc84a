"""Failpoints of bulk actions and endings: the process dies there once, and at the story's end nobody can tell."""

import pytest
from sqlalchemy import Engine

from shared.failpoints import Failpoint
from tests.failpoints.conftest import Dies, assert_it_died_there
from tests.failpoints.plan import DECISIONS, points_of
from tests.failpoints.stories import DECISIONS as STORY
from tests.failpoints.story import live


@pytest.mark.parametrize("point", points_of(DECISIONS))
def test_a_crash_here_is_not_noticed(dies_at: Dies, point: Failpoint) -> None:
    assert_it_died_there(dies_at(point))


@pytest.mark.parametrize("point", [Failpoint.CHARGE_CANCEL_SENDING, Failpoint.CHARGE_CANCEL_SENT])
def test_a_crash_at_the_cancellation_of_what_is_to_end_is_not_noticed(
    engine: Engine, database_url: str, point: Failpoint
) -> None:
    """The points are the charge's, in whose story they cancel what has a successor."""
    assert_it_died_there(live(STORY, engine, database_url, point))
