"""Which faults can be scripted, and when a rule strikes. Pure: no store, no clock, no network.

A rule lives in the memory of one simulator: one that is started again has none. A request is taken by the first
REQUEST rule that strikes, in the order in which the rules were added; each rule counts the requests that fit it
whether or not another one took them, so that what a rule does depends on its own seed and on nothing beside it.
"""

import difflib
import math
import random
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

#: What a rule can aim at. The first four are about PaymentIntents; `list` is any list; `other` is all the rest.
OPERATIONS = ("create", "confirm", "cancel", "retrieve", "list", "other")

_ANY = frozenset(OPERATIONS)
_WRITES = frozenset({"create", "confirm", "cancel", "other"})
_NONE: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Fault:
    """What there is to know of a kind. `operations`: what it fits; empty for a webhook on its way.

    `is_inside`: it takes the place of what the endpoint does, so a saved answer that is replayed can't have it.
    `needs_key`: it is about an idempotency key, so it fits requests that carry one.
    """

    text: str
    operations: frozenset[str] = _ANY
    is_inside: bool = False
    needs_key: bool = False
    needs_delay: bool = False
    may_delay: bool = False
    may_advise: bool = False  # the answer may carry Stripe-Should-Retry


_REQUEST_FAULTS: dict[str, Fault] = {
    "idempotency_error": Fault(
        "400: the key was used with other parameters", _WRITES, needs_key=True, may_advise=True
    ),
    "unexpected_state": Fault(
        "400 payment_intent_unexpected_state with the PaymentIntent; nothing applied, saved under its key",
        frozenset({"confirm", "cancel"}),
        is_inside=True,
        may_advise=True,
    ),
    "unauthorized": Fault("401: the key is refused", may_advise=True),
    "card_declined": Fault("402: a real decline by the issuer", frozenset({"confirm"}), is_inside=True),
    "forbidden": Fault("403: the key may not do this", may_advise=True),
    "key_in_use": Fault(
        "409: another request with this key is under way", _WRITES, needs_key=True, may_advise=True
    ),
    "rate_limited": Fault("429 with Stripe-Rate-Limited-Reason; nothing applied, not saved", may_advise=True),
    "lock_timeout": Fault("429 lock_timeout: the object is in use; not applied, not saved", may_advise=True),
    "server_error": Fault("500, applied, and saved under its key", is_inside=True, may_advise=True),
    "server_error_unapplied": Fault("500, not applied, but saved under its key", is_inside=True, may_advise=True),
    "unavailable": Fault("503: nothing applied, not saved", may_advise=True),
    "slow": Fault("applied at once, answered after delay_ms", needs_delay=True),
    "slow_before": Fault("applied after delay_ms", needs_delay=True),
    "cut_before": Fault("the connection is cut, nothing was applied"),
    "cut_after": Fault("applied, then the connection is cut"),
    "cut_mid_body": Fault("applied, then the connection is cut in the middle of the body"),
    "not_json": Fault("applied, the answer's body is HTML"),
    "list_lagging": Fault(
        "a list omits what was made in the last delay_ms (machine time)",
        frozenset({"list"}),
        is_inside=True,
        needs_delay=True,
    ),
    "canceled_by_limit": Fault(
        "answered as when the confirmation limit is met", frozenset({"confirm"}), is_inside=True
    ),
    "canceled_by_person": Fault(
        "canceled in Stripe's dashboard (requested_by_customer) right before the request is applied",
        frozenset({"confirm", "cancel", "retrieve"}),
        is_inside=True,
    ),
}

_WEBHOOK_FAULTS: dict[str, Fault] = {
    "webhook_dropped": Fault("never arrives", _NONE),
    "webhook_duplicated": Fault("sent twice, the second delay_ms later", _NONE, may_delay=True),
    "webhook_delayed": Fault("sent after delay_ms", _NONE, needs_delay=True),
    "webhook_reordered": Fault(
        "held until a later one was taken, at most delay_ms (10 s if not given)", _NONE, may_delay=True
    ),
    "webhook_before_answer": Fault("taken before the request that caused it is answered", _WRITES, is_inside=True),
}

FAULTS: Mapping[str, Fault] = {**_REQUEST_FAULTS, **_WEBHOOK_FAULTS}
REQUEST_FAULTS = tuple(_REQUEST_FAULTS)
WEBHOOK_FAULTS = tuple(_WEBHOOK_FAULTS)
FAULT_KINDS = (*REQUEST_FAULTS, *WEBHOOK_FAULTS)


