"""A new step without a failpoint on both sides of it, or a point that nothing reaches, stops here."""

import pytest

from shared.failpoints import Failpoint
from tests.failpoints.plan import PLAN, points_of
from tests.failpoints.steps import Source, examine, named_in_code, watched_sources

BEFORE, AFTER, WITHIN = "has no failpoint before it", "has no failpoint after it", "runs nothing that reaches"


def test_every_transaction_and_request_has_a_point_before_and_after() -> None:
    found = examine(watched_sources())
    assert found.missing == []
    assert len(found.steps) >= 20, "the check sees the steps"


def test_every_point_is_reached_by_some_step_and_written_out_there() -> None:
    found = examine(watched_sources())
    assert None not in found.points, "reach() takes a member of Failpoint, by its name"
    assert set(Failpoint) - named_in_code(found) == set()


def test_every_point_is_crashed_at_by_exactly_one_file() -> None:
    covered = [point for group in PLAN for point in points_of(group)]
    assert sorted(covered) == sorted(Failpoint), "a new family of points needs a file: tests/failpoints/plan.py"
    print(f"failpoints: found {len(Failpoint)}, covered {len(set(covered))}")


STEP_WITH_POINTS = """
def charge(runtime, gateway):
    def work(connection):
        write(connection)
        reach(Failpoint.RECORD_ANSWER_BEFORE_COMMIT)

    reach(Failpoint.CHARGE_BEGUN)
    in_transaction(runtime.engine, work)
    reach(Failpoint.CHARGE_CLAIMED)
    if gateway.is_there:
        answer = gateway.confirm_payment_intent("pi_1", "pm_1", "key")
        reach(Failpoint.CHARGE_CONFIRM_SENT)
    return answer
"""


@pytest.mark.parametrize(
    ("taken_out", "named"),
    [
        ("    reach(Failpoint.CHARGE_BEGUN)\n", [f"in_transaction {BEFORE}"]),
        ("        reach(Failpoint.RECORD_ANSWER_BEFORE_COMMIT)\n", [f"in_transaction {WITHIN}"]),
        ("        reach(Failpoint.CHARGE_CONFIRM_SENT)\n", [f"confirm_payment_intent {AFTER}"]),
        (
            "    reach(Failpoint.CHARGE_CLAIMED)\n",
            [f"in_transaction {AFTER}", f"confirm_payment_intent {BEFORE}"],
        ),
    ],
)
def test_a_missing_point_is_named_with_its_step(taken_out: str, named: list[str]) -> None:
    assert examine([Source("a.py", STEP_WITH_POINTS)]).missing == []
    assert taken_out in STEP_WITH_POINTS
    missing = examine([Source("a.py", STEP_WITH_POINTS.replace(taken_out, ""))]).missing
    assert len(missing) == len(named)
    for sentence, part in zip(missing, named, strict=True):
        assert part in sentence


def test_a_block_is_a_transaction_and_a_wrapper_is_its_callers() -> None:
    block = """
def store(engine):
    reach(Failpoint.WEBHOOK_RECEIVED)
    with engine.begin() as connection:
        write(connection)
    reach(Failpoint.WEBHOOK_STORED)
"""
    assert [WITHIN in missing for missing in examine([Source("a.py", block)]).missing] == [True]
    wrapped = """
def record(runtime):
    _write(runtime, lambda connection: write(connection))

def _write(runtime, work):
    return in_transaction(runtime.engine, work)

def write(connection):
    reach(Failpoint.RECORD_ANSWER_BEFORE_COMMIT)
"""
    missing = examine([Source("a.py", wrapped)]).missing
    assert [("record: _write" in one, BEFORE in one or AFTER in one) for one in missing] == [(True, True)] * 2
