"""Every failpoint of this family: the process dies there once, and at the story's end nobody can tell."""

import pytest

from shared.failpoints import Failpoint
from tests.failpoints.conftest import Dies, assert_it_died_there
from tests.failpoints.plan import RUNS, points_of


@pytest.mark.parametrize("point", points_of(RUNS))
def test_a_crash_here_is_not_noticed(dies_at: Dies, point: Failpoint) -> None:
    assert_it_died_there(dies_at(point))
