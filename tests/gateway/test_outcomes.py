"""The outcome table is total; each pair that must never become a given outcome is tested."""

from itertools import product

import pytest

from shared.gateway.outcomes import OUTCOMES, Problem, Status, observed_outcome, status_of
from shared.gateway.port import Outcome, PaymentIntentSnapshot

PAIRS = list(product(Problem, Status))
LEAVES_IT_OPEN = {
    Problem.NO_ANSWER,
    Problem.UNREADABLE,
    Problem.SERVER_ERROR,
    Problem.KEY_IN_USE,
    Problem.KEY_MISUSED,
}
NEVER_ARRIVED = {Problem.NOT_CONNECTED, Problem.RATE_LIMITED, Problem.KEY_REFUSED, Problem.FORBIDDEN}
WAITS = {Status.REQUIRES_PAYMENT_METHOD, Status.REQUIRES_CONFIRMATION, Status.NOT_SHOWN}


def snapshot(status: str, charge: str | None = None) -> PaymentIntentSnapshot:
    return PaymentIntentSnapshot("pi_1", status, 500, 0, "USD", latest_charge_id=charge)


def test_table_has_a_row_for_every_pair() -> None:
    assert set(OUTCOMES) == set(PAIRS)


@pytest.mark.parametrize(("problem", "status"), PAIRS)
def test_success_requires_a_succeeded_status(problem: Problem, status: Status) -> None:
    assert (OUTCOMES[problem, status] is Outcome.SUCCEEDED) == (status is Status.SUCCEEDED)


@pytest.mark.parametrize(("problem", "status"), PAIRS)
def test_cancellation_requires_a_canceled_status(problem: Problem, status: Status) -> None:
    assert (OUTCOMES[problem, status] is Outcome.CANCELED) == (status is Status.CANCELED)


@pytest.mark.parametrize(("problem", "status"), PAIRS)
def test_decline_requires_a_card_error(problem: Problem, status: Status) -> None:
    if OUTCOMES[problem, status] is Outcome.DECLINED:
        assert problem is Problem.CARD or (problem, status) == (Problem.NONE, Status.REQUIRES_PAYMENT_METHOD)


@pytest.mark.parametrize(("problem", "status"), sorted(product(LEAVES_IT_OPEN, WAITS)))
def test_missing_answer_is_never_an_outcome(problem: Problem, status: Status) -> None:
    assert OUTCOMES[problem, status] is Outcome.UNKNOWN


@pytest.mark.parametrize(("problem", "status"), sorted(product(NEVER_ARRIVED, WAITS)))
def test_outage_is_never_a_decline(problem: Problem, status: Status) -> None:
    assert OUTCOMES[problem, status] is Outcome.NOT_SENT


@pytest.mark.parametrize("problem", Problem)
@pytest.mark.parametrize("status", [Status.PROCESSING, Status.REQUIRES_CAPTURE, Status.NEVER_SEEN])
def test_pending_status_stays_unknown(problem: Problem, status: Status) -> None:
    assert OUTCOMES[problem, status] is Outcome.UNKNOWN


def test_unknown_status_has_a_column() -> None:
    assert status_of(snapshot("requires_moon_phase")) is Status.NEVER_SEEN
    assert status_of(None) is Status.NOT_SHOWN


@pytest.mark.parametrize(
    ("status", "is_charge_new", "outcome"),
    [
        ("requires_payment_method", True, Outcome.DECLINED),
        ("requires_payment_method", False, Outcome.NOT_SENT),  # the decline of the previous attempt
        ("requires_confirmation", False, Outcome.NOT_SENT),
        ("succeeded", False, Outcome.SUCCEEDED),
        ("canceled", True, Outcome.CANCELED),
        ("processing", True, Outcome.UNKNOWN),
        ("requires_action", False, Outcome.AUTHENTICATION_NEEDED),
    ],
)
def test_observation_is_matched_to_its_attempt_by_charge(
    status: str, is_charge_new: bool, outcome: Outcome
) -> None:
    assert observed_outcome(snapshot(status, "ch_1"), is_charge_new=is_charge_new) is outcome
