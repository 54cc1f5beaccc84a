"""A customer registers a card: what it pays, what it leaves, and how often."""

from datetime import date
from pathlib import Path

from simulator.issuer.stories import AlwaysDeclines
from tests.diaries.conftest import OpenDiary
from tests.diaries.diary import Diary
from tests.importing.desk import Desk
from tests.seed import default_policy


def test_new_card_pays_three_unpaid_invoices_of_its_coverage_only(
    open_diary: OpenDiary,
) -> None:
    diary = open_diary(date(2027, 1, 3), default_policy())
    anna, anna_in_japan = diary.account("A-1"), diary.account("A-1", "japan")
    diary.register_card(anna_in_japan, story=AlwaysDeclines(decline_code="expired_card"))
    months = ("2026-10", "2026-11", "2026-12")
    for month in months:
        diary.fee(anna, 29_85, month)
        diary.fee(anna_in_japan, 3_000, month)
    for month in months:
        diary.run_invoices_by_operator(month, "global")
        diary.run_invoices_by_operator(month, "japan")

    diary.day(2)
    owed = [diary.payment(anna, month) for month in months]
    owed_in_japan = [diary.payment(anna_in_japan, month) for month in months]
    assert {diary.state(payment) for payment in owed + owed_in_japan} == {"needs_payment_method"}
    assert diary.world.standing(anna) == "past_due"

    diary.register_card(anna)
    assert [diary.money(payment) for payment in owed] == [[("2027-01-04 12:00", 29_85)]] * 3
    charges = [diary.world.attempts(payment)[0] for payment in owed]
    assert {(attempt.lane, attempt.requested_by) for attempt in charges} == {("interactive", "customer")}

    diary.day(4)
    assert {diary.state(payment) for payment in owed_in_japan} == {"needs_payment_method"}
    assert len(diary.charges("japan")) == 3, "the card there was not charged again"
    assert diary.world.simulator.ledger("japan") == []
    assert len(diary.world.simulator.ledger("global")) == 3
    assert diary.world.standing(anna) == "past_due", "Japan is still unpaid"


def test_five_events_of_one_registration_charge_each_payment_once(diary: Diary) -> None:
    anna = diary.account("A-1")
    diary.fee(anna, 29_85)
    diary.register_card(anna, story=AlwaysDeclines(decline_code="expired_card"))
    diary.day(2)
    payment = diary.payment(anna)

    new = diary.register_card(anna, "pm_card_mastercard")
    for number in range(2):
        diary.tell("global", f"evt_again_{number}", "setup_intent.succeeded", new.setup_intent)
    diary.work()
    for number in range(2):  # and the same two, sent again
        diary.tell("global", f"evt_again_{number}", "setup_intent.succeeded", new.setup_intent)
    diary.work()

    diary.day(4)
    assert diary.attempts(payment) == [("11-01 00:00", "declined"), ("11-02 12:00", "succeeded")]
    assert diary.money(payment) == [("2026-11-02 12:00", 29_85)]
    assert diary.settings(anna).card_revision == 2


def test_five_events_of_a_declining_card_charge_it_once(diary: Diary) -> None:
    anna = diary.account("A-1")
    diary.fee(anna, 29_85)
    diary.day(2)
    payment = diary.payment(anna)

    new = diary.register_card(anna, story=AlwaysDeclines(decline_code="insufficient_funds"))
    for number in range(4):
        diary.tell("global", f"evt_again_{number}", "setup_intent.succeeded", new.setup_intent)
        diary.work()

    assert diary.attempts(payment) == [("11-02 12:00", "declined")]
    assert len(diary.charges()) == 1


def test_added_second_card_does_not_become_primary(diary: Diary) -> None:
    anna = diary.account("A-1")
    diary.fee(anna, 29_85)
    first = diary.register_card(anna, story=AlwaysDeclines(decline_code="insufficient_funds"))
    diary.day(1)
    payment = diary.payment(anna)

    diary.register_card(anna, "pm_card_mastercard", intent="add")
    assert diary.settings(anna).card_revision == 1
    assert diary.attempts(payment) == [("11-01 00:00", "declined")], "it causes no charge"

    diary.day(3)
    assert {attempt.stripe_payment_method_id for attempt in diary.world.attempts(payment)} == {first.payment_method}
    assert diary.money(payment) == []


def test_trial_switched_to_a_card_pays_its_kept_fees_with_the_next_month(diary: Diary, tmp_path: Path) -> None:
    anna = diary.account("A-1", kind="trial")
    diary.fee(anna, 10_00, "2026-10")
    diary.day(1)
    (october,) = diary.runs("monthly-invoices")
    assert (october.counts["invoices"], october.counts["skipped"]) == (0, {"trial": 1})

    diary.day(10)
    desk = Desk(diary.world.engine, diary.database_url, tmp_path)
    customer = diary.world.customer_id(anna)
    told = desk.accounts(f"account,name,coverage,payment_method,stripe_customer\nA-1,Anna,global,card,{customer}\n")
    assert told.code == 0, told.errors
    diary.register_card(anna)
    diary.fee(anna, 20_00, "2026-11")

    diary.advance_to("2026-12-01 12:00")
    assert diary.lines(anna, "2026-11") == [10_00, 20_00]
    assert diary.money(diary.payment(anna, "2026-11")) == [("2026-12-01 00:00", 30_00)]
