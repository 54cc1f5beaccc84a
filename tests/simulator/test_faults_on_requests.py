"""Every request fault, seen through our gateway: the outcome, the ledger, and the replay under the same key."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from shared.clock import machine_now
from shared.gateway.port import GatewayUnavailableError, Outcome
from simulator.client import SimulatorClient
from simulator.faults.catalogue import FAULTS, REQUEST_FAULTS
from simulator.faults.rules import FaultRule
from tests.simulator.conftest import sdk
from tests.simulator.gateway import Payment, counting, new_payment, parameters

SUCCEEDED, DECLINED, CANCELED = Outcome.SUCCEEDED, Outcome.DECLINED, Outcome.CANCELED
NOT_SENT, UNKNOWN = Outcome.NOT_SENT, Outcome.UNKNOWN


@dataclass(frozen=True)
class Expected:
    """The outcome of a confirm, whether the money moved, and the answer to the same key after the fault."""

    outcome: Outcome
    http_status: int | None
    is_captured: bool
    again: Outcome
    is_replayed: bool
    is_captured_again: bool
    rule: dict[str, Any] = field(default_factory=dict)


def unapplied(outcome: Outcome, http_status: int | None) -> Expected:
    """Not applied and not saved: the same key then charges."""
    return Expected(outcome, http_status, False, SUCCEEDED, False, True)


def applied(outcome: Outcome, http_status: int | None) -> Expected:
    """The money moved and only the answer was lost: the same key replays it."""
    return Expected(outcome, http_status, True, SUCCEEDED, True, True)


CONFIRMS: dict[str, Expected] = {
    "idempotency_error": unapplied(UNKNOWN, 400),
    "unexpected_state": Expected(NOT_SENT, 400, False, NOT_SENT, True, False),
    "unauthorized": unapplied(NOT_SENT, 401),
    "card_declined": Expected(DECLINED, 402, False, DECLINED, True, False),
    "forbidden": unapplied(NOT_SENT, 403),
    "key_in_use": unapplied(UNKNOWN, 409),
    "rate_limited": unapplied(NOT_SENT, 429),
    "lock_timeout": unapplied(NOT_SENT, 429),
    "server_error": Expected(UNKNOWN, 500, True, UNKNOWN, True, True),
    "server_error_unapplied": Expected(UNKNOWN, 500, False, UNKNOWN, True, False),
    "unavailable": unapplied(UNKNOWN, 503),
    "slow": Expected(SUCCEEDED, 200, True, SUCCEEDED, True, True, {"delay_ms": 30.0}),
    "slow_before": Expected(SUCCEEDED, 200, True, SUCCEEDED, True, True, {"delay_ms": 30.0}),
    "cut_before": unapplied(UNKNOWN, None),
    "cut_after": applied(UNKNOWN, None),
    "cut_mid_body": applied(UNKNOWN, None),
    "not_json": applied(UNKNOWN, 200),
    "canceled_by_limit": Expected(CANCELED, 400, False, CANCELED, True, False),
    "canceled_by_person": Expected(CANCELED, 400, False, CANCELED, True, False),
}


def test_every_fault_that_fits_a_confirm_is_in_the_table() -> None:
    assert set(CONFIRMS) == {kind for kind in REQUEST_FAULTS if "confirm" in FAULTS[kind].operations}
    assert set(REQUEST_FAULTS) - set(CONFIRMS) == {"list_lagging"}


@pytest.mark.parametrize("kind", CONFIRMS)
def test_a_confirm_under_a_fault_has_the_outcome_of_the_table(faulty: SimulatorClient, kind: str) -> None:
    expected, payment = CONFIRMS[kind], new_payment(faulty)
    payment.script_fault(kind, operation="confirm", **expected.rule)
    with counting(faulty, kind):
        answer = payment.confirm()
    assert (answer.outcome, answer.http_status) == (expected.outcome, expected.http_status)
    assert payment.captured() == [500] * expected.is_captured

    again = payment.confirm()
    assert again.outcome is expected.again
    assert faulty.requests(path_contains=payment.intent)[-1].is_replay is expected.is_replayed
    assert payment.captured() == [500] * expected.is_captured_again
    without_money = "canceled" if expected.outcome is CANCELED else "requires_payment_method"
    assert payment.status() == ("succeeded" if expected.is_captured_again else without_money)


#: The outcome of a create under a fault, and whether a PaymentIntent was created.
CREATES: dict[str, tuple[Outcome, bool]] = {
    "idempotency_error": (UNKNOWN, False),
    "unauthorized": (NOT_SENT, False),
    "forbidden": (NOT_SENT, False),
    "key_in_use": (UNKNOWN, False),
    "rate_limited": (NOT_SENT, False),
    "lock_timeout": (NOT_SENT, False),
    "server_error": (UNKNOWN, True),
    "server_error_unapplied": (UNKNOWN, False),
    "unavailable": (UNKNOWN, False),
    "cut_before": (UNKNOWN, False),
    "cut_after": (UNKNOWN, True),
    "cut_mid_body": (UNKNOWN, True),
    "not_json": (UNKNOWN, True),
}


@pytest.mark.parametrize("kind", CREATES)
def test_a_create_under_a_fault_moves_no_money_and_may_leave_an_orphan(faulty: SimulatorClient, kind: str) -> None:
    (outcome, is_made), payment = CREATES[kind], new_payment(faulty)
    payment.script_fault(kind, operation="create")
    with counting(faulty, kind):
        answer = payment.gateway.create_payment_intent(parameters(payment.card.customer), str(uuid4()))
    assert (answer.outcome, answer.payment_intent) == (outcome, None)
    assert made(faulty, payment) == 1 + is_made
    assert payment.captured() == []


def made(sim: SimulatorClient, payment: Payment) -> int:
    return len(sdk(sim, payment.account).v1.payment_intents.list({"customer": payment.card.customer}).data)


#: The outcome of a cancel under a fault, and the PaymentIntent's status after it.
CANCELS: dict[str, tuple[Outcome, str]] = {
    "unexpected_state": (NOT_SENT, "requires_payment_method"),
    "server_error": (UNKNOWN, "canceled"),
    "server_error_unapplied": (UNKNOWN, "requires_payment_method"),
    "cut_before": (UNKNOWN, "requires_payment_method"),
    "cut_after": (UNKNOWN, "canceled"),
    "cut_mid_body": (UNKNOWN, "canceled"),
    "not_json": (UNKNOWN, "canceled"),
    "canceled_by_person": (CANCELED, "canceled"),
    "lock_timeout": (NOT_SENT, "requires_payment_method"),
}


@pytest.mark.parametrize("kind", CANCELS)
def test_a_cancel_under_a_fault_has_the_outcome_of_the_table(faulty: SimulatorClient, kind: str) -> None:
    (outcome, status), payment = CANCELS[kind], new_payment(faulty)
    payment.script_fault(kind, operation="cancel")
    with counting(faulty, kind):
        assert payment.cancel().outcome is outcome
    assert payment.status() == status


READS = tuple(
    kind
    for kind in REQUEST_FAULTS
    if "retrieve" in FAULTS[kind].operations and kind not in ("slow", "slow_before", "canceled_by_person")
)


@pytest.mark.parametrize("kind", READS)
def test_a_retrieve_under_a_fault_shows_nothing(faulty: SimulatorClient, kind: str) -> None:
    payment = new_payment(faulty)
    payment.confirm()
    payment.script_fault(kind, operation="retrieve")
    with counting(faulty, kind):
        answer = payment.retrieve()
    assert answer.payment_intent is None
    assert answer.outcome in (UNKNOWN, NOT_SENT)
    assert payment.status() == "succeeded"


@pytest.mark.parametrize("kind", READS)
def test_a_list_under_a_fault_is_unavailable_never_empty(faulty: SimulatorClient, kind: str) -> None:
    payment, now = new_payment(faulty, account="japan"), machine_now()
    payment.confirm()
    faulty.add_faults([FaultRule(kind, account="japan", operation="list")])
    with counting(faulty, kind), pytest.raises(GatewayUnavailableError):
        list(payment.gateway.list_charges(now - timedelta(hours=1), now + timedelta(hours=1)))
