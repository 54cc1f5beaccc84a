"""Crash once at every failpoint of bulk actions and closes; the result is as without a crash."""

import pytest
from sqlalchemy import Engine

from shared.failpoints import Failpoint
from tests.failpoints.conftest import Dies, assert_crashed_there
from tests.failpoints.plan import DECISIONS, points_of
from tests.failpoints.stories import DECISIONS as STORY
from tests.failpoints.story import live


@pytest.mark.parametrize("point", points_of(DECISIONS))
def test_crash_is_recovered(crashes_at: Dies, point: Failpoint) -> None:
    assert_crashed_there(crashes_at(point))


@pytest.mark.parametrize("point", [Failpoint.CHARGE_CANCEL_SENDING, Failpoint.CHARGE_CANCEL_SENT])
def test_crash_at_the_cancellation_of_a_close_is_recovered(
    engine: Engine, database_url: str, point: Failpoint
) -> None:
    """The points are the charge's, in whose story they cancel what has a successor."""
    assert_crashed_there(live(STORY, engine, database_url, point))
