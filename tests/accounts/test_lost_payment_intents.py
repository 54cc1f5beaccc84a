"""An attempt whose PaymentIntent Stripe doesn't know is ended: what is charged next, and if it appears again."""

from uuid import UUID

import pytest
from sqlalchemy import select, text, update

from shared.db.billing_events import Cause
from shared.db.session import in_transaction
from shared.db.tables.payments import payment_intents, receipts
from shared.db.tables.system import findings
from shared.payments.operator.hold import Released, release_payment
from shared.payments.operator.lost_attempts import (
    Evidence,
    LostAttempt,
    end_unknown_attempt,
    find_unknown_attempt,
)
from simulator.faults.rules import FaultRule
from tests.accounts.conftest import CardWorld

LOST = Evidence(is_lost=True, words="Stripe knows its customer or card, but not this PaymentIntent")


@pytest.fixture
def ended(here: CardWorld) -> tuple[UUID, str]:
    """A held payment whose unknown attempt an operator ended, and the PaymentIntent that Stripe didn't know."""
    world = here.world
    anna = world.account("A-1")
    world.add_primary_card(anna)
    owed = world.add_due_payment(anna)
    world.simulator.add_faults([FaultRule("cut_before", operation="confirm")])
    world.charge(owed)
    (intent,) = world.intents(owed)
    with world.engine.begin() as connection:  # as after test data were deleted at Stripe
        connection.execute(update(payment_intents).values(stripe_payment_intent_id="pi_gone"))
    with world.engine.connect() as connection:
        seen = find_unknown_attempt(connection, owed)
    assert seen is not None
    answer = in_transaction(
        world.engine, lambda connection: end_unknown_attempt(connection, world.runtime, seen, LOST, cause(here))
    )
    assert isinstance(answer, LostAttempt)
    assert world.attempts(owed)[0].state == "not_sent"
    return owed, intent.stripe_payment_intent_id


def cause(here: CardWorld) -> Cause:
    return Cause("operator:ada", here.world.clock.now(), "test data were deleted")


def release_and_charge(here: CardWorld, owed: UUID) -> None:
    world = here.world
    answer = in_transaction(world.engine, lambda connection: release_payment(connection, owed, cause(here)))
    assert isinstance(answer, Released)
    world.enqueued.extend(world.due_jobs())
    here.live()


def appear_again(here: CardWorld, stripe_id: str) -> None:
    """Stripe knows the PaymentIntent after all, and its customer pays it."""
    gateway = here.world.runtime.gateways["global"]
    with here.world.engine.begin() as connection:
        connection.execute(
            update(payment_intents)
            .where(payment_intents.c.stripe_payment_intent_id == "pi_gone")
            .values(stripe_payment_intent_id=stripe_id)
        )
        card = connection.scalar(text("SELECT stripe_payment_method_id FROM cards"))
    assert gateway.confirm_payment_intent(stripe_id, str(card), "by hand").outcome == "succeeded"
    here.live()


def booked(here: CardWorld, owed: UUID) -> list[int]:
    query = select(receipts.c.amount_minor).where(receipts.c.payment_id == owed)
    with here.world.engine.connect() as connection:
        return list(connection.scalars(query))


def found(here: CardWorld) -> list[str]:
    with here.world.engine.connect() as connection:
        return list(connection.scalars(select(findings.c.kind).where(findings.c.resolved_at.is_(None))))


def test_next_charge_has_the_next_payment_intent_and_captures_once(
    here: CardWorld, ended: tuple[UUID, str]
) -> None:
    owed, _ = ended
    world = here.world
    world.enqueued.extend(world.due_jobs())
    here.live()
    assert (world.captured_amounts(owed), len(world.attempts(owed))) == ([], 1), "it is held"
    release_and_charge(here, owed)
    assert [(row.ordinal, row.closed_reason) for row in world.intents(owed)] == [
        (1, "abandoned"),
        (2, "succeeded"),
    ]
    assert (world.payment(owed).state, world.captured_amounts(owed), booked(here, owed)) == ("paid", [5_00], [5_00])
    assert found(here) == []


def test_payment_intent_that_is_paid_after_its_successor_is_booked_with_a_finding(
    here: CardWorld, ended: tuple[UUID, str]
) -> None:
    owed, stripe_id = ended
    release_and_charge(here, owed)
    appear_again(here, stripe_id)
    assert here.world.captured_amounts(owed) == [5_00, 5_00]
    assert booked(here, owed) == [5_00, 5_00], "each charge of the ledger has its receipt"
    assert found(here) == ["paid_more_than_once"]
    assert here.world.payment(owed).state == "paid"


def test_payment_intent_that_is_paid_while_its_payment_is_held_pays_it(
    here: CardWorld, ended: tuple[UUID, str]
) -> None:
    owed, stripe_id = ended
    appear_again(here, stripe_id)
    world = here.world
    assert (world.payment(owed).state, world.payment(owed).held_until) == ("paid", None)
    world.enqueued.extend(world.due_jobs())
    here.live()
    assert (world.captured_amounts(owed), booked(here, owed), found(here)) == ([5_00], [5_00], [])
    assert world.attempts(owed)[0].state == "succeeded"
