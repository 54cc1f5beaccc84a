"""A Stripe customer that was deleted is forgotten: another one can be imported, and late events change nothing."""

from pathlib import Path
from typing import Any

from sqlalchemy import select

from shared.accounts.forgotten_customers import KnownCustomer, find_customer, forget_customer
from shared.db.billing_events import Cause
from shared.db.session import in_transaction
from shared.db.tables.accounts import cards, payment_settings
from shared.db.tables.payments import payments
from simulator.issuer.stories import AlwaysDeclines
from tests.accounts.conftest import CardWorld
from tests.importing.desk import Desk
from tests.seed import Account

FILE = "account,coverage,payment_method,stripe_customer\nA-1,global,card,{customer}\n"


def records(here: CardWorld) -> list[list[tuple[Any, ...]]]:
    with here.world.engine.connect() as connection:
        return [
            [tuple(row) for row in connection.execute(select(table).order_by(table.c.id))]
            for table in (payment_settings, cards, payments)
        ]


def forget(here: CardWorld) -> None:
    """As `customers forget` does, after it asked Stripe."""
    world = here.world
    with world.engine.connect() as connection:
        seen = find_customer(connection, "A-1", "global")
    assert seen is not None
    missing = world.runtime.gateways["global"].find_missing(seen.stripe_customer_id, seen.a_payment_method_id)
    cause = Cause("operator:ada", world.clock.now(), "deleted by mistake")
    answer = in_transaction(world.engine, lambda connection: forget_customer(connection, seen, missing, cause))
    assert isinstance(answer, KnownCustomer)


def register(here: CardWorld, account: Account, **how: Any) -> None:
    here.world.register_card(account, **how)
    here.live()


def test_another_customer_is_imported_and_late_events_of_the_former_one_change_nothing(
    here: CardWorld, database_url: str, tmp_path: Path
) -> None:
    world, desk = here.world, Desk(here.world.engine, database_url, tmp_path)
    anna = world.account("A-1")
    register(here, anna, story=AlwaysDeclines(decline_code="insufficient_funds"))
    primary = here.primary(anna)
    assert primary is not None
    owed = world.add_due_payment(anna)
    world.charge(owed)
    former = world.customer_id(anna)
    unseen = world.register_card(anna)  # its events arrive only after the customer is forgotten
    another = world.runtime.gateways["global"].create_customer({}, "another customer")

    refused = desk.accounts(FILE.format(customer=another))
    assert refused.code == 1
    assert f"is another Stripe customer than {former}, with which cards are registered" in refused.text
    world.simulator.delete_customer("global", former)
    forget(here)
    accepted = desk.accounts(FILE.format(customer=another))
    assert (accepted.code, world.customer_id(anna)) == (0, another), accepted.text

    before = records(here)
    late = here.arrived()
    assert {here.event(job).type for job in late} >= {"setup_intent.succeeded", "payment_method.attached"}
    for number, card in enumerate((primary, unseen.payment_method)):
        late.append(here.tell(f"evt_updated_{number}", "payment_method.automatically_updated", card))
        late.append(here.tell(f"evt_detached_{number}", "payment_method.detached", card))
    world.machine.advance(minutes=5)  # beyond the time in which a detached card's registration may be in progress
    notes = [here.apply(job) for job in late]
    assert records(here) == before
    assert "refused: the SetupIntent's customer is not the one of the payment settings in its metadata" in notes
    world.enqueued.extend(world.due_jobs())
    here.live()
    assert world.captured_amounts(owed) == []

    register(here, anna)
    for _ in range(2):  # the former customer's PaymentIntent is canceled, then another one is paid
        world.enqueued.extend(world.due_jobs())
        here.live()
    assert (world.payment(owed).state, world.captured_amounts(owed)) == ("paid", [5_00])
    assert [row.stripe_customer_id for row in world.intents(owed)] == [former, another]
