"""The wait doubles from the first to the maximum, for any number of tries."""

from datetime import timedelta
from itertools import pairwise

import pytest

from shared.domain.backoff import Backoff

SECOND = timedelta(seconds=1)


@pytest.mark.parametrize(("tries", "wait_s"), [(1, 5), (2, 10), (3, 20), (7, 320), (8, 600), (10**9, 600)])
def test_wait_doubles_up_to_the_maximum(tries: int, wait_s: int) -> None:
    assert Backoff(5 * SECOND, 600 * SECOND).after(tries) == timedelta(seconds=wait_s)


def test_wait_before_any_try_is_the_first_wait() -> None:
    assert Backoff(5 * SECOND, 600 * SECOND).after(0) == 5 * SECOND


@pytest.mark.parametrize("longest_s", [1, 2, 3, 4, 7, 8, 1000])
def test_wait_never_shrinks_and_reaches_the_maximum(longest_s: int) -> None:
    backoff = Backoff(SECOND, longest_s * SECOND)
    waits = [backoff.after(tries) for tries in range(1, 40)]
    assert all(later in (min(2 * wait, backoff.longest), backoff.longest) for wait, later in pairwise(waits))
    assert waits[-1] == backoff.longest
