"""A registered card is charged at once for its coverage's unpaid payments, each once, for any set of events."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import func, select

from shared.db.tables.accounts import card_registrations
from shared.db.tables.system import billing_events
from shared.domain.states import Lane, PaymentKind, Trigger
from shared.messaging.jobs import ChargePayment
from tests.accounts.conftest import CardWorld


def test_new_card_pays_only_the_payments_of_its_coverage(here: CardWorld) -> None:
    world = here.world
    anna = world.account("A-1")
    anna_in_japan = world.account("A-1", "japan")
    world.add_primary_card(anna, "pm_card_chargeCustomerFail")
    waiting = here.waiting(anna)
    scheduled = world.add_due_payment(anna, state="retry_scheduled")
    due = world.add_due_payment(anna)
    in_japan = here.waiting(anna_in_japan)

    new = world.register_card(anna)
    here.live()

    assert here.primary(anna) == new.payment_method
    assert [world.captured_amounts(payment) for payment in (waiting, scheduled, due)] == [[500], [500], [500]]
    for payment in (waiting, scheduled, due):
        row = world.payment(payment)
        assert (row.state, row.lane, row.trigger) == ("paid", Lane.INTERACTIVE, Trigger.CARD_REGISTERED)
        assert row.requested_by == "customer"
    assert world.payment(in_japan).state == "needs_payment_method"
    assert world.captured_amounts(in_japan) == []


def test_charges_of_a_new_card_are_enqueued_on_the_interactive_queue(here: CardWorld) -> None:
    anna = here.world.account("A-1")
    owed = here.world.add_due_payment(anna)
    here.world.register_card(anna)
    for job in here.arrived():
        here.apply(job)
    assert [job for job in here.world.enqueued if isinstance(job, ChargePayment)] == [
        ChargePayment(owed, Lane.INTERACTIVE)
    ]


def test_five_events_of_one_registration_charge_once(here: CardWorld) -> None:
    world = here.world
    anna = world.account("A-1")
    owed = world.add_due_payment(anna)
    new = world.register_card(anna)
    told = [here.tell(f"evt_again_{n}", "setup_intent.succeeded", new.setup_intent) for n in range(4)]
    here.live()
    for job in told:
        assert here.apply(job) == "known already: this SetupIntent has registered its card"
    here.live()
    assert here.settings(anna).card_revision == 1
    assert world.captured_amounts(owed) == [500]


@pytest.mark.parametrize("is_known", [True, False], ids=["card known", "card new"])
@pytest.mark.parametrize("is_one_event", [True, False], ids=["one event", "eight events"])
def test_eight_concurrent_workers_register_once(here: CardWorld, is_one_event: bool, is_known: bool) -> None:
    world = here.world
    anna = world.account("A-1")
    owed = [world.add_due_payment(anna) for _ in range(3)]
    new = world.register_card(anna)
    if is_known:
        here.apply(here.tell("evt_attached", "payment_method.attached", new.payment_method))
    told = [
        here.tell("evt_0" if is_one_event else f"evt_{n}", "setup_intent.succeeded", new.setup_intent)
        for n in range(8)
    ]
    with ThreadPoolExecutor(8) as workers:
        list(workers.map(here.apply, told))
    world.machine.advance(seconds=30)  # past the claims of workers that saw the card change during the read
    for job in told:
        here.apply(job)
    assert {here.event(job).state for job in told} == {"applied"}
    assert here.settings(anna).card_revision == 1
    assert count(here, "card_registered") == 1
    assert sorted(job.payment_id for job in world.enqueued if isinstance(job, ChargePayment)) == sorted(owed)


def test_card_registered_again_is_charged_again(here: CardWorld) -> None:
    world = here.world
    anna = world.account("A-1")
    card = world.register_card(anna)
    here.live()
    blocked = here.waiting(anna)
    again = world.register_card(anna, card.payment_method)
    assert again.payment_method == card.payment_method
    here.live()
    assert here.settings(anna).card_revision == 2
    assert here.primary(anna) == card.payment_method
    assert world.captured_amounts(blocked) == [500]


def test_added_second_card_is_stored_and_not_charged(here: CardWorld) -> None:
    world = here.world
    anna = world.account("A-1")
    first = world.register_card(anna)
    here.live()
    owed = here.waiting(anna)
    second = world.register_card(anna, "pm_card_mastercard", intent="add")
    here.live()
    assert here.primary(anna) == first.payment_method
    assert here.card(second) is not None
    assert here.settings(anna).card_revision == 1
    assert world.payment(owed).state == "needs_payment_method"


def test_added_first_card_becomes_primary_and_is_charged(here: CardWorld) -> None:
    anna = here.world.account("A-1")
    owed = here.world.add_due_payment(anna)
    card = here.world.register_card(anna, intent="add")
    here.live()
    assert here.primary(anna) == card.payment_method
    assert here.world.captured_amounts(owed) == [500]


def test_late_duplicate_event_does_not_make_an_added_card_primary(here: CardWorld) -> None:
    world = here.world
    anna = world.account("A-1")
    first = world.register_card(anna)
    second = world.register_card(anna, "pm_card_mastercard", intent="add")
    here.live()
    here.detach("global", first.payment_method)
    here.live()
    late = here.tell("evt_late", "setup_intent.succeeded", second.setup_intent)
    assert here.apply(late) == "known already: this SetupIntent has registered its card"
    assert here.primary(anna) is None


@pytest.mark.parametrize("is_reversed", [False, True], ids=["in order", "reversed"])
def test_attached_and_registered_events_may_arrive_in_any_order(here: CardWorld, is_reversed: bool) -> None:
    anna = here.world.account("A-1")
    owed = here.world.add_due_payment(anna)
    new = here.world.register_card(anna)
    jobs = sorted(here.arrived(), key=lambda job: here.event(job).type, reverse=is_reversed)
    assert {here.event(job).type for job in jobs} == {"payment_method.attached", "setup_intent.succeeded"}
    for job in jobs:
        here.apply(job)
    here.live()
    assert here.primary(anna) == new.payment_method
    assert here.settings(anna).card_revision == 1
    assert here.world.payment(owed).lane == Lane.INTERACTIVE


@pytest.mark.parametrize("is_reversed", [False, True], ids=["in order", "reversed"])
def test_later_of_two_registrations_becomes_primary(here: CardWorld, is_reversed: bool) -> None:
    world = here.world
    anna = world.account("A-1")
    world.register_card(anna, intent="add")
    world.clock.set(world.clock.now().replace(second=10))
    world.register_card(anna, "pm_card_visa")
    world.clock.set(world.clock.now().replace(second=20))
    last = world.register_card(anna, "pm_card_mastercard")
    jobs = sorted(here.arrived(), key=lambda job: here.event(job).stripe_created_at, reverse=is_reversed)
    for job in jobs:
        here.apply(job)
    assert here.primary(anna) == last.payment_method


def test_late_registration_wins_over_a_later_card_that_is_gone(here: CardWorld) -> None:
    anna = here.world.account("A-1")
    first = here.world.register_card(anna)
    events_of_first = here.arrived()
    here.world.clock.set(here.world.clock.now() + timedelta(minutes=1))
    second = here.world.register_card(anna, "pm_card_mastercard")
    here.live()
    here.detach("global", second.payment_method)
    here.live()
    assert here.primary(anna) is None
    owed = here.waiting(anna)
    for job in events_of_first:
        here.apply(job)
    here.live()
    assert here.primary(anna) == first.payment_method
    assert here.world.captured_amounts(owed) == [5_00]


def test_chosen_card_stays_primary_when_another_is_added_later(here: CardWorld) -> None:
    world = here.world
    anna = world.account("A-1")
    chosen = world.register_card(anna)
    world.clock.set(world.clock.now().replace(second=10))
    world.register_card(anna, "pm_card_mastercard", intent="add")
    for job in reversed(here.arrived()):
        here.apply(job)
    assert here.primary(anna) == chosen.payment_method


def test_attached_card_is_stored_and_not_charged(here: CardWorld) -> None:
    world = here.world
    anna = world.account("A-1")
    owed = world.add_due_payment(anna)
    new = world.register_card(anna)
    attached = [job for job in here.arrived() if here.event(job).type == "payment_method.attached"]
    assert here.apply(attached[0]) == "stored a new card"
    card = here.card(new)
    assert card is not None
    assert (card.brand, card.last4, card.fingerprint) == (new.brand, new.last4, new.fingerprint)
    assert here.primary(anna) is None
    assert world.payment(owed).trigger == Trigger.MONTH_START


def test_hold_outlasts_a_new_card_and_is_recorded(here: CardWorld) -> None:
    world = here.world
    anna = world.account("A-1")
    until = world.clock.now().replace(year=2027)
    held = world.add_due_payment(anna, held_until=until)
    expired = world.add_due_payment(anna, held_until=world.clock.now().replace(year=2025))
    world.register_card(anna)
    here.live()
    assert world.captured_amounts(held) == []
    assert world.payment(held).held_until == until
    assert world.billing_events(held) == [
        ("charge_not_attempted", "a card was registered, but an operator holds the payment")
    ]
    assert world.captured_amounts(expired) == [500]


def test_orders_transfers_and_closed_payments_are_not_charged(here: CardWorld) -> None:
    world = here.world
    anna = world.account("A-1")
    order = world.add_due_payment(anna, kind=PaymentKind.ORDER)
    support = world.add_due_payment(anna, kind=PaymentKind.ORDER, state="needs_support")
    transfer = world.add_due_payment(anna, state="awaiting_transfer")
    void = world.add_due_payment(anna, state="void")
    world.register_card(anna)
    here.live()
    for payment in (order, support, transfer, void):
        assert world.captured_amounts(payment) == []
        assert world.payment(payment).trigger == Trigger.MONTH_START


def test_payments_of_other_accounts_are_not_charged(here: CardWorld) -> None:
    anna, bob = here.world.account("A-1"), here.world.account("B-2")
    bobs = here.waiting(bob)
    here.world.register_card(anna)
    here.live()
    assert here.world.payment(bobs).state == "needs_payment_method"
    assert here.settings(bob).card_revision == 0


def test_billing_event_of_a_registration_names_the_card_by_id_only(here: CardWorld) -> None:
    anna = here.world.account("A-1")
    new = here.world.register_card(anna)
    here.live()
    with here.world.engine.connect() as connection:
        row = connection.execute(select(billing_events).where(billing_events.c.type == "card_registered")).one()
    card = here.card(new)
    assert card is not None
    assert (row.account_id, row.actor) == (anna.id, "customer")
    assert row.before == {"card_revision": 0, "primary_card_id": None}
    assert row.after == {"card_revision": 1}
    assert row.data == {
        "coverage": "global",
        "card_id": str(card.id),
        "intent": "replace",
        "stripe_setup_intent_id": new.setup_intent,
    }


METADATA_KEYS = ("duecourse_settings_id", "duecourse_intent")


@pytest.mark.parametrize(
    ("whose", "intent", "note"),
    [
        ("nobody", None, "not ours: the SetupIntent has no metadata of Duecourse"),
        ("bob", "replace", "refused: the SetupIntent's customer is not the one of the payment settings"),
        ("anna in japan", "replace", "refused: the metadata names payment settings that this coverage doesn't"),
        ("garbage", "replace", "refused: metadata duecourse_settings_id is not a valid ID"),
        ("00000000-0000-0000-0000-000000000000", "replace", "refused: the metadata names payment settings"),
        ("anna", "steal", "refused: metadata duecourse_intent is neither replace nor add"),
        ("anna", None, "refused: metadata duecourse_intent is neither replace nor add"),
    ],
)
def test_foreign_setup_intent_makes_no_card_primary(
    here: CardWorld, whose: str, intent: str | None, note: str
) -> None:
    world = here.world
    anna, bob, in_japan = world.account("A-1"), world.account("B-2"), world.account("A-1", "japan")
    owed = [here.waiting(account) for account in (anna, bob, in_japan)]
    ids = {"anna": anna.settings_id, "bob": bob.settings_id, "anna in japan": in_japan.settings_id}
    values = (None if whose == "nobody" else str(ids.get(whose, whose)), intent)
    metadata = {key: value for key, value in zip(METADATA_KEYS, values, strict=True) if value is not None}
    world.simulator.register_card("global", world.customer_id(anna), metadata=metadata)
    notes = [here.apply(job) for job in here.arrived() if here.event(job).type == "setup_intent.succeeded"]
    assert len(notes) == 1
    assert str(notes[0]).startswith(note)
    assert [here.settings(account).card_revision for account in (anna, bob, in_japan)] == [0, 0, 0]
    assert {world.payment(payment).state for payment in owed} == {"needs_payment_method"}


def test_registration_is_stored_with_the_processor_time(here: CardWorld) -> None:
    here.world.register_card(here.world.account("A-1"))
    here.live()
    with here.world.engine.connect() as connection:
        assert connection.scalar(select(card_registrations.c.registered_at)) == here.world.clock.now()


def count(here: CardWorld, event_type: str) -> int:
    with here.world.engine.connect() as connection:
        return int(
            connection.scalar(
                select(func.count()).select_from(billing_events).where(billing_events.c.type == event_type)
            )
            or 0
        )