class FaultRuleError(ValueError):
    """A rule that can't be meant; says which field, and what would do."""

    def __init__(self, field_name: str, message: str) -> None:
        super().__init__(message)
        self.field = field_name


@dataclass(frozen=True, slots=True)
class FaultRule:
    """One scripted fault. Raises FaultRuleError (a ValueError) for a rule that can't be meant.

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
    """Read a rule; FaultRuleError says what is wrong with it."""
    if not isinstance(given, Mapping):
        raise FaultRuleError("rules", f"A rule is an object with at least `kind`, not {given!r}.")
    names = [each.name for each in fields(FaultRule)]
    for name in given:
        if name not in names:
            raise FaultRuleError(str(name), f"A rule has no field {name!r}{_nearest(str(name), names)}.")
    if "kind" not in given:
        raise FaultRuleError("kind", f"A rule needs a kind: one of {', '.join(FAULT_KINDS)}.")
    return FaultRule(**given)


def _problems(rule: FaultRule) -> Iterable[tuple[str, str]]:
    fault = FAULTS.get(str(rule.kind))  # whatever came in as JSON
    if fault is None:
        known = f"{_nearest(str(rule.kind), FAULT_KINDS)}. Kinds: {', '.join(FAULT_KINDS)}."
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
        yield "delay_ms", f"{rule.kind} needs a delay_ms above 0: {fault.text}."
    if rule.delay_ms and not (fault.needs_delay or fault.may_delay):
        yield "delay_ms", f"{rule.kind} delays nothing, so delay_ms would be ignored: leave it out."
    if rule.should_retry is not None and not fault.may_advise:
        yield (
            "should_retry",
            f"{rule.kind} isn't an error of the API, so should_retry would be ignored: leave it out.",
        )


def _wrong_operation(rule: FaultRule, operation: str, fault: Fault) -> Iterable[tuple[str, str]]:
    if operation not in OPERATIONS:
        yield "operation", f"There is no operation {operation!r}{_nearest(operation, OPERATIONS)}."
    elif not fault.operations:
        yield "operation", f"{rule.kind} hits webhooks on their way, which have no operation: leave it out."
    elif operation not in fault.operations:
        fitting = ", ".join(each for each in OPERATIONS if each in fault.operations)
        yield "operation", f"{rule.kind} can't hit {operation}: {fault.text}. It fits {fitting}."


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
    """What a request or a webhook is about, as far as rules can ask. `cards`: every name its card goes by."""

    customer: str | None = None
    cards: frozenset[str] = _NONE


@dataclass(slots=True, eq=False)
class RuleInForce:
    """A rule with what it has seen and done. `hits` are those that had their effect."""

    rule: FaultRule
    seen: int = 0
    hits: int = 0
    _taken: int = 0  # hits, and strikes under way
    _random: random.Random = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.rule.seed)  # noqa: S311  # a plan, not a secret

    @property
    def is_used_up(self) -> bool:
        return self.rule.count is not None and self.hits >= self.rule.count

    @property
    def is_about_somebody(self) -> bool:
        return self.rule.card is not None or self.rule.customer is not None

    def matches(self, account: str, subject: Subject | None) -> bool:
        """Whether account, customer and card fit; `subject` may be None for a rule that asks for neither."""
        rule = self.rule
        if rule.account is not None and rule.account != account:
            return False
        if not self.is_about_somebody:
            return True
        return (
            subject is not None
            and rule.customer in (None, subject.customer)
            and (rule.card is None or rule.card in subject.cards)
        )

    def wants(self) -> bool:
        """Count a match, and say whether it is to be hit: past those that pass, within the count, and drawn."""
        self.seen += 1
        if self.seen <= self.rule.skip or (self.rule.count is not None and self._taken >= self.rule.count):
            return False
        return self.rule.probability >= 1 or self._random.random() < self.rule.probability

    def strike(self) -> "Strike":
        """Claim a match. The claim must land or be given back."""
        self._taken += 1
        return Strike(self)

    def note_landed(self) -> None:
        self.hits += 1

    def take_back(self) -> None:
        self._taken -= 1


@dataclass(slots=True)
class Strike:
    """One rule's claim on one request or webhook."""

    by: RuleInForce
    _is_settled: bool = False

    @property
    def rule(self) -> FaultRule:
        return self.by.rule

    def land(self) -> bool:
        """It had its effect. False if that was said before."""
        if self._is_settled:
            return False
        self._is_settled = True
        self.by.note_landed()
        return True

    def give_back_unless_landed(self) -> None:
        """It can't have its effect any more: the rule may strike once more instead."""
        if not self._is_settled:
            self._is_settled = True
            self.by.take_back()
