"""When an account is past due, marked for suspension, and good again."""

from datetime import date, timedelta

import pytest

from shared.domain.dunning import DunningPolicy, UnpaidPayment, decide_standing
from shared.domain.states import Standing

TODAY = date(2026, 11, 20)
POLICY = DunningPolicy()


def unpaid(declines: int = 0, days_past_due: int = 0) -> UnpaidPayment:
    return UnpaidPayment("p", declines, TODAY - timedelta(days=days_past_due))


@pytest.mark.parametrize(
    ("current", "payments", "standing"),
    [
        (Standing.GOOD, [], Standing.GOOD),
        (Standing.GOOD, [unpaid()], Standing.GOOD),
        (Standing.GOOD, [unpaid(days_past_due=-5)], Standing.GOOD),
        (Standing.GOOD, [unpaid(declines=1)], Standing.PAST_DUE),
        (Standing.GOOD, [unpaid(days_past_due=1)], Standing.PAST_DUE),
        (Standing.PAST_DUE, [unpaid(declines=6, days_past_due=13)], Standing.PAST_DUE),
        (Standing.PAST_DUE, [unpaid(declines=7)], Standing.MARKED_FOR_SUSPENSION),
        (Standing.GOOD, [unpaid(days_past_due=14)], Standing.MARKED_FOR_SUSPENSION),
        (Standing.PAST_DUE, [unpaid(declines=4), unpaid(declines=3)], Standing.PAST_DUE),
        (Standing.MARKED_FOR_SUSPENSION, [unpaid(declines=1)], Standing.MARKED_FOR_SUSPENSION),
        (Standing.MARKED_FOR_SUSPENSION, [unpaid()], Standing.GOOD),
        (Standing.MARKED_FOR_SUSPENSION, [], Standing.GOOD),
    ],
)
def test_standing(current: Standing, payments: list[UnpaidPayment], standing: Standing) -> None:
    assert decide_standing(current, payments, POLICY, TODAY).standing is standing


def test_a_decision_says_why_and_which_payment() -> None:
    decision = decide_standing(Standing.PAST_DUE, [UnpaidPayment("p7", 7, TODAY)], POLICY, TODAY)
    assert (decision.reason, decision.payment_id) == ("7 declines of one payment", "p7")
