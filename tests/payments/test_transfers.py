"""A customer changes to bank transfer, or back to a card, while a payment is unpaid."""

from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import text

from simulator.issuer.stories import AlwaysDeclines
from tests.world import World


def pay_by(world: World, kind: str) -> None:
    with world.engine.begin() as connection:
        connection.execute(text("UPDATE payment_settings SET kind = :kind"), {"kind": kind})


def do_due(world: World) -> None:
    world.enqueued.extend(world.due_jobs())
    world.do_enqueued()


def declined_payment(world: World) -> UUID:
    account = world.account("A-1")
    world.add_primary_card(account, story=AlwaysDeclines(decline_code="insufficient_funds"))
    payment = world.add_due_payment(account)
    world.charge(payment)
    assert world.payment(payment).state == "retry_scheduled"
    return payment


def status_at_stripe(world: World, payment: UUID) -> list[str]:
    gateway = world.runtime.gateways["global"]
    answers = [gateway.retrieve_payment_intent(i.stripe_payment_intent_id) for i in world.intents(payment)]
    return [answer.payment_intent.status for answer in answers if answer.payment_intent is not None]


def test_payment_that_waits_for_a_transfer_has_no_live_payment_intent(world: World) -> None:
    payment = declined_payment(world)
    pay_by(world, "bank_transfer")
    world.clock.set(world.clock.now() + timedelta(days=1))
    do_due(world)
    assert world.payment(payment).state == "awaiting_transfer"
    assert status_at_stripe(world, payment) == ["canceled"]
    assert [row.closed_reason for row in world.intents(payment)] == ["canceled"]
    assert [(row.kind, row.state) for row in world.attempts(payment)] == [
        ("charge", "declined"),
        ("cancel", "canceled"),
    ]


@pytest.mark.parametrize("has_card", [True, False])
def test_payment_is_charged_once_the_customer_pays_by_card_again(world: World, has_card: bool) -> None:
    account = world.account("A-1", kind="bank_transfer")
    payment = world.add_due_payment(account, state="awaiting_transfer", state_reason="pays by bank transfer")
    if has_card:
        world.add_primary_card(account)
    do_due(world)
    assert world.payment(payment).state == "awaiting_transfer"
    pay_by(world, "card")
    do_due(world)
    if not has_card:
        assert world.payment(payment).state == "needs_payment_method"
        world.add_primary_card(account)
        do_due(world)
    assert world.captured_amounts(payment) == [5_00]


def test_change_to_transfer_and_back_charges_once_with_a_new_payment_intent(world: World) -> None:
    payment = declined_payment(world)
    pay_by(world, "bank_transfer")
    world.clock.set(world.clock.now() + timedelta(days=1))
    do_due(world)
    pay_by(world, "card")
    do_due(world)
    assert [row.ordinal for row in world.intents(payment)] == [1, 2]
    assert status_at_stripe(world, payment)[0] == "canceled"
    assert world.payment(payment).state == "retry_scheduled", "its card declines again"


def test_held_payment_stays_where_it_is_when_the_customer_pays_by_card_again(world: World) -> None:
    account = world.account("A-1", kind="bank_transfer")
    world.add_primary_card(account)
    until = world.clock.now() + timedelta(days=1)
    payment = world.add_due_payment(account, state="awaiting_transfer", state_reason="…", held_until=until)
    pay_by(world, "card")
    do_due(world)
    assert world.payment(payment).state == "awaiting_transfer"
    world.clock.set(world.clock.now() + timedelta(days=1))
    do_due(world)
    assert world.captured_amounts(payment) == [5_00]
