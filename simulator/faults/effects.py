"""The faults at Place.ENDPOINT: each replaces what the endpoint does, in its transaction.

Each gets the request and the endpoint's function, and returns the answer and whether the fault had its effect. An
ApiError of the endpoint passes through: the endpoint refused, so there is no effect that a fault could hide.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from simulator.api import payment_intents
from simulator.api.call import Call
from simulator.api.errors import Answer
from simulator.api.views import payment_intent
from simulator.faults.answers import advised, refusal, unexpected_state
from simulator.faults.hooks import Arrival, Handle
from simulator.faults.rules import FaultRule
from simulator.store.records import PaymentIntent

Effect = Callable[[FaultRule, Arrival, Call, Handle], tuple[Any, bool]]


def _applied_500(rule: FaultRule, arrival: Arrival, call: Call, handle: Handle) -> tuple[Any, bool]:  # noqa: ARG001
    handle(call)
    return refusal(rule.kind, should_retry=rule.should_retry), True


def _unapplied_500(rule: FaultRule, arrival: Arrival, call: Call, handle: Handle) -> tuple[Any, bool]:  # noqa: ARG001
    return refusal(rule.kind, should_retry=rule.should_retry), True


def _unexpected_state(rule: FaultRule, arrival: Arrival, call: Call, handle: Handle) -> tuple[Any, bool]:
    found = call.store.get(PaymentIntent, call.account, call.ids[0])
    if found is None:
        return handle(call), False
    return advised(unexpected_state(arrival.operation, payment_intent(found)), rule.should_retry), True


def _declined(rule: FaultRule, arrival: Arrival, call: Call, handle: Handle) -> tuple[Any, bool]:  # noqa: ARG001
    """The endpoint makes its usual checks; then the issuer declines, whatever the card would have answered."""
    answer = handle(replace(call, forced_decline="generic_decline"))
    return answer, isinstance(answer, Answer) and answer.status == 402


def _canceled_by_limit(rule: FaultRule, arrival: Arrival, call: Call, handle: Handle) -> tuple[Any, bool]:  # noqa: ARG001
    found = call.store.get(PaymentIntent, call.account, call.ids[0])
    if found is None or found.status not in payment_intents.CONFIRMABLE:
        return handle(call), False
    return payment_intents.cancel_at_limit(call, found), True


def _lagging(rule: FaultRule, arrival: Arrival, call: Call, handle: Handle) -> tuple[Any, bool]:  # noqa: ARG001
    until_ns = time.time_ns() - int(rule.delay_ms * 1e6)
    shown = handle(replace(call, lists_until_ns=until_ns))
    return shown, shown != handle(call)


EFFECTS: Mapping[str, Effect] = {
    "server_error": _applied_500,
    "server_error_unapplied": _unapplied_500,
    "unexpected_state": _unexpected_state,
    "card_declined": _declined,
    "canceled_by_limit": _canceled_by_limit,
    "list_lagging": _lagging,
}
