"""Scripted faults: the rules in force, and what each kind does to a request or a webhook.

Every simulator calls these hooks (simulator/faults/hooks.py). Without rules a hook costs one check and the call of
the test's own hook. Everything is in memory: after a restart there are no rules.
An injection counts only if it had its effect. One that can't have it (cancel a PaymentIntent that is already paid)
is released, and its rule may hit again.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

from simulator.api import payment_intents
from simulator.api.call import Call, Processor
from simulator.api.errors import Answer, ApiError
from simulator.business_time import BusinessTime
from simulator.faults.answers import HTML, REFUSALS, refusal
from simulator.faults.catalogue import FAULT_NAMES, FAULTS, Place
from simulator.faults.effects import EFFECTS
from simulator.faults.hooks import (
    NORMAL_DELIVERY,
    Arrival,
    CutConnection,
    DamagedAnswer,
    Delivery,
    DeliveryFault,
    DeliveryPlan,
    FaultHooks,
    Handle,
    NoFaults,
)
from simulator.faults.rules import FaultRule, Injection, RuleInForce, Subject
from simulator.faults.subjects import subject_of_event, subject_of_request
from simulator.store.records import Event

#: A held webhook that nothing overtakes is sent after this, so that none is forgotten when little happens.
HOLD_S = 10.0
#: An answer waits at most this long for its webhooks: an endpoint that is down doesn't block the processor.
TAKEN_WITHIN_S = 5.0
TAKEN_POLL_S = 0.005

BEFORE_ANSWER = "webhook_before_answer"

DELIVERY_FAULTS = {
    "webhook_dropped": DeliveryFault.DROP,
    "webhook_duplicated": DeliveryFault.TWICE,
    "webhook_delayed": DeliveryFault.DELAY,
    "webhook_reordered": DeliveryFault.HOLD,
}


class ScriptedFaults:
    """The rules of one simulator. `custom` are the hooks of a test; they are called first."""

    def __init__(self, processor: Processor, clock: BusinessTime, custom: FaultHooks | None = None) -> None:
        self._processor = processor
        self._clock = clock
        self._custom = custom or NoFaults()
        self._rules: list[RuleInForce] = []
        self._on_operation: dict[str, list[RuleInForce]] = {}
        self._on_webhooks: list[RuleInForce] = []
        self._injections: dict[str, list[Injection]] = {}
        self._deliveries: dict[str, tuple[int, int]] = {}
        self._counts: Counter[str] = Counter()

    # -- the rules

    def add(self, rules: Sequence[FaultRule]) -> None:
        """Append rules to those in force."""
        for rule in rules:
            in_force = RuleInForce(rule)
            self._rules.append(in_force)
            if rule.kind in DELIVERY_FAULTS:
                self._on_webhooks.append(in_force)
            for operation in (rule.operation,) if rule.operation else FAULTS[rule.kind].operations:
                self._on_operation.setdefault(operation, []).append(in_force)

    def clear(self) -> int:
        """Remove all rules; running injections go on. Returns how many there were."""
        cleared = len(self._rules)
        self._rules, self._on_operation, self._on_webhooks = [], {}, []
        return cleared

    @property
    def rules(self) -> Sequence[RuleInForce]:
        """All rules since the last clear, also those that have used up their count."""
        return self._rules

    def counts(self) -> dict[str, int]:
        """Faults that had their effect since the start, by kind."""
        return {kind: self._counts[kind] for kind in FAULT_NAMES}

    def _took_effect(self, injection: Injection) -> None:
        if not injection.take_effect():
            return
        self._counts[injection.rule.kind] += 1
        if injection.by.is_used_up:  # drop it: a plan of thousands of rules stays cheap
            for rules in (*self._on_operation.values(), self._on_webhooks):
                if injection.by in rules:
                    rules.remove(injection.by)

    # -- requests

    async def before_apply(self, arrival: Arrival) -> Answer | None:
        instead = await self._custom.before_apply(arrival)
        if instead is not None or not self._on_operation:
            return instead
        injections = self._injections_for(arrival)
        if injections:
            self._injections[arrival.request_id] = injections
        for injection in injections:
            if (answer := await self._at_arrival(arrival, injection)) is not None:
                return answer
        return None

    def _injections_for(self, arrival: Arrival) -> list[Injection]:
        """Ask every rule, since each counts. The first to hit gets the request; another may get its webhooks."""
        on_webhooks: RuleInForce | None = None
        on_request: RuleInForce | None = None
        subject: Subject | None = None
        for each in self._on_operation.get(arrival.operation, ()):
            if not _fits(each.rule, arrival):
                continue
            if each.needs_subject and subject is None:
                subject = subject_of_request(self._processor.store, arrival)
            if not each.matches(arrival.account, subject) or not each.decides_to_hit():
                continue
            if each.rule.kind == BEFORE_ANSWER:
                on_webhooks = on_webhooks or each
            else:
                on_request = on_request or each
        return [each.inject() for each in (on_webhooks, on_request) if each is not None]

    async def _at_arrival(self, arrival: Arrival, injection: Injection) -> Answer | None:
        rule = injection.rule
        if rule.kind in REFUSALS and FAULTS[rule.kind].place is Place.ARRIVAL:
            self._took_effect(injection)
            return refusal(rule.kind, key=arrival.idempotency_key, should_retry=rule.should_retry)
        if rule.kind == "slow_before":
            self._took_effect(injection)
            await asyncio.sleep(rule.delay_ms / 1000)
        elif rule.kind == "cut_before":
            self._took_effect(injection)
            raise CutConnection
        elif rule.kind == "canceled_by_person":
            await self._cancel_in_dashboard(arrival, injection)
        return None

    async def _cancel_in_dashboard(self, arrival: Arrival, injection: Injection) -> None:
        """Commit the cancellation by itself: the outcome of the request doesn't undo it."""
        now = await self._clock.now()
        by_user = {"cancellation_reason": "requested_by_customer"}
        call = Call(self._processor, arrival.account, now, by_user, arrival.ids)
        try:
            with call.store.transaction():
                payment_intents.cancel_payment_intent(call)
        except ApiError:
            return  # nothing to cancel: final or unknown
        self._processor.outbox.wake_senders()
        self._took_effect(injection)

    def apply(self, arrival: Arrival, call: Call, handle: Handle) -> Any:
        injections = self._injections.get(arrival.request_id) if self._injections else None
        if not injections:
            return self._custom.apply(arrival, call, handle)
        first = self._last_delivery()
        answer = self._apply_injections(
            injections, arrival, call, lambda changed: self._custom.apply(arrival, changed, handle)
        )
        self._deliveries[arrival.request_id] = (first, self._last_delivery())
        return answer

    def _apply_injections(self, injections: list[Injection], arrival: Arrival, call: Call, handle: Handle) -> Any:
        for injection in injections:
            if effect := EFFECTS.get(injection.rule.kind):
                answer, had_effect = effect(injection.rule, arrival, call, handle)
                if had_effect:
                    self._took_effect(injection)
                return answer
        return handle(call)

    def _last_delivery(self) -> int:
        row = self._processor.store.db.execute(
            "SELECT seq FROM sqlite_sequence WHERE name = 'deliveries'"
        ).fetchone()
        return int(row[0]) if row else 0

    def before_commit(self, arrival: Arrival, answer: Answer) -> Answer:
        return self._custom.before_commit(arrival, answer)

    async def before_answer(self, arrival: Arrival, answer: Answer) -> Answer | DamagedAnswer:
        answered = await self._custom.before_answer(arrival, answer)
        for injection in self._injections.get(arrival.request_id, ()) if self._injections else ():
            if isinstance(answered, DamagedAnswer):
                break
            answered = await self._at_answer(arrival, answered, injection)
        return answered

    async def _at_answer(self, arrival: Arrival, answer: Answer, injection: Injection) -> Answer | DamagedAnswer:
        match injection.rule.kind:
            case "webhook_before_answer":
                if await self._webhooks_are_taken(arrival):
                    self._took_effect(injection)
            case "slow":
                self._took_effect(injection)
                await asyncio.sleep(injection.rule.delay_ms / 1000)
            case "cut_after":
                self._took_effect(injection)
                raise CutConnection
            case "cut_mid_body":
                self._took_effect(injection)
                return DamagedAnswer(answer, is_cut=True)
            case "not_json":
                self._took_effect(injection)
                return DamagedAnswer(answer, HTML)
        return answer

    async def _webhooks_are_taken(self, arrival: Arrival) -> bool:
        """Wait until every webhook of this request was taken; False if there is none, or it takes too long."""
        first, last = self._deliveries.get(arrival.request_id, (0, 0))
        deadline = time.monotonic() + TAKEN_WITHIN_S
        pending = "SELECT 1 FROM deliveries WHERE seq > ? AND seq <= ? LIMIT 1"
        while self._processor.store.db.execute(pending, (first, last)).fetchone():
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(TAKEN_POLL_S)
        return last > first

    def finished(self, arrival: Arrival) -> None:
        self._custom.finished(arrival)
        if self._injections:
            self._deliveries.pop(arrival.request_id, None)
            for injection in self._injections.pop(arrival.request_id, ()):
                injection.release()

    # -- webhooks

    def plan_delivery(self, delivery: Delivery, account: str, event: Event) -> DeliveryPlan:
        plan = self._custom.plan_delivery(delivery, account, event)
        if plan is not NORMAL_DELIVERY or not self._on_webhooks:
            return plan
        subject: Subject | None = None
        hitting: RuleInForce | None = None
        for each in self._on_webhooks:
            if each.needs_subject and subject is None:
                subject = subject_of_event(self._processor.store, event)
            if each.matches(account, subject) and each.decides_to_hit():
                hitting = hitting or each
        if hitting is None:
            return NORMAL_DELIVERY
        injection = hitting.inject()
        delay_s = injection.rule.delay_ms / 1000
        if injection.rule.kind == "webhook_reordered":
            delay_s = delay_s or HOLD_S
        on_effect = partial(self._took_effect, injection)
        return DeliveryPlan(DELIVERY_FAULTS[injection.rule.kind], delay_s, on_effect, injection.release)

    async def before_delivery(self, delivery: Delivery) -> bool:
        return await self._custom.before_delivery(delivery)


def _fits(rule: FaultRule, arrival: Arrival) -> bool:
    """Whether the kind fits this request, whose operation fits."""
    fault = FAULTS[rule.kind]
    if fault.skips_replays and arrival.is_replay:
        return False
    return not fault.needs_key or (arrival.method == "POST" and arrival.idempotency_key is not None)
