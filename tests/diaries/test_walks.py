"""docs/architecture.md names the files in which a charge is decided: a charge passes each of them."""

from collections.abc import Callable, Set

import pytest

from benchmarks.walk import Recorder, Walk, new_card, retry
from tests.diaries.diary import Diary
from tests.docs.test_architecture import main_path

RUNS = {"scheduler/tick.py", "shared/scheduling/daily_run.py"}
CARDS = {
    "workers/use_cases/apply_stripe_event.py",
    "shared/accounts/cards.py",
    "shared/payments/card_changes.py",
}


@pytest.mark.parametrize(("walk_of", "passed_by_the_other"), [(retry, CARDS), (new_card, RUNS)])
def test_a_charge_passes_each_file_of_the_main_path(
    diary: Diary, walk_of: Callable[[Diary, Recorder], Walk], passed_by_the_other: Set[str]
) -> None:
    with Recorder() as recorder:
        walk = walk_of(diary, recorder)
    assert set(main_path()) - walk.functions.keys() == passed_by_the_other
    assert walk.transactions[-1] == "shared/payments/record_outcome.py: record_answer"
