"""Cards that decline for a while: retried each morning, within limits, and paid once."""

import re
import tomllib
from datetime import date, datetime, timedelta
from io import StringIO
from pathlib import Path

from rich.console import Console

from cli.payment_text import print_explanation
from shared.explain.explanation import OtherEvent, SkippedAttempt
from shared.policy import parse_policy
from simulator.issuer.stories import AlwaysDeclines, DeclinesThenPays, InsufficientFundsUntil
from tests.diaries.conftest import OpenDiary
from tests.diaries.diary import Diary


def test_card_without_funds_declines_twice_and_pays_on_day_three(diary: Diary) -> None:
    anna = diary.account("A-1")
    diary.fee(anna, 29_85)
    diary.register_card(anna, story=InsufficientFundsUntil(date=date(2026, 11, 3)))

    diary.day(1)
    payment = diary.payment(anna)
    assert diary.state(payment) == "retry_scheduled"
    assert diary.world.standing(anna) == "past_due"
    assert diary.money(payment) == []

    diary.day(2, "08:59")
    assert len(diary.attempts(payment)) == 1
    diary.day(2)
    assert diary.state(payment) == "retry_scheduled"

    diary.day(3)
    assert diary.attempts(payment) == [
        ("11-01 00:00", "declined"),
        ("11-02 09:00", "declined"),
        ("11-03 09:00", "succeeded"),
    ]
    assert diary.state(payment) == "paid"
    assert diary.standings(anna) == [("11-01", "past_due"), ("11-03", "good")]
    assert diary.money(payment) == [("2026-11-03 09:00", 29_85)]
    assert [kind for kind, _ in diary.world.billing_events(payment) if kind != "stripe_event_applied"] == [
        "invoice_issued",
        *("attempt_started", "attempt_answered", "payment_moved", "standing_changed"),
        *("payment_moved", "attempt_started", "attempt_answered", "payment_moved"),
        *("payment_moved", "attempt_started", "attempt_answered", "payment_moved", "standing_changed"),
    ]

    diary.day(5)
    assert diary.charges() == [
        datetime.fromisoformat(f"{moment}+00:00")
        for moment in ("2026-11-01 00:00", "2026-11-02 09:00", "2026-11-03 09:00")
    ]


def test_ten_declines_cancel_the_payment_intent_and_its_successor_is_paid_on_day_twelve(diary: Diary) -> None:
    anna = diary.account("A-1")
    diary.fee(anna, 29_85)
    diary.register_card(anna, story=InsufficientFundsUntil(date=date(2026, 11, 12)))

    diary.day(10)
    payment = diary.payment(anna)
    assert [outcome for _, outcome in diary.attempts(payment)] == ["declined"] * 10
    assert [intent.ordinal for intent in diary.world.intents(payment)] == [1]

    diary.day(11)
    assert diary.attempts(payment)[10:] == [("11-11 09:00", "canceled"), ("11-11 09:00", "declined")]

    diary.day(12)
    assert diary.attempts(payment)[12:] == [("11-12 09:00", "succeeded")]
    first, second = diary.world.intents(payment)
    assert (first.ordinal, first.closed_reason, first.cancellation_reason) == (1, "canceled", "automatic")
    assert (second.ordinal, second.closed_reason) == (2, "succeeded")
    (line,) = diary.world.simulator.ledger()
    assert (line.payment_intent, line.amount) == (second.stripe_payment_intent_id, 29_85)

    diary.day(15)
    assert diary.money(payment) == [("2026-11-12 09:00", 29_85)]


def test_seven_declines_mark_the_account_and_a_later_payment_unmarks_it(diary: Diary) -> None:
    anna = diary.account("A-1")
    diary.fee(anna, 29_85)
    diary.register_card(anna, story=DeclinesThenPays(times=8, decline_code="insufficient_funds"))

    diary.day(6)
    assert diary.world.standing(anna) == "past_due"
    diary.day(7)
    assert diary.world.standing(anna) == "marked_for_suspension"
    payment = diary.payment(anna)
    assert diary.world.payment(payment).decline_count == 7

    diary.day(8)
    assert len(diary.attempts(payment)) == 8, "retries go on"
    assert diary.state(payment) == "retry_scheduled"

    diary.day(9)
    assert diary.standings(anna) == [("11-01", "past_due"), ("11-07", "marked_for_suspension"), ("11-09", "good")]
    marked, unmarked = diary.billing_events("standing_changed", anna)[1:]
    assert marked.reason == "7 declines of one payment"
    assert unmarked.before == {"standing": "marked_for_suspension"}
    assert diary.money(payment) == [("2026-11-09 09:00", 29_85)]


