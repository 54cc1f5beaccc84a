"""Scripted faults: the rules in force, and what each kind does to a request or a webhook.

Every simulator calls these hooks (simulator/faults/scripted_answers.py). Without rules each hook is one test and
the call of the hook behind it. Everything here is in memory: a simulator that is started again has no rules.
A strike counts only when it had its effect; one that can't have it, such as a person who cancels what is
already paid, is given back to its rule.
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
from simulator.faults.effects import INSIDE
from simulator.faults.rules import FAULT_KINDS, FAULTS, FaultRule, RuleInForce, Strike, Subject
from simulator.faults.scripted_answers import (
    STRAIGHT,
    Arrival,
    CutConnection,
    Delivery,
    Detour,
    Faults,
    Handle,
    NoFaults,
    Spoiled,
    Way,
)
from simulator.faults.subjects import subject_of_event, subject_of_request
from simulator.store.records import Event

#: A webhook that nothing overtakes goes after this, so that a quiet month forgets none.
HOLD_S = 10.0
#: Longest that an answer waits for its webhooks; an endpoint that is away doesn't hold the processor.
TAKEN_WITHIN_S = 5.0
TAKEN_POLL_S = 0.005

BEFORE_ANSWER = "webhook_before_answer"

_DETOURS = {
    "webhook_dropped": Detour.DROP,
    "webhook_duplicated": Detour.TWICE,
    "webhook_delayed": Detour.DELAY,
    "webhook_reordered": Detour.HOLD,
}


class ScriptedFaults:
    """The rules of one simulator. `beside` are faults that a test brought; they are asked first."""

    def __init__(self, processor: Processor, clock: BusinessTime, beside: Faults | None = None) -> None:
        self._processor = processor
        self._clock = clock
        self._beside = beside or NoFaults()
        self._rules: list[RuleInForce] = []
        self._on_operation: dict[str, list[RuleInForce]] = {}
        self._on_webhooks: list[RuleInForce] = []
        self._strikes: dict[str, list[Strike]] = {}
        self._mail: dict[str, tuple[int, int]] = {}
        self._counts: Counter[str] = Counter()

    # -- the rules

    def add(self, rules: Sequence[FaultRule]) -> None:
        """Put rules behind those in force."""
        for rule in rules:
            in_force = RuleInForce(rule)
            self._rules.append(in_force)
            if rule.kind in _DETOURS:
                self._on_webhooks.append(in_force)
            for operation in (rule.operation,) if rule.operation else FAULTS[rule.kind].operations:
                self._on_operation.setdefault(operation, []).append(in_force)

    def clear(self) -> int:
        """Take all rules away; what they struck stays struck. Returns how many there were."""
        cleared = len(self._rules)
        self._rules, self._on_operation, self._on_webhooks = [], {}, []
        return cleared

    @property
    def rules(self) -> Sequence[RuleInForce]:
        """All since the last clear, also those that have used up their count."""
        return self._rules

    def counts(self) -> dict[str, int]:
        """Faults that had their effect since the start, by kind."""
        return {kind: self._counts[kind] for kind in FAULT_KINDS}

    def _landed(self, strike: Strike) -> None:
        if not strike.land():
            return
        self._counts[strike.rule.kind] += 1
        if strike.by.is_used_up:  # no longer asked: a plan of thousands of rules stays cheap
            for asked in (*self._on_operation.values(), self._on_webhooks):
                if strike.by in asked:
                    asked.remove(strike.by)

    # -- requests

    async def before_apply(self, arrival: Arrival) -> Answer | None:
        instead = await self._beside.before_apply(arrival)
        if instead is not None or not self._on_operation:
            return instead
        strikes = self._strikes_on(arrival)
        if strikes:
            self._strikes[arrival.request_id] = strikes
        for strike in strikes:
            if (answer := await self._at_arrival(arrival, strike)) is not None:
                return answer
        return None

    def _strikes_on(self, arrival: Arrival) -> list[Strike]:
        """Ask every rule, since each counts; the first that strikes has the request, another may have its mail."""
        on_mail: RuleInForce | None = None
        on_request: RuleInForce | None = None
        subject: Subject | None = None
        for each in self._on_operation.get(arrival.operation, ()):
            if not _fits(each.rule, arrival):
                continue
            if each.is_about_somebody and subject is None:
                subject = subject_of_request(self._processor.store, arrival)
            if not each.matches(arrival.account, subject) or not each.wants():
                continue
            if each.rule.kind == BEFORE_ANSWER:
                on_mail = on_mail or each
            else:
                on_request = on_request or each
        return [each.strike() for each in (on_mail, on_request) if each is not None]

    async def _at_arrival(self, arrival: Arrival, strike: Strike) -> Answer | None:
        rule = strike.rule
        if rule.kind in REFUSALS and rule.kind not in INSIDE:
            self._landed(strike)
            return refusal(rule.kind, key=arrival.idempotency_key, should_retry=rule.should_retry)
        if rule.kind == "slow_before":
            self._landed(strike)
            await asyncio.sleep(rule.delay_ms / 1000)
        elif rule.kind == "cut_before":
            self._landed(strike)
            raise CutConnection
        elif rule.kind == "canceled_by_person":
            await self._cancel_by_hand(arrival, strike)
        return None

    async def _cancel_by_hand(self, arrival: Arrival, strike: Strike) -> None:
        """A person's cancellation is a change of its own: what becomes of the request doesn't undo it."""
        now = await self._clock.now()
        by_hand = {"cancellation_reason": "requested_by_customer"}
        call = Call(self._processor, arrival.account, now, by_hand, arrival.ids)
        try:
            with call.store.transaction():
                payment_intents.cancel_payment_intent(call)
        except ApiError:
            return  # nothing to cancel: it is final, or it isn't there
        self._processor.outbox.ring()
        self._landed(strike)

    def apply(self, arrival: Arrival, call: Call, handle: Handle) -> Any:
        strikes = self._strikes.get(arrival.request_id) if self._strikes else None
        if not strikes:
            return self._beside.apply(arrival, call, handle)
        first = self._last_mail()
        answer = self._struck(strikes, arrival, call, lambda asked: self._beside.apply(arrival, asked, handle))
        self._mail[arrival.request_id] = (first, self._last_mail())
        return answer

    def _struck(self, strikes: list[Strike], arrival: Arrival, call: Call, handle: Handle) -> Any:
        for strike in strikes:
            if effect := INSIDE.get(strike.rule.kind):
                answer, has_landed = effect(strike.rule, arrival, call, handle)
                if has_landed:
                    self._landed(strike)
                return answer
        return handle(call)

    def _last_mail(self) -> int:
        row = self._processor.store.db.execute(
            "SELECT seq FROM sqlite_sequence WHERE name = 'deliveries'"
        ).fetchone()
        return int(row[0]) if row else 0

    def before_commit(self, arrival: Arrival, answer: Answer) -> Answer:
        return self._beside.before_commit(arrival, answer)

    async def before_answer(self, arrival: Arrival, answer: Answer) -> Answer | Spoiled:
        told = await self._beside.before_answer(arrival, answer)
        for strike in self._strikes.get(arrival.request_id, ()) if self._strikes else ():
            if isinstance(told, Spoiled):
                break
            told = await self._at_answer(arrival, told, strike)
        return told

    async def _at_answer(self, arrival: Arrival, answer: Answer, strike: Strike) -> Answer | Spoiled:
        match strike.rule.kind:
            case "webhook_before_answer":
                if await self._mail_is_taken(arrival):
                    self._landed(strike)
            case "slow":
                self._landed(strike)
                await asyncio.sleep(strike.rule.delay_ms / 1000)
            case "cut_after":
                self._landed(strike)
                raise CutConnection
            case "cut_mid_body":
                self._landed(strike)
                return Spoiled(answer, is_cut=True)
            case "not_json":
                self._landed(strike)
                return Spoiled(answer, HTML)
        return answer

    async def _mail_is_taken(self, arrival: Arrival) -> bool:
        """Wait until every webhook that this request caused was taken; False if there is none, or it takes long."""
        first, last = self._mail.get(arrival.request_id, (0, 0))
        deadline = time.monotonic() + TAKEN_WITHIN_S
        pending = "SELECT 1 FROM deliveries WHERE seq > ? AND seq <= ? LIMIT 1"
        while self._processor.store.db.execute(pending, (first, last)).fetchone():
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(TAKEN_POLL_S)
        return last > first

    def finished(self, arrival: Arrival) -> None:
        self._beside.finished(arrival)
        if self._strikes:
            self._mail.pop(arrival.request_id, None)
            for strike in self._strikes.pop(arrival.request_id, ()):
                strike.give_back_unless_landed()

    # -- webhooks

    def way_of(self, delivery: Delivery, account: str, event: Event) -> Way:
        way = self._beside.way_of(delivery, account, event)
        if way is not STRAIGHT or not self._on_webhooks:
            return way
        subject: Subject | None = None
        struck: RuleInForce | None = None
        for each in self._on_webhooks:
            if each.is_about_somebody and subject is None:
                subject = subject_of_event(self._processor.store, event)
            if each.matches(account, subject) and each.wants():
                struck = struck or each
        if struck is None:
            return STRAIGHT
        strike = struck.strike()
        delay_s = strike.rule.delay_ms / 1000
        if strike.rule.kind == "webhook_reordered":
            delay_s = delay_s or HOLD_S
        landed = partial(self._landed, strike)
        return Way(_DETOURS[strike.rule.kind], delay_s, landed, strike.give_back_unless_landed)

    async def before_delivery(self, delivery: Delivery) -> bool:
        return await self._beside.before_delivery(delivery)


def _fits(rule: FaultRule, arrival: Arrival) -> bool:
    """Whether the kind makes sense for this request of a fitting operation."""
    fault = FAULTS[rule.kind]
    if fault.is_inside and arrival.is_replay:
        return False
    return not fault.needs_key or (arrival.method == "POST" and arrival.idempotency_key is not None)
