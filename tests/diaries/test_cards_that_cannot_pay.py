"""Declines that no retry can fix: the customer must act, no charge is sent meanwhile, and the reason is shown."""

from shared.domain.states import SettingsKind
from shared.explain.explanation import SkippedAttempt
from simulator.issuer.stories import AlwaysDeclines, NeedsAuthentication
from tests.diaries.diary import Diary


def test_expired_card_waits_for_a_new_one_which_pays_at_once(diary: Diary) -> None:
    anna = diary.account("A-1")
    diary.fee(anna, 29_85)
    diary.register_card(anna, story=AlwaysDeclines(decline_code="expired_card"))

    diary.day(1)
    payment = diary.payment(anna)
    row = diary.world.payment(payment)
    assert (row.state, row.waiting_for_revision_after) == ("needs_payment_method", 1)

    diary.day(5)
    assert diary.attempts(payment) == [("11-01 00:00", "declined")]
    assert len(diary.charges()) == 1
    (why,) = diary.skipped_charges(payment)
    assert why == row.state_reason
    assert "until the customer updates or replaces the card" in row.state_reason
    assert "register" in diary.explain(payment).next_step.sentence

    diary.register_card(anna)
    assert diary.state(payment) == "paid"
    assert diary.attempts(payment)[1:] == [("11-05 12:00", "succeeded")]
    paid = diary.world.attempts(payment)[-1]
    assert (paid.lane, paid.trigger) == ("interactive", "card_registered")
    assert diary.standings(anna) == [("11-01", "past_due"), ("11-05", "good")]

    diary.day(8)
    assert diary.money(payment) == [("2026-11-05 12:00", 29_85)]


def test_stolen_card_registered_again_is_not_charged_and_another_pays(diary: Diary) -> None:
    anna = diary.account("A-1")
    diary.fee(anna, 29_85)
    stolen = diary.world.simulator.make_card("global", AlwaysDeclines(decline_code="stolen_card"))
    first = diary.register_card(anna, stolen.token)

    diary.day(1)
    payment = diary.payment(anna)
    assert diary.attempts(payment) == [("11-01 00:00", "declined")]

    diary.day(3)
    again = diary.register_card(anna, stolen.token)
    assert again.payment_method != first.payment_method
    assert again.fingerprint == first.fingerprint
    diary.day(6)
    assert diary.state(payment) == "needs_payment_method"
    assert len(diary.charges()) == 1, "one charge reached the issuer"
    told = [entry.reason for entry in diary.explain(payment).timeline if isinstance(entry, SkippedAttempt)]
    assert any("the card network forbids charging this card again" in reason for reason in told)

    diary.register_card(anna)
    assert diary.money(payment) == [("2026-11-06 12:00", 29_85)]
    assert len(diary.charges()) == 2


def test_authentication_stops_retries_until_a_new_card_pays(diary: Diary) -> None:
    anna = diary.account("A-1")
    diary.fee(anna, 29_85)
    diary.register_card(anna, story=NeedsAuthentication())

    diary.day(9)
    payment = diary.payment(anna)
    assert diary.attempts(payment) == [("11-01 00:00", "authentication_needed")]
    row = diary.world.payment(payment)
    assert (row.state, row.decline_count) == ("needs_authentication", 0), "no decline"
    assert len(diary.skipped_charges(payment)) == 1

    diary.register_card(anna)
    assert diary.attempts(payment)[1:] == [("11-09 12:00", "succeeded")]
    assert diary.money(payment) == [("2026-11-09 12:00", 29_85)]
    assert diary.world.standing(anna) == "good"


def test_fourteen_days_without_a_card_mark_the_account(diary: Diary) -> None:
    anna = diary.account("A-1")
    diary.fee(anna, 29_85)

    diary.day(1)
    payment = diary.payment(anna)
    assert diary.state(payment) == "needs_payment_method"
    assert diary.world.standing(anna) == "good", "due today, not yet past it"
    diary.day(14)
    assert diary.world.standing(anna) == "past_due"
    diary.day(15)
    assert diary.standings(anna) == [("11-02", "past_due"), ("11-15", "marked_for_suspension")]
    assert diary.billing_events("standing_changed", anna)[-1].reason == "14 days past due"
    assert diary.attempts(payment) == []
    assert diary.skipped_charges(payment) == ["no card is registered"]
    assert diary.requests("payment_intents") == 0

    diary.register_card(anna)
    assert diary.money(payment) == [("2026-11-15 12:00", 29_85)]
    assert diary.world.standing(anna) == "good"


def test_missing_bank_transfer_marks_the_account_fourteen_days_after_its_due_date(diary: Diary) -> None:
    bert = diary.account("B-1", kind=SettingsKind.BANK_TRANSFER)
    diary.fee(bert, 29_85)

    diary.day(1)
    payment = diary.payment(bert)
    assert diary.state(payment) == "awaiting_transfer"
    assert str(diary.world.payment(payment).due_on) == "2026-12-01"
    diary.day(31)
    assert diary.standings(bert) == [], "a transfer has thirty days"
    diary.day(44)
    assert diary.standings(bert) == [("12-02", "past_due")]
    diary.day(45)
    assert diary.standings(bert) == [("12-02", "past_due"), ("12-15", "marked_for_suspension")]
    assert diary.requests("payment_intents") == 0
