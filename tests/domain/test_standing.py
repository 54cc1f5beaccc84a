"""When an account is past due, marked for suspension, and in good standing again."""

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
def test_standing_follows_declines_and_days_past_due(
    current: Standing, payments: list[UnpaidPayment], standing: Standing
) -> None:
    assert decide_standing(current, payments, POLICY, TODAY).standing is standing


@pytest.mark.parametrize(
    ("current", "payments", "expected"),
    [
        (Standing.PAST_DUE, [], (Standing.GOOD, "nothing overdue is unpaid", None)),
        (
            Standing.PAST_DUE,
            [UnpaidPayment("p7", 7, TODAY)],
            (Standing.MARKED_FOR_SUSPENSION, "7 declines of one payment", "p7"),
        ),
        (
            Standing.GOOD,
            [UnpaidPayment("new", 0, TODAY), UnpaidPayment("old", 0, TODAY - timedelta(days=15))],
            (Standing.MARKED_FOR_SUSPENSION, "15 days past due", "old"),
        ),
        (
            Standing.MARKED_FOR_SUSPENSION,
            [UnpaidPayment("new", 0, TODAY), UnpaidPayment("declined", 1, TODAY)],
            (Standing.MARKED_FOR_SUSPENSION, "still has unpaid payments", "declined"),
        ),
        (
            Standing.GOOD,
            [UnpaidPayment("new", 0, TODAY), UnpaidPayment("late", 0, TODAY - timedelta(days=1))],
            (Standing.PAST_DUE, "has a declined or overdue payment", "late"),
        ),
    ],
)
def test_decision_names_its_reason_and_payment(
    current: Standing, payments: list[UnpaidPayment], expected: tuple[Standing, str, str | None]
) -> None:
    decision = decide_standing(current, payments, POLICY, TODAY)
    assert (decision.standing, decision.reason, decision.payment_id) == expected


@pytest.mark.parametrize(
    ("payments", "expected"),
    [
        ([unpaid(declines=7)], (Standing.PAST_DUE, "has a declined or overdue payment", "p")),
        ([unpaid(days_past_due=14)], (Standing.PAST_DUE, "has a declined or overdue payment", "p")),
        ([unpaid()], (Standing.GOOD, "nothing overdue is unpaid", None)),
    ],
)
def test_account_spared_by_an_operator_is_not_marked(
    payments: list[UnpaidPayment], expected: tuple[Standing, str, str | None]
) -> None:
    decision = decide_standing(Standing.PAST_DUE, payments, POLICY, TODAY, is_spared=True)
    assert (decision.standing, decision.reason, decision.payment_id) == expected


def test_days_past_due_count_leap_days() -> None:
    due = [UnpaidPayment("p", 0, date(2028, 2, 16))]
    assert decide_standing(Standing.GOOD, due, POLICY, date(2028, 2, 29)).standing is Standing.PAST_DUE  # day 13
    marked = decide_standing(Standing.GOOD, due, POLICY, date(2028, 3, 1))
    assert (marked.standing, marked.reason) == (Standing.MARKED_FOR_SUSPENSION, "14 days past due")


def test_limits_come_from_the_policy() -> None:
    strict = DunningPolicy(mark_after_declines=2, mark_after_days_past_due=3)
    for payments, standing in (
        ([unpaid(declines=1, days_past_due=2)], Standing.PAST_DUE),
        ([unpaid(declines=2)], Standing.MARKED_FOR_SUSPENSION),
        ([unpaid(days_past_due=3)], Standing.MARKED_FOR_SUSPENSION),
    ):
        assert decide_standing(Standing.GOOD, payments, strict, TODAY).standing is standing


def test_default_limits_are_seven_declines_or_fourteen_days() -> None:
    assert (POLICY.mark_after_declines, POLICY.mark_after_days_past_due) == (7, 14)
