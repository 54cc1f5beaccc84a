"""Concurrent operators and outdated pages: the confirmed charge is made once, or refused."""

from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import update

from shared.db.billing_events import Cause
from shared.db.tables.accounts import payment_settings
from shared.db.tables.payments import payments
from shared.domain.refusals import Refused
from shared.messaging.jobs import ChargePayment
from shared.payments.operator.charge import ChargeSnapshot, WouldCharge, preview_charge, request_charge
from simulator.issuer.stories import DeclinesThenPays
from tests.seed import Account
from tests.world import World


@pytest.fixture
def account(world: World) -> Account:
    account = world.account("A-1")
    world.add_primary_card(account)
    return account


def ask(
    world: World, payment: UUID, who: str = "anna", snapshot: ChargeSnapshot | None = None
) -> ChargePayment | Refused:
    with world.engine.begin() as connection:
        return request_charge(
            connection,
            payment,
            Cause(f"operator:{who}", world.clock.now(), "she called"),
            world.machine(),
            snapshot,
        )


def look(world: World, payment: UUID) -> WouldCharge:
    with world.engine.connect() as connection:
        would = preview_charge(connection, payment, world.clock.now(), world.machine())
    assert isinstance(would, WouldCharge), would
    return would


def refusal(answer: ChargePayment | Refused) -> str:
    assert isinstance(answer, Refused), answer
    return answer.reason


def test_second_charge_request_names_the_first_and_money_moves_once(world: World, account: Account) -> None:
    payment = world.add_due_payment(account)
    snapshot = look(world, payment).snapshot
    assert isinstance(ask(world, payment, snapshot=snapshot), ChargePayment)
    world.clock.set(world.clock.now() + timedelta(seconds=5))
    second = ask(world, payment, "ben", snapshot)
    assert refusal(second) == "operator:anna already requested this charge at 2026-11-01 09:00:00 UTC"
    assert world.billing_events(payment)[-1] == ("charge_not_attempted", refusal(second))
    with world.engine.connect() as connection:
        assert isinstance(preview_charge(connection, payment, world.clock.now(), world.machine()), Refused)
    world.charge(payment)
    world.charge(payment)
    assert world.captured_amounts(payment) == [5_00]


def test_charge_may_be_requested_again_after_an_outage(world: World, account: Account) -> None:
    payment = world.add_due_payment(account)
    ask(world, payment)
    with world.engine.begin() as connection:
        later = world.machine() + timedelta(hours=1)
        connection.execute(update(payments).where(payments.c.id == payment).values(backoff_until=later))
    assert isinstance(ask(world, payment, "ben"), ChargePayment)


def test_payment_made_due_by_customer_or_scheduler_is_not_an_operator_request(
    world: World, account: Account
) -> None:
    for trigger in ("month_start", "customer", "card_registered"):
        payment = world.add_due_payment(account, trigger=trigger, lane="interactive", requested_by="customer")
        assert isinstance(ask(world, payment), ChargePayment)


def test_hold_after_the_request_permits_a_new_request(world: World, account: Account) -> None:
    payment = world.add_due_payment(account)
    ask(world, payment)
    with world.engine.begin() as connection:
        until = world.clock.now() + timedelta(days=2)
        connection.execute(update(payments).where(payments.c.id == payment).values(held_until=until))
    assert isinstance(ask(world, payment, "ben"), ChargePayment)


def test_open_attempt_names_its_requester(world: World, account: Account) -> None:
    payment = world.add_due_payment(account)
    gateway = world.runtime.gateways["global"]
    said: list[str] = []
    confirm = gateway.confirm_payment_intent

    def request_meanwhile(*arguments: str) -> object:
        said.append(refusal(ask(world, payment, "ben")))
        return confirm(*arguments)

    gateway.confirm_payment_intent = request_meanwhile  # type: ignore[method-assign]
    ask(world, payment)
    world.charge(payment)
    assert said == ["attempt 1, started by operator:anna at 2026-11-01 09:00:00 UTC, is in progress"]
    assert world.captured_amounts(payment) == [5_00]


def test_changed_amount_is_refused(world: World, account: Account) -> None:
    payment = world.add_due_payment(account)
    snapshot = look(world, payment).snapshot
    with world.engine.begin() as connection:
        connection.execute(update(payments).where(payments.c.id == payment).values(amount_minor=7_00))
    said = refusal(ask(world, payment, snapshot=snapshot))
    assert said == "the payment changed since you viewed it: the amount was USD 5.00 and is now USD 7.00"
    assert world.payment(payment).requested_by is None
    assert isinstance(ask(world, payment, snapshot=look(world, payment).snapshot), ChargePayment)


def test_changed_card_is_refused(world: World, account: Account) -> None:
    payment = world.add_due_payment(account)
    snapshot = look(world, payment).snapshot
    world.add_primary_card(account, "pm_card_mastercard", brand="mastercard")
    said = refusal(ask(world, payment, snapshot=snapshot))
    assert "the card was visa ending in 4242 and is now mastercard ending in 4444" in said


def test_updated_data_of_the_same_card_is_refused(world: World, account: Account) -> None:
    payment = world.add_due_payment(account)
    snapshot = look(world, payment).snapshot
    with world.engine.begin() as connection:
        connection.execute(update(payment_settings).values(card_revision=payment_settings.c.card_revision + 1))
    assert refusal(ask(world, payment, snapshot=snapshot)).endswith("since you viewed it: the card's data changed")


def test_form_submitted_twice_charges_once(world: World) -> None:
    account = world.account("A-1")
    world.add_primary_card(account, story=DeclinesThenPays(times=1, decline_code="insufficient_funds"))
    payment = world.add_due_payment(account)
    snapshot = look(world, payment).snapshot
    ask(world, payment, snapshot=snapshot)
    world.charge(payment)
    assert world.payment(payment).state == "retry_scheduled"
    assert refusal(ask(world, payment, snapshot=snapshot)).endswith("since you viewed it: attempt 1 was started")
    assert isinstance(ask(world, payment, snapshot=replace(snapshot, attempt_count=1)), ChargePayment)
