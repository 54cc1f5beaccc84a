"""Every transaction and request has a failpoint on both sides, and every failpoint is reached."""

import pytest

from shared.failpoints import Failpoint
from tests.failpoints.plan import PLAN, points_of
from tests.failpoints.steps import Source, examine, named_in_code, watched_sources

BEFORE, AFTER, WITHIN = "has no failpoint before it", "has no failpoint after it", "runs nothing that reaches"


def test_every_transaction_and_request_has_a_failpoint_before_and_after() -> None:
    found = examine(watched_sources())
    assert found.missing == []
    assert len(found.steps) >= 20, "the check sees the steps"


def test_every_failpoint_is_reached_by_name() -> None:
    found = examine(watched_sources())
    assert None not in found.points, "reach() takes a member of Failpoint, by its name"
    assert set(Failpoint) - named_in_code(found) == set()


def test_every_failpoint_is_crashed_at_by_exactly_one_file() -> None:
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
    answer = request("charge.confirm", gateway.confirm_payment_intent, "pi_1", "pm_1", "key")
    in_transaction(runtime.engine, work)
    reach(Failpoint.CHARGE_RECORDED)
    return answer
"""


@pytest.mark.parametrize(
    ("taken_out", "named"),
    [
        ("    reach(Failpoint.CHARGE_BEGUN)\n", [f"in_transaction {BEFORE}"]),
        ("        reach(Failpoint.RECORD_ANSWER_BEFORE_COMMIT)\n", [f"in_transaction {WITHIN}"] * 2),
        ("    reach(Failpoint.CHARGE_RECORDED)\n", [f"in_transaction {AFTER}"]),
    ],
)
def test_missing_failpoint_is_reported_with_its_step(taken_out: str, named: list[str]) -> None:
    assert examine([Source("a.py", STEP_WITH_POINTS)]).missing == []
    assert taken_out in STEP_WITH_POINTS
    missing = examine([Source("a.py", STEP_WITH_POINTS.replace(taken_out, ""))]).missing
    assert len(missing) == len(named)
    for sentence, part in zip(missing, named, strict=True):
        assert part in sentence


@pytest.mark.parametrize(
    "sent",
    ["gateway.retrieve_card('pm_1')", "request(step, gateway.retrieve_card, 'pm_1')"],
    ids=["bare", "unnamed"],
)
def test_a_request_outside_the_wrapper_or_without_a_name_is_found(sent: str) -> None:
    source = f"def look(gateway, step):\n    return {sent}\n"
    (missing,) = examine([Source("a.py", source)]).missing
    assert "a.py:2 look" in missing
    assert "send it by request" in missing
    named = "def look(gateway):\n    return request('event.new_card', gateway.retrieve_card, 'pm_1')\n"
    found = examine([Source("a.py", named)])
    assert (found.missing, found.points) == ([], ["EVENT_NEW_CARD_SENDING", "EVENT_NEW_CARD_SENT"])


def test_blocks_are_transactions_and_wrappers_belong_to_their_callers() -> None:
    block = """
def store(engine):
    reach(Failpoint.WEBHOOK_STORE_BEGUN)
    with engine.begin() as connection:
        write(connection)
    reach(Failpoint.WEBHOOK_STORE_COMMITTED)
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
