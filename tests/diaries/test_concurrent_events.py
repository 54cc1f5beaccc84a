"""Concurrent events and events out of order: each payment is paid once, and nothing is lost."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from shared.messaging.jobs import ApplyStripeEvent, GenerateInvoices
from simulator.issuer.stories import AlwaysDeclines
from tests.diaries.diary import Diary
from tests.diaries.gates import Gate
from tests.invoicing.month_start import stopping_at, wait_for_waiter
from tests.seed import Account


def four_who_owe(diary: Diary) -> list[Account]:
    """Accounts without a card, in the order in which month start comes to them."""
    accounts = sorted((diary.account(f"A-{number}") for number in range(4)), key=lambda account: account.id)
    for account in accounts:
        diary.fee(account, 29_85)
    return accounts


def october(diary: Diary) -> GenerateInvoices:
    """It is midnight: the run exists, and no worker has started it."""
    diary.sleep_until("2026-11-01 00:00")
    (job,) = diary.tick()
    assert isinstance(job, GenerateInvoices)
    return job


@pytest.mark.parametrize(
    ("place", "lane"), [(0, "interactive"), (1, "interactive"), (2, "batch"), (3, "batch")], ids=str
)
def test_card_registered_between_two_chunks_of_month_start_pays_once(diary: Diary, place: int, lane: str) -> None:
    accounts = four_who_owe(diary)
    anna = accounts[place]
    run = october(diary)
    diary.one_chunk(run.run_id)
    diary.one_chunk(run.run_id)
    assert [row.state for row in diary.runs("monthly-invoices")] == ["running"]
    assert diary.billing_events("invoice_issued", accounts[1]), "two chunks are done"
    assert not diary.billing_events("invoice_issued", accounts[2])

    diary.world.register_card(anna)
    diary.wait_for_webhooks()
    for job in diary.due_jobs():
        if isinstance(job, ApplyStripeEvent):
            diary.do(job)
    diary.work()

    payment = diary.payment(anna)
    (paid,) = diary.world.attempts(payment)
    assert (paid.state, paid.lane) == ("succeeded", lane)
    assert diary.money(payment) == [("2026-11-01 00:00", 29_85)]
    assert len(diary.world.simulator.ledger()) == 1, "the others have no card"


@pytest.mark.parametrize("place", [0, 3], ids=["behind the chunk's cursor", "before it"])
def test_card_registered_inside_an_open_chunk_of_month_start_pays_once(diary: Diary, place: int) -> None:
    anna = four_who_owe(diary)[place]
    run = october(diary)
    diary.world.register_card(anna)
    diary.wait_for_webhooks()
    told = [job for job in diary.due_jobs() if isinstance(job, ApplyStripeEvent)]
    assert len(told) == 2

    with ThreadPoolExecutor(2) as workers, stopping_at(diary.world.engine, 2) as wait_for_chunk:
        invoicing = workers.submit(diary.do, run)
        wait_for_chunk()  # all four are locked and one invoice is written; nothing is committed
        registering = workers.submit(diary.do_all, told)
        wait_for_waiter(diary.world.engine, "locktype IN ('transactionid', 'tuple')")
        assert not registering.done()
        assert not diary.billing_events("card_registered")
    invoicing.result()
    registering.result()
    diary.work()

    payment = diary.payment(anna)
    assert diary.attempts(payment) == [("11-01 00:00", "succeeded")]
    assert diary.world.attempts(payment)[0].lane == "interactive", "the registration saw the invoice"
    assert diary.money(payment) == [("2026-11-01 00:00", 29_85)]


def test_card_registered_while_the_old_one_is_charged_pays_after_a_decline(diary: Diary) -> None:
    anna = diary.account("A-1")
    diary.fee(anna, 29_85)
    diary.register_card(anna, story=AlwaysDeclines(decline_code="insufficient_funds"))
    diary.day(1)
    payment = diary.payment(anna)
    diary.sleep_until("2026-11-02 09:00")

    with diary.charging(payment, Gate.ARRIVAL):
        diary.register_card(anna)
        assert diary.settings(anna).card_revision == 2
        assert [attempt.state for attempt in diary.world.attempts(payment)] == ["declined", "started"]
        assert diary.pending() == {"open attempts": 1}, "the new card waits for the old one's answer"
    diary.work()

    assert diary.attempts(payment) == [
        ("11-01 00:00", "declined"),
        ("11-02 09:00", "declined"),
        ("11-02 09:00", "succeeded"),
    ]
    assert diary.world.attempts(payment)[-1].lane == "interactive"
    assert diary.money(payment) == [("2026-11-02 09:00", 29_85)]
    assert diary.world.standing(anna) == "good"


def test_card_registered_while_the_old_one_is_charged_is_not_charged_after_success(diary: Diary) -> None:
    anna = diary.account("A-1")
    diary.fee(anna, 29_85)
    old = diary.register_card(anna)
    diary.sleep_until("2026-11-01 00:00")
    diary.do(october(diary))
    payment = diary.payment(anna)

    with diary.charging(payment, Gate.ARRIVAL):
        diary.register_card(anna, "pm_card_mastercard")
    diary.day(3)

    (paid,) = diary.world.attempts(payment)
    assert (paid.state, paid.stripe_payment_method_id) == ("succeeded", old.payment_method)
    assert diary.money(payment) == [("2026-11-01 00:00", 29_85)]


def test_webhook_before_the_answer_books_the_money_once(diary: Diary) -> None:
    anna = diary.account("A-1")
    diary.fee(anna, 29_85)
    diary.register_card(anna)
    diary.do(october(diary))
    payment = diary.payment(anna)

    with diary.charging(payment, Gate.ANSWER):
        diary.work()
        assert diary.state(payment) == "due", "the answer may still come: the event is retried"
        diary.world.machine.advance(seconds=11)
        diary.work()
        assert diary.state(payment) == "paid", "payment_intent.succeeded was here first"
    diary.day(2)

    assert diary.attempts(payment) == [("11-01 00:00", "succeeded")]
    assert diary.billing_event_types(payment)["payment_moved"] == 1
    assert diary.money(payment) == [("2026-11-01 00:00", 29_85)]


@pytest.mark.parametrize("is_reversed", [False, True], ids=["as it happened", "reversed"])
def test_registered_and_attached_may_arrive_in_any_order(diary: Diary, is_reversed: bool) -> None:
    anna = diary.account("A-1")
    diary.fee(anna, 29_85)
    diary.day(2)
    payment = diary.payment(anna)

    order = ["payment_method.attached", "setup_intent.succeeded"]
    with diary.webhooks_held():
        new = diary.world.register_card(anna)
        for event_type in reversed(order) if is_reversed else order:
            diary.deliver(event_type)

    (paid,) = diary.world.attempts(payment)
    assert (paid.stripe_payment_method_id, paid.lane) == (new.payment_method, "interactive")
    assert diary.settings(anna).card_revision == 1
    assert diary.money(payment) == [("2026-11-02 12:00", 29_85)]


@pytest.mark.parametrize("is_reversed", [False, True], ids=["as it happened", "reversed"])
def test_replacement_and_detachment_may_arrive_in_any_order(diary: Diary, is_reversed: bool) -> None:
    anna = diary.account("A-1")
    diary.fee(anna, 29_85)
    old = diary.register_card(anna, story=AlwaysDeclines(decline_code="expired_card"))
    diary.day(2)
    payment = diary.payment(anna)

    with diary.webhooks_held():
        diary.detach_card(anna, old)
        new = diary.world.register_card(anna)
        order = ["payment_method.detached", "setup_intent.succeeded"]
        for event_type in reversed(order) if is_reversed else order:
            diary.deliver(event_type)

    assert [attempt.stripe_payment_method_id for attempt in diary.world.attempts(payment)] == [
        old.payment_method,
        new.payment_method,
    ]
    assert diary.money(payment) == [("2026-11-02 12:00", 29_85)]
    diary.day(4)
    assert diary.settings(anna).primary_card_id is not None


@pytest.mark.parametrize("is_reversed", [False, True], ids=["as it happened", "reversed"])
def test_registration_and_removal_may_arrive_in_any_order(diary: Diary, is_reversed: bool) -> None:
    anna = diary.account("A-1")
    diary.fee(anna, 29_85)
    diary.day(2)
    payment = diary.payment(anna)

    with diary.webhooks_held():
        card = diary.world.register_card(anna)
        diary.detach_card(anna, card)
        order = ["setup_intent.succeeded", "payment_method.detached"]
        for event_type in reversed(order) if is_reversed else order:
            diary.deliver(event_type)
    diary.world.machine.advance(minutes=5)  # what could not be understood yet is looked at again
    diary.day(3)

    assert diary.settings(anna).primary_card_id is None
    assert diary.state(payment) == "needs_payment_method"
    assert diary.attempts(payment) == []

    diary.register_card(anna, "pm_card_mastercard")
    assert diary.money(payment) == [("2026-11-03 12:00", 29_85)]


def test_card_removed_during_its_registration_is_not_kept(diary: Diary) -> None:
    anna = diary.account("A-1")
    diary.fee(anna, 29_85)
    diary.day(2)
    payment = diary.payment(anna)

    with diary.webhooks_held():
        card = diary.world.register_card(anna)
        diary.let_through("setup_intent.succeeded")
        (told,) = diary.due_jobs()
        with ThreadPoolExecutor(1) as worker:
            with diary.gates.closed(Gate.ANSWER, f"/{card.payment_method}"):
                registering = worker.submit(diary.do, told)
                diary.gates.wait_for_request_at(Gate.ANSWER)  # it has seen the card, still attached
                diary.detach_card(anna, card)
                diary.deliver("payment_method.detached")
            registering.result()
        diary.work()
        (attempt,) = diary.world.attempts(payment)
        assert attempt.state == "not_sent", "an old look at the card was applied last, and its charge refused"
        assert diary.settings(anna).primary_card_id is None, "and corrected"
        diary.world.machine.advance(minutes=5)
        diary.work()

    diary.day(3)
    assert diary.state(payment) == "needs_payment_method"
    assert diary.world.simulator.ledger() == []
    diary.register_card(anna, "pm_card_mastercard")
    assert diary.money(payment) == [("2026-11-03 12:00", 29_85)]
