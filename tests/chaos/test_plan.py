"""The plan of a chaos run depends only on its seed, and has enough faults of every kind."""

import json
from collections import Counter

import pytest

from local.chaos.catalogue import ARMED, BY_NAME, KINDS
from local.chaos.executor import INJECTORS
from local.chaos.fault_queue import rule_of
from local.chaos.plan import AT_LEAST, FIRST_DAY, MONTH_START_S, make_plan, plan_again
from simulator.faults.catalogue import FAULT_NAMES


def test_a_plan_depends_only_on_its_seed() -> None:
    plan, again, other = make_plan(2_000, 1), make_plan(2_000, 1), make_plan(2_000, 2)
    assert plan == again
    assert plan.digest == again.digest
    assert plan.digest != other.digest
    assert plan.faults != other.faults
    assert plan_again(plan, [("slow", 3)], 1) == plan_again(again, [("slow", 3)], 1)


def test_a_plan_changes_only_on_purpose() -> None:
    """A digest in a report identifies a run that can be repeated: a change needs a line in the changelog."""
    assert make_plan(20, 1).digest == "559ff24ca9d17a1f"


@pytest.mark.parametrize("faults", [2_000, 10_000])
def test_two_thousand_faults_contain_twenty_of_each_kind(faults: int) -> None:
    plan = make_plan(faults, 3)
    assert len(plan.faults) == faults
    assert set(plan.counts) == set(BY_NAME)
    assert min(plan.counts.values()) >= AT_LEAST


def test_every_kind_can_be_injected() -> None:
    assert ARMED | set(INJECTORS) | {"clock_jump"} == set(BY_NAME)
    assert not ARMED & set(INJECTORS)
    assert set(FAULT_NAMES) == ARMED, "a kind that the simulator knows and chaos doesn't, or the other way round"


def test_the_simulator_accepts_every_planned_rule() -> None:
    """FaultRule raises for an operation that its kind doesn't fit, or for a missing delay."""
    armed = [fault for fault in make_plan(3_000, 4).faults if fault.kind in ARMED]
    rules = [rule_of(fault) for fault in armed]
    targets = {(kind.name, target) for kind in KINDS if kind.name in ARMED for target in kind.targets}
    assert {(rule.kind, rule.operation or "") for rule in rules} == targets


def test_days_are_consecutive_and_a_month_start_lasts_longest() -> None:
    plan = make_plan(2_000, 5)
    assert plan.steps[0].to == FIRST_DAY
    for before, step in zip(plan.steps, plan.steps[1:], strict=False):
        assert (step.to - before.to).days == step.days
        assert (step.seconds == MONTH_START_S) == (step.to.month != before.to.month)
    jumps = Counter(fault.step for fault in plan.faults if fault.kind == "clock_jump")
    assert jumps == Counter(step.number for step in plan.steps if step.days > 1)


@pytest.mark.parametrize("faults", [1, 20, 100, 500])
def test_a_small_plan_has_the_requested_number_of_faults(faults: int) -> None:
    plan = make_plan(faults, 6)
    assert len(plan.faults) == faults
    assert [fault.sequence for fault in plan.faults] == list(range(1, faults + 1))
    assert {fault.step for fault in plan.faults} <= {step.number for step in plan.steps}
    json.dumps(plan.to_json())
