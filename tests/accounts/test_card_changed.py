"""Cards that are detached, renewed, or changed while they are read."""

import pytest
from sqlalchemy import select

from shared.accounts.cards import CardMovedError, find_card, refresh_card, register_card
from shared.accounts.registrations import Registration
from shared.db.tables.system import billing_events
from shared.domain.states import Lane
from shared.gateway.port import CardSnapshot
from shared.payments.card_changes import wake_payments
from simulator.client import RegisteredCard
from tests.accounts.conftest import CardWorld, payment_with_a_lost_answer
from tests.seed import Account


def test_detached_primary_card_is_not_charged(here: CardWorld) -> None:
    world = here.world
    anna = world.account("A-1")
    card = world.register_card(anna)
    here.live()
    owed = world.add_due_payment(anna)
    before = world.payment(owed)
    here.detach("global", card.payment_method)
    here.live()
    assert here.primary(anna) is None
    assert here.settings(anna).card_revision == 2
    row = here.card(card)
    assert row is not None
    assert row.detached_at == world.clock.now()
    assert world.payment(owed) == before, "the payment itself is unchanged"
    world.charge(owed)
    assert world.payment(owed).state == "needs_payment_method"
    assert world.captured_amounts(owed) == []


def test_detached_secondary_card_leaves_the_primary_card(here: CardWorld) -> None:
    world = here.world
    anna = world.account("A-1")
    first = world.register_card(anna)
    second = world.register_card(anna, intent="add")
    here.live()
    here.detach("global", second.payment_method)
    here.live()
    assert here.primary(anna) == first.payment_method
    assert here.settings(anna).card_revision == 1


def test_card_detached_before_its_registration_is_not_made_primary(here: CardWorld) -> None:
    world = here.world
    anna = world.account("A-1")
    owed = here.waiting(anna)
    card = world.register_card(anna)
    here.detach("global", card.payment_method)
    notes = {here.event(job).type: here.apply(job) for job in here.arrived()}
    assert notes["setup_intent.succeeded"] == "refused: the card has been detached"
    assert here.primary(anna) is None
    assert world.payment(owed).state == "needs_payment_method"


@pytest.mark.parametrize("is_reversed", [False, True], ids=["in order", "reversed"])
def test_attached_and_detached_card_ends_detached_in_any_order(here: CardWorld, is_reversed: bool) -> None:
    world = here.world
    anna = world.account("A-1")
    card = world.register_card(anna)
    here.live()
    owed = here.waiting(anna)
    here.detach("global", card.payment_method)
    jobs = [*here.arrived(), here.tell("evt_old", "payment_method.attached", card.payment_method)]
    for job in reversed(jobs) if is_reversed else jobs:
        here.apply(job)
    assert here.primary(anna) is None
    assert here.settings(anna).card_revision == 2
    assert world.payment(owed).state == "needs_payment_method"


def test_card_detached_during_its_registration_is_retired(here: CardWorld) -> None:
    """The registration reads the card before the detachment, and commits after the first delivery of its event."""
    world = here.world
    anna = world.account("A-1")
    card = world.register_card(anna)
    snapshot = world.runtime.gateways["global"].retrieve_card(card.payment_method)
    here.detach("global", card.payment_method)
    (detached,) = [job for job in here.arrived() if here.event(job).type == "payment_method.detached"]
    assert here.apply(detached) is None
    assert here.event(detached).state == "received"
    with world.engine.begin() as connection:
        wake_payments(
            connection,
            register_card(connection, registration_of(here, anna, card), snapshot, None, world.clock.now()),
        )
    assert here.primary(anna) == card.payment_method
    world.machine.advance(seconds=130)
    assert here.apply(detached) == "detached the primary card"
    assert here.primary(anna) is None


def test_card_of_an_unknown_customer_is_given_up_after_some_tries(here: CardWorld) -> None:
    stranger = here.world.simulator.register_card("global", here.world.customer_id(here.world.account("A-1")))
    here.detach("global", stranger.payment_method)
    jobs = here.arrived()
    here.world.machine.advance(seconds=130)
    notes = {here.event(job).type: here.apply(job) for job in jobs}
    assert notes["payment_method.detached"] == "not ours: the card was never stored"


def test_card_that_changes_during_the_read_is_read_again(here: CardWorld) -> None:
    world = here.world
    anna = world.account("A-1")
    card = world.register_card(anna)
    here.live()
    gateway = world.runtime.gateways["global"]
    with world.engine.connect() as connection:
        known = find_card(connection, "global", card.payment_method)
    old = gateway.retrieve_card(card.payment_method)
    world.simulator.automatically_update("global", card.payment_method, exp_month=1, exp_year=2039)
    here.live()
    with world.engine.begin() as connection, pytest.raises(CardMovedError):
        wake_payments(connection, refresh_card(connection, "global", old, known, world.clock.now()))
    row = here.card(card)
    assert row is not None
    assert row.exp_year == 2039


