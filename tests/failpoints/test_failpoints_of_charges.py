"""Crash once at every failpoint of this family; at the end of the story the result is as without a crash."""

import pytest

from shared.failpoints import Failpoint
from tests.failpoints.conftest import Dies, assert_crashed_there
from tests.failpoints.plan import CHARGES, THIRD, WHERE_MONEY_MOVES, points_of


@pytest.mark.parametrize("point", points_of(CHARGES))
def test_crash_is_recovered(crashes_at: Dies, point: Failpoint) -> None:
    assert_crashed_there(crashes_at(point))


@pytest.mark.parametrize("point", sorted(WHERE_MONEY_MOVES))
def test_crash_where_money_moves_is_recovered(crashes_at: Dies, point: Failpoint) -> None:
    assert_crashed_there(crashes_at(point, arrival=THIRD))
