"""Fault rules: their checks, and which requests and webhooks they hit. Pure: no store, no clock, no network.

Rules live in the simulator's memory: after a restart there are none. The first request rule that decides to hit
gets the request, in the order in which the rules were added. Each rule counts every request that fits it, also
those that another rule got, so that what a rule does depends only on its own seed.
"""

import difflib
import math
import random
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from simulator.faults.catalogue import FAULT_NAMES, FAULTS, OPERATIONS, FaultKind


class FaultRuleError(ValueError):
    """An invalid rule; the message names the field and what it accepts."""

    def __init__(self, field_name: str, message: str) -> None:
        super().__init__(message)
        self.field = field_name


@dataclass(frozen=True, slots=True)
class FaultRule:
    """One scripted fault. Raises FaultRuleError (a ValueError) if it is invalid.

    `account` is the account's name at the simulator (a coverage), `card` a fingerprint, `pm_story_…` token or
    PaymentMethod id. None matches anything. `delay_ms` is in milliseconds of machine time.
    """

    kind: str
    account: str | None = None
    card: str | None = None
    customer: str | None = None
    operation: str | None = None
    skip: int = 0
    count: int | None = 1
    probability: float = 1.0
    seed: int = 0
    delay_ms: float = 0.0
    should_retry: bool | None = None

    def __post_init__(self) -> None:
        for name, problem in _problems(self):
            raise FaultRuleError(name, problem)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def rule_from_json(given: object) -> FaultRule:
    """Read a rule from JSON. Raises FaultRuleError."""
    if not isinstance(given, Mapping):
        raise FaultRuleError("rules", f"A rule is an object with at least `kind`, not {given!r}.")
    names = [each.name for each in fields(FaultRule)]
    for name in given:
        if name not in names:
            raise FaultRuleError(str(name), f"A rule has no field {name!r}{_nearest(str(name), names)}.")
    if "kind" not in given:
        raise FaultRuleError("kind", f"A rule needs a kind: one of {', '.join(FAULT_NAMES)}.")
    return FaultRule(**given)


def _problems(rule: FaultRule) -> Iterable[tuple[str, str]]:
    fault = FAULTS.get(str(rule.kind))  # whatever came in as JSON
    if fault is None:
        known = f"{_nearest(str(rule.kind), FAULT_NAMES)}. Kinds: {', '.join(FAULT_NAMES)}."
        yield "kind", f"There is no fault {rule.kind!r}{known}"
        return
    yield from _wrong_types(rule)
    if rule.operation is not None:
        yield from _wrong_operation(rule, rule.operation, fault)
    if rule.skip < 0:
        yield "skip", f"skip is how many matching requests pass first: 0 or more, not {rule.skip}."
    if rule.count is not None and rule.count < 1:
        yield "count", f"count is how many requests are hit: 1 or more, or null for no end, not {rule.count}."
    if not 0 < rule.probability <= 1:
        yield "probability", f"probability is above 0 and at most 1, not {rule.probability}."
    if not (math.isfinite(rule.delay_ms) and rule.delay_ms >= 0):
        yield "delay_ms", f"delay_ms is a number of milliseconds, 0 or more, not {rule.delay_ms}."
    if fault.needs_delay and not rule.delay_ms:
        yield "delay_ms", f"{rule.kind} needs a delay_ms above 0: {fault.description}."
    if rule.delay_ms and not (fault.needs_delay or fault.may_delay):
        yield "delay_ms", f"{rule.kind} delays nothing, so delay_ms would be ignored: leave it out."
    if rule.should_retry is not None and not fault.may_advise:
        yield (
            "should_retry",
            f"{rule.kind} isn't an error of the API, so should_retry would be ignored: leave it out.",
        )


def _wrong_operation(rule: FaultRule, operation: str, fault: FaultKind) -> Iterable[tuple[str, str]]:
    if operation not in OPERATIONS:
        yield "operation", f"There is no operation {operation!r}{_nearest(operation, OPERATIONS)}."
    elif not fault.operations:
        yield "operation", f"{rule.kind} hits webhooks on their way, which have no operation: leave it out."
    elif operation not in fault.operations:
        fitting = ", ".join(each for each in OPERATIONS if each in fault.operations)
        yield "operation", f"{rule.kind} can't hit {operation}: {fault.description}. It fits {fitting}."


_TYPES: Mapping[str, tuple[tuple[type, ...], str]] = {
    **dict.fromkeys(("account", "card", "customer", "operation"), ((str, type(None)), "a text or null")),
    **dict.fromkeys(("skip", "seed"), ((int,), "a whole number")),
    "count": ((int, type(None)), "a whole number or null"),
    **dict.fromkeys(("probability", "delay_ms"), ((int, float), "a number")),
    "should_retry": ((bool, type(None)), "true, false or null"),
}


def _wrong_types(rule: FaultRule) -> Iterable[tuple[str, str]]:
    for name, (types, words) in _TYPES.items():
        value = getattr(rule, name)
        is_stray_bool = isinstance(value, bool) and bool not in types
        if is_stray_bool or not isinstance(value, types):
            yield name, f"{name} is {words}, not {value!r}."


def _nearest(given: str, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(given, list(known), n=1, cutoff=0.5)
    return f"; did you mean {found[0]!r}?" if found else ""


@dataclass(frozen=True, slots=True)
class Subject:
    """The customer and card of a request or a webhook. `cards` holds every name of its card."""

    customer: str | None = None
    cards: frozenset[str] = frozenset()


@dataclass(slots=True, eq=False)
class RuleInForce:
    """A rule and its counters. `seen` requests matched it; `hits` of them had its effect."""

    rule: FaultRule
    seen: int = 0
    hits: int = 0
    _taken: int = 0  # hits, and injections in progress
    _random: random.Random = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.rule.seed)  # noqa: S311  # a plan, not a secret

    @property
    def is_used_up(self) -> bool:
        return self.rule.count is not None and self.hits >= self.rule.count

    @property
    def needs_subject(self) -> bool:
        return self.rule.card is not None or self.rule.customer is not None

    def matches(self, account: str, subject: Subject | None) -> bool:
        """Whether the match fits; `subject` may be None if the rule names neither card nor customer."""
        rule = self.rule
        if rule.account is not None and rule.account != account:
            return False
        if not self.needs_subject:
            return True
        return (
            subject is not None
            and rule.customer in (None, subject.customer)
            and (rule.card is None or rule.card in subject.cards)
        )

    def decides_to_hit(self) -> bool:
        """Count a match, and return whether to hit it: after `skip`, within `count`, by `probability`."""
        self.seen += 1
        if self.seen <= self.rule.skip or (self.rule.count is not None and self._taken >= self.rule.count):
            return False
        return self.rule.probability >= 1 or self._random.random() < self.rule.probability

    def inject(self) -> "Injection":
        """Reserve a match. The injection must take effect or be released."""
        self._taken += 1
        return Injection(self)

    def count_hit(self) -> None:
        self.hits += 1

    def release(self) -> None:
        self._taken -= 1


@dataclass(slots=True)
class Injection:
    """One rule's fault in one request or webhook."""

    by: RuleInForce
    _is_closed: bool = False

    @property
    def rule(self) -> FaultRule:
        return self.by.rule

    def take_effect(self) -> bool:
        """Count it as a hit. Returns False if it was counted or released before."""
        if self._is_closed:
            return False
        self._is_closed = True
        self.by.count_hit()
        return True

    def release(self) -> None:
        """Give it back to its rule, which may hit once more instead, unless it has taken effect."""
        if not self._is_closed:
            self._is_closed = True
            self.by.release()
