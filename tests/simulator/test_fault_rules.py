"""Which requests a rule hits: pure, and the same for the same seed."""

import re
from collections.abc import Mapping
from typing import Any

import pytest

from simulator.faults.catalogue import FAULT_NAMES, FAULTS, REQUEST_FAULTS, WEBHOOK_FAULTS
from simulator.faults.rules import (
    FaultRule,
    FaultRuleError,
    RuleInForce,
    Subject,
    rule_from_json,
)

ADA = Subject("cus_ada", frozenset({"pm_1", "fingerprint_1", "pm_story_1"}))


def test_a_kind_is_about_requests_or_webhooks() -> None:
    assert set(FAULT_NAMES) == set(REQUEST_FAULTS) | set(WEBHOOK_FAULTS) == set(FAULTS)
    assert not set(REQUEST_FAULTS) & set(WEBHOOK_FAULTS)
    assert (len(REQUEST_FAULTS), len(WEBHOOK_FAULTS)) == (20, 5)


def hits(rule: FaultRule, requests: int = 20) -> list[int]:
    """Return which of so many matches a rule hits, if each hit has its effect."""
    in_force, taken = RuleInForce(rule), []
    for number in range(requests):
        if in_force.decides_to_hit():
            taken.append(number)
            in_force.inject().take_effect()
    return taken


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (FaultRule("cut_after"), [0]),
        (FaultRule("cut_after", skip=3), [3]),
        (FaultRule("cut_after", skip=2, count=3), [2, 3, 4]),
        (FaultRule("cut_after", skip=15, count=None), [15, 16, 17, 18, 19]),
    ],
)
def test_a_rule_skips_some_requests_and_then_hits_its_count(rule: FaultRule, expected: list[int]) -> None:
    assert hits(rule) == expected


def test_a_probability_depends_only_on_the_seed_of_the_rule() -> None:
    rule = FaultRule("cut_after", probability=0.3, seed=7, count=None)
    first = hits(rule, 1_000)
    assert first == hits(rule, 1_000)
    assert first != hits(FaultRule("cut_after", probability=0.3, seed=8, count=None), 1_000)
    assert 250 < len(first) < 350
    assert hits(FaultRule("cut_after", probability=0.3, seed=7, count=5), 1_000) == first[:5]


def test_an_injection_without_effect_returns_to_its_rule() -> None:
    in_force = RuleInForce(FaultRule("cut_after"))
    assert in_force.decides_to_hit()
    injection = in_force.inject()
    assert not in_force.decides_to_hit()  # it is under way, and the count is one
    injection.release()
    assert in_force.decides_to_hit()
    assert (in_force.seen, in_force.hits) == (3, 0)


def test_an_injection_takes_effect_once() -> None:
    in_force = RuleInForce(FaultRule("cut_after"))
    injection = in_force.inject()
    assert [injection.take_effect(), injection.take_effect()] == [True, False]
    injection.release()
    assert (in_force.hits, in_force.is_used_up, in_force.decides_to_hit()) == (1, True, False)


@pytest.mark.parametrize(
    ("fields", "matches"),
    [
        ({}, True),
        ({"account": "global"}, True),
        ({"account": "japan"}, False),
        ({"customer": "cus_ada"}, True),
        ({"customer": "cus_eve"}, False),
        ({"card": "pm_1"}, True),
        ({"card": "fingerprint_1"}, True),
        ({"card": "pm_story_1"}, True),
        ({"card": "pm_2"}, False),
        ({"card": "pm_1", "customer": "cus_eve"}, False),
        ({"card": "pm_1", "customer": "cus_ada", "account": "global"}, True),
    ],
)
def test_a_rule_matches_if_all_its_fields_match(fields: Mapping[str, Any], matches: bool) -> None:
    assert RuleInForce(FaultRule("cut_after", **fields)).matches("global", ADA) is matches


REFUSED = [
    ({"kind": "cut_afer"}, "kind", "did you mean 'cut_after'"),
    ({"kind": None}, "kind", "There is no fault None"),
    ({}, "kind", "needs a kind"),
    ({"kind": "slow"}, "delay_ms", "slow needs a delay_ms above 0"),
    ({"kind": "webhook_delayed"}, "delay_ms", "needs a delay_ms above 0"),
    ({"kind": "cut_after", "delay_ms": 5}, "delay_ms", "delays nothing"),
    ({"kind": "slow", "delay_ms": float("nan")}, "delay_ms", "number of milliseconds"),
    ({"kind": "slow", "delay_ms": "5"}, "delay_ms", "is a number"),
    ({"kind": "card_declined", "operation": "create"}, "operation", "It fits confirm."),
    ({"kind": "list_lagging", "operation": "retrieve", "delay_ms": 1}, "operation", "It fits list."),
    ({"kind": "cut_after", "operation": "confrim"}, "operation", "did you mean 'confirm'"),
    ({"kind": "webhook_dropped", "operation": "confirm"}, "operation", "have no operation"),
    ({"kind": "cut_after", "skip": -1}, "skip", "0 or more"),
    ({"kind": "cut_after", "skip": True}, "skip", "a whole number"),
    ({"kind": "cut_after", "count": 0}, "count", "1 or more, or null"),
    ({"kind": "cut_after", "probability": 0}, "probability", "above 0 and at most 1"),
    ({"kind": "cut_after", "probability": 1.1}, "probability", "above 0 and at most 1"),
    ({"kind": "cut_after", "card": 7}, "card", "a text or null"),
    ({"kind": "cut_after", "should_retry": True}, "should_retry", "isn't an error of the API"),
    ({"kind": "unavailable", "should_retry": "yes"}, "should_retry", "true, false or null"),
    ({"kind": "cut_after", "acount": "global"}, "acount", "did you mean 'account'"),
    ("cut_after", "rules", "A rule is an object"),
]


@pytest.mark.parametrize(("given", "field", "words"), REFUSED)
def test_an_invalid_rule_is_refused_with_the_accepted_values(given: object, field: str, words: str) -> None:
    with pytest.raises(FaultRuleError, match=re.escape(words)) as refusal:
        rule_from_json(given)
    assert refusal.value.field == field


@pytest.mark.parametrize("kind", FAULT_NAMES)
def test_a_rule_of_every_kind_survives_json(kind: str) -> None:
    rule = FaultRule(kind, delay_ms=5.0 if FAULTS[kind].needs_delay else 0.0)
    assert rule_from_json(rule.to_json()) == rule