def test_renewed_primary_card_wakes_waiting_payments(here: CardWorld) -> None:
    world = here.world
    anna = world.account("A-1")
    card = world.register_card(anna)
    here.live()
    waiting = here.waiting(anna)
    authentication = here.waiting(anna, "needs_authentication")
    later = world.clock.now().replace(day=20)
    scheduled = world.add_due_payment(anna, state="retry_scheduled", next_attempt_at=later)
    world.simulator.automatically_update("global", card.payment_method, exp_month=1, exp_year=2039, last4="1111")
    here.live()
    row = here.card(card)
    assert row is not None
    assert (row.exp_month, row.exp_year, row.last4) == (1, 2039, "1111")
    assert here.settings(anna).card_revision == 2
    for payment in (waiting, authentication):
        assert world.captured_amounts(payment) == [500]
        assert world.payment(payment).lane == Lane.INTERACTIVE
    assert world.payment(scheduled).next_attempt_at == later
    assert world.captured_amounts(scheduled) == []


def test_renewed_secondary_card_wakes_nothing(here: CardWorld) -> None:
    world = here.world
    anna = world.account("A-1")
    world.register_card(anna)
    second = world.register_card(anna, intent="add")
    here.live()
    waiting = here.waiting(anna)
    world.simulator.automatically_update("global", second.payment_method, exp_month=1, exp_year=2039)
    here.live()
    row = here.card(second)
    assert row is not None
    assert row.exp_year == 2039
    assert here.settings(anna).card_revision == 1
    assert world.payment(waiting).state == "needs_payment_method"


def test_update_without_new_card_data_wakes_nothing(here: CardWorld) -> None:
    world = here.world
    anna = world.account("A-1")
    card = world.register_card(anna)
    here.live()
    waiting = here.waiting(anna)
    assert here.apply(here.tell("evt_1", "payment_method.updated", card.payment_method)) == "nothing new"
    assert here.settings(anna).card_revision == 1
    assert world.payment(waiting).state == "needs_payment_method"


def test_repeated_update_wakes_once(here: CardWorld) -> None:
    world = here.world
    anna = world.account("A-1")
    card = world.register_card(anna)
    here.live()
    world.simulator.automatically_update("global", card.payment_method, exp_month=1, exp_year=2039)
    here.live()
    here.tell("evt_1", "payment_method.automatically_updated", card.payment_method)
    here.live()
    assert here.settings(anna).card_revision == 2
    with world.engine.connect() as connection:
        renewed = connection.execute(select(billing_events).where(billing_events.c.type == "card_mended")).one()
    assert renewed.data["changed"] == ["exp_month", "exp_year"]


def test_payment_with_an_open_attempt_is_not_woken(here: CardWorld) -> None:
    """Recording the attempt's outcome reads the revision again; until then nothing else may charge (I2)."""
    world = here.world
    anna = world.account("A-1")
    owed = payment_with_a_lost_answer(here, anna)
    before, revision = world.payment(owed), here.settings(anna).card_revision
    world.register_card(anna)
    for job in here.arrived():
        if here.event(job).type == "setup_intent.succeeded":
            assert here.apply(job) == "registered the primary card; 0 made due"
    assert world.payment(owed) == before
    assert here.settings(anna).card_revision == revision + 1
    here.live()
    assert world.captured_amounts(owed) == [500]


def registration_of(here: CardWorld, account: Account, card: RegisteredCard) -> Registration:
    return Registration(
        coverage=account.coverage,
        stripe_setup_intent_id=card.setup_intent,
        settings_id=account.settings_id,
        stripe_customer_id=card.customer,
        stripe_payment_method_id=card.payment_method,
        is_replacement=True,
        succeeded_at=here.world.clock.now(),
    )


def test_stored_card_of_another_customer_is_refused(here: CardWorld) -> None:
    """Stripe excludes it; if it happens all the same, no account may charge another account's card."""
    world = here.world
    anna, bob = world.account("A-1"), world.account("B-2")
    card = world.register_card(anna)
    here.live()
    snapshot = world.runtime.gateways["global"].retrieve_card(card.payment_method)
    stolen = CardSnapshot(**{**vars(snapshot), "stripe_customer_id": world.customer_id(bob)})
    with world.engine.begin() as connection:
        known = find_card(connection, "global", card.payment_method)
        change = wake_payments(connection, refresh_card(connection, "global", stolen, known, world.clock.now()))
    assert change.note == "refused: the card is stored for another customer"
    assert here.primary(anna) == card.payment_method