def test_shipped_alternative_retries_daily_for_seven_days_then_every_third(open_diary: OpenDiary) -> None:
    text = Path("billing.toml").read_text("utf-8")
    assert "# slower = " in text
    policy = parse_policy(tomllib.loads(text.replace("# slower = ", "slower = ")), "billing.toml")
    diary = open_diary(date(2026, 11, 1), policy)
    anna = diary.account("A-1")
    diary.fee(anna, 29_85)
    diary.register_card(anna, story=AlwaysDeclines(decline_code="insufficient_funds"))
    diary.day(30)
    days = [f"{moment:%m-%d}" for moment in diary.charges()]
    assert days == [
        *(f"11-0{day}" for day in range(1, 8)), *(f"11-{day}" for day in range(10, 31, 3))
    ], "14 of the 20 tries that Visa allows"  # fmt: skip


def test_declining_visa_card_is_charged_twenty_times_in_thirty_days(diary: Diary) -> None:
    anna = diary.account("A-1")
    diary.fee(anna, 29_85)
    diary.register_card(anna, story=AlwaysDeclines(decline_code="insufficient_funds"))

    diary.day(19)
    payment = diary.payment(anna)
    sentence = diary.explain(payment).next_step.sentence
    assert sentence.startswith("At 2026-11-20 09:00 UTC visa ending in")
    assert sentence.endswith("The card network allows 1 more declined try with this card.")
    diary.day(20)
    sentence = diary.explain(payment).next_step.sentence
    assert sentence.startswith("At 2026-12-01 00:00 UTC visa ending in"), (
        "planned for tomorrow, forbidden until then"
    )
    assert sentence.endswith("The card network allows no try before 2026-12-01 00:00 UTC.")

    diary.day(21)
    row = diary.world.payment(payment)
    assert (row.state, row.decline_count) == ("retry_scheduled", 20)
    assert row.attempt_count == 21, "one confirm reached no issuer: Stripe canceled its PaymentIntent instead"
    assert row.next_attempt_at == datetime.fromisoformat("2026-12-01 00:00+00:00"), "30 days after the first"
    told = [entry for entry in diary.explain(payment).timeline if isinstance(entry, SkippedAttempt)]
    assert [(entry.reason, entry.next_attempt_at) for entry in told] == [
        ("visa: 20 declines in 30 days, the network allows 20", row.next_attempt_at)
    ]
    assert "2026-12-01 00:00 UTC" in diary.explain(payment).next_step.sentence

    diary.day(34)
    asked_at = [attempt.started_at for attempt in diary.world.attempts(payment)]
    declined_at = diary.charges()
    assert len(declined_at) > 20, "retried once the window allows it"
    assert len(declined_at) == len(asked_at) - len([1 for _, it in diary.attempts(payment) if it == "canceled"])
    for first, last in zip(declined_at, declined_at[20:], strict=False):
        assert last - first >= timedelta(days=30)
    assert diary.world.simulator.ledger() == []


def test_story_of_a_declining_card_is_told_without_internal_words(diary: Diary) -> None:
    anna, bert = diary.account("A-1"), diary.account("B-1")
    for account in (anna, bert):
        diary.fee(account, 29_85)
    diary.register_card(anna, story=AlwaysDeclines(decline_code="expired_card"))
    diary.register_card(bert, story=InsufficientFundsUntil(date=date(2026, 11, 4)))
    diary.day(4)

    for account in (anna, bert):
        told = StringIO()
        print_explanation(Console(file=told, width=200), diary.explain(diary.payment(account)))
        assert not re.search(r"revision|\blane\b|\bqueue\b|own answer|own request|_soon|_daily", told.getvalue())
    assert "Attempt 1 → declined" in told.getvalue()


def test_each_event_of_stripe_names_its_attempt(diary: Diary) -> None:
    anna = diary.account("A-1")
    diary.fee(anna, 29_85)
    diary.register_card(anna, story=InsufficientFundsUntil(date=date(2026, 11, 3)))
    diary.day(4)
    explained = diary.explain(diary.payment(anna))
    assert [
        (entry.attempt_number, entry.data["type"])
        for entry in explained.timeline
        if isinstance(entry, OtherEvent) and entry.type == "stripe_event_applied"
    ] == [
        (1, "payment_intent.payment_failed"),
        (2, "payment_intent.payment_failed"),
        (3, "payment_intent.succeeded"),
    ]
    told = StringIO()
    print_explanation(Console(file=told, width=200), explained)
    assert "Stripe event payment_intent.payment_failed about attempt 2: nothing new" in told.getvalue()
