"""Several unpaid months of one card: automatic charges try it once a business day, the oldest invoice first."""

from datetime import date, datetime
from uuid import UUID

import pytest
from sqlalchemy import update

from shared.db.tables.payments import payments
from shared.domain.calendar import UNTIL_RELEASED
from shared.domain.states import Trigger
from simulator.issuer.stories import AlwaysDeclines, InsufficientFundsUntil, Story
from tests.diaries.conftest import OpenDiary
from tests.diaries.diary import Diary
from tests.seed import Account, default_policy

MONTHS = ("2026-10", "2026-11", "2026-12")


def owing(open_diary: OpenDiary, story: Story, *amounts: int) -> tuple[Diary, Account, list[UUID]]:
    """A company on 2 January 2027 whose one customer owes three months, issued in the order of the months."""
    diary = open_diary(date(2027, 1, 3), default_policy())
    anna = diary.account("A-1")
    diary.register_card(anna, story=story)
    for month, amount in zip(MONTHS, amounts, strict=True):
        diary.fee(anna, amount, month)
    for month in MONTHS:
        diary.run_invoices_by_operator(month, "global")
    return diary, anna, [diary.payment(anna, month) for month in MONTHS]


def tried(diary: Diary, months: list[UUID]) -> list[list[str]]:
    """The days on which each payment was charged, by the processor's requests that our attempts name."""
    return [[moment[:5] for moment, _ in diary.attempts(payment)] for payment in months]


def test_declining_card_is_tried_once_a_day_for_three_open_months(open_diary: OpenDiary) -> None:
    diary, anna, months = owing(open_diary, AlwaysDeclines(decline_code="do_not_honor"), 30_00, 20_00, 10_00)
    assert tried(diary, months) == [["01-02"], [], []]
    declined = "the card was declined today for the invoice of 2026-10 (do_not_honor)"
    reason = f"{declined}: automatic charges try a card once a day"
    for waiting in months[1:]:
        assert diary.skipped_charges(waiting) == [reason]
        assert diary.state(waiting) == "retry_scheduled"
        assert diary.explain(waiting).next_step.sentence.startswith("At 2027-01-03 09:00 UTC visa ending in")
        assert reason in diary.explain(waiting).next_step.sentence

    diary.day(3)
    days = ["01-02", "01-03", "01-04", "01-05"]
    assert tried(diary, months) == [days, [], []], "the oldest first, each day"
    assert [f"{moment:%m-%d}" for moment in diary.charges()] == days
    assert diary.world.simulator.ledger() == []
    assert diary.world.payment(months[1]).decline_count == 0, "a day of waiting is no decline"

    diary.day(8)
    assert diary.world.standing(anna) == "marked_for_suspension", "the oldest leads to the mark"


def test_card_that_works_again_pays_all_months_on_one_day_in_their_order(open_diary: OpenDiary) -> None:
    story = InsufficientFundsUntil(date=date(2027, 1, 5))
    diary, anna, months = owing(open_diary, story, 10_00, 20_00, 30_00)
    diary.day(3)
    assert [diary.state(payment) for payment in months] == ["paid"] * 3
    captured = [line.metadata["duecourse_payment_id"] for line in diary.world.simulator.ledger()]
    assert captured == [str(payment) for payment in months], "each once, oldest first"
    assert [money for payment in months for money in diary.money(payment)] == [
        ("2027-01-05 09:00", 10_00), ("2027-01-05 09:00", 20_00), ("2027-01-05 09:00", 30_00)
    ]  # fmt: skip
    assert diary.world.standing(anna) == "good"


@pytest.mark.parametrize(
    ("amounts", "first_day"),
    [
        pytest.param((30_00, 20_00, 10_00), [1, 1, 1], id="each-smaller"),
        pytest.param((20_00, 30_00, 20_00), [1, 0, 0], id="none-smaller"),
        pytest.param((20_00, 30_00, 10_00), [1, 0, 1], id="the-last-is-smaller"),
    ],
)
def test_after_insufficient_funds_only_a_smaller_amount_is_tried_that_day(
    open_diary: OpenDiary, amounts: tuple[int, ...], first_day: list[int]
) -> None:
    diary, _, months = owing(open_diary, AlwaysDeclines(decline_code="insufficient_funds"), *amounts)
    assert [len(days) for days in tried(diary, months)] == first_day
    assert len(diary.charges()) == sum(first_day)
    diary.day(1)
    assert [len(days) for days in tried(diary, months)] == [2 * times for times in first_day]


def test_what_the_customer_starts_tries_each_month(open_diary: OpenDiary) -> None:
    declining = AlwaysDeclines(decline_code="do_not_honor")
    diary, anna, months = owing(open_diary, declining, 30_00, 20_00, 10_00)
    diary.register_card(anna, story=declining)
    charges = [diary.world.attempts(payment)[-1] for payment in months]
    assert [attempt.trigger for attempt in charges] == [Trigger.CARD_REGISTERED] * 3
    assert len(diary.charges()) == 4
    diary.day(1)
    assert len(diary.charges()) == 5, "from the next day on once a day again"


@pytest.mark.parametrize("stop", [{"held_until": UNTIL_RELEASED}, {"backoff_until": UNTIL_RELEASED}], ids=str)
def test_stopped_older_invoice_does_not_keep_the_others_waiting(
    open_diary: OpenDiary, stop: dict[str, datetime]
) -> None:
    story = InsufficientFundsUntil(date=date(2027, 1, 3))
    diary, _, (oldest, *others) = owing(open_diary, story, 10_00, 20_00, 30_00)
    with diary.world.engine.begin() as connection:
        connection.execute(update(payments).where(payments.c.id == oldest).values(**stop))
    diary.day(1)
    assert [diary.state(payment) for payment in others] == ["paid", "paid"]
    assert diary.money(oldest) == []
