"""Crash once at every failpoint of this family; at the end of the story the result is as without a crash."""

import pytest

from shared.failpoints import Failpoint
from tests.failpoints.conftest import Dies, assert_crashed_there
from tests.failpoints.plan import RUNS, points_of


@pytest.mark.parametrize("point", points_of(RUNS))
def test_crash_is_recovered(crashes_at: Dies, point: Failpoint) -> None:
    assert_crashed_there(crashes_at(point))
