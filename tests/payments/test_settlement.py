"""Settlement beyond a lost confirm: unanswered cancels, pending money, long outages, operators' look-ups."""

from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text, update

from shared.db.billing_events import Cause
from shared.db.session import in_transaction
from shared.db.tables.payments import payment_attempts
from shared.domain.event_types import EventType
from shared.domain.refusals import Refused
from shared.explain.unknown_attempts import unknown_attempts
from shared.gateway.port import Answer, PaymentIntentSnapshot
from shared.messaging.jobs import SettleAttempt
from shared.payments.operator.charge import request_charge, request_look_up
from shared.payments.settlement import alerts_due
from simulator.issuer.stories import AlwaysDeclines, NeedsAuthentication
from tests.payments.wire import KilledError, Wire, expire_lease, kill, lose_answer, settle_last_attempt
from tests.seed import Account
from tests.world import World


@pytest.fixture
def account(world: World) -> Account:
    account = world.account("A-1")
    world.add_primary_card(account)
    return account


def shows(status: str, **changes: Any) -> Any:
    """Change the status that a look-up finds: some take days at a real processor."""

    def change(answer: Answer) -> Answer:
        assert answer.payment_intent is not None
        snapshot: PaymentIntentSnapshot = replace(answer.payment_intent, status=status, **changes)
        return replace(answer, payment_intent=snapshot)

    return change


def charge_and_lose_the_answer(world: World, wire: Wire, payment: UUID) -> None:
    """The processor captures the money, and its answer is lost."""
    wire.after["confirm_payment_intent"] = lose_answer
    world.charge(payment)
    wire.after.clear()
    assert world.attempts(payment)[-1].state == "unknown"


def look_up_by_operator(world: World, payment: UUID, reason: str = "the customer calls") -> SettleAttempt | Refused:
    return in_transaction(
        world.engine,
        lambda connection: request_look_up(
            connection, payment, Cause("operator:anna", world.clock.now(), reason), world.machine()
        ),
    )


def waits_for_authentication(world: World, account: Account) -> UUID:
    """A payment whose PaymentIntent stays in requires_action: the next attempt cancels it first."""
    world.add_primary_card(account, story=NeedsAuthentication())
    payment = world.add_due_payment(account)
    world.charge(payment)
    intent = world.intents(payment)[0]
    with world.engine.begin() as connection:
        connection.execute(text("UPDATE payment_intents SET status = 'requires_action'"))
    world.add_primary_card(account)
    with world.engine.begin() as connection:
        requested = request_charge(
            connection, payment, Cause("operator:anna", world.clock.now(), "a new card"), world.machine()
        )
    assert not isinstance(requested, Refused), intent
    return payment


@pytest.mark.parametrize("when", ["lost after it was done", "killed before it left", "killed after it was done"])
def test_cancel_without_an_answer_is_settled_and_replaced(
    world: World, wire: Wire, account: Account, when: str
) -> None:
    payment = waits_for_authentication(world, account)
    if when == "lost after it was done":
        wire.after["cancel_payment_intent"] = lose_answer
        world.charge(payment)
    else:
        (wire.before if "before" in when else wire.after)["cancel_payment_intent"] = kill
        with pytest.raises(KilledError):
            world.charge(payment)
    wire.before.clear()
    wire.after.clear()
    cancel = world.attempts(payment)[-1]
    assert (cancel.kind, cancel.state in ("unknown", "started")) == ("cancel", True)
    world.charge(payment)
    assert world.captured_amounts(payment) == [], "nothing is charged while the first cancellation is unknown"
    expire_lease(world)
    settle_last_attempt(world, payment)
    assert world.attempts(payment)[-1].state == ("not_sent" if "before" in when else "canceled")
    for _ in range(2):
        world.machine.advance(seconds=30)
        world.charge(payment)
    assert world.captured_amounts(payment) == [5_00]
    closed = [row.closed_reason for row in world.intents(payment)]
    # If the cancel was never sent, the look-up shows that nothing was canceled: the same one is confirmed.
    assert closed == (["succeeded"] if "before" in when else ["canceled", "succeeded"])


def test_pending_capture_is_awaited_and_booked(world: World, wire: Wire, account: Account) -> None:
    payment = world.add_due_payment(account)
    charge_and_lose_the_answer(world, wire, payment)
    wire.after["retrieve_payment_intent"] = shows("processing", latest_charge_id=None)
    for _ in range(4):
        expire_lease(world)
        settle_last_attempt(world, payment)
        world.charge(payment)
        assert world.attempts(payment)[0].state == "unknown"
    assert len(world.attempts(payment)) == 1
    wire.after.clear()
    world.machine.advance(hours=1)
    settle_last_attempt(world, payment)
    assert (world.payment(payment).state, world.captured_amounts(payment)) == ("paid", [5_00])


@pytest.mark.parametrize("by", ["Stripe", "a person"])
def test_cancellation_found_at_look_up_is_attributed_to_stripe_or_a_user(
    world: World, wire: Wire, account: Account, by: str
) -> None:
    payment = world.add_due_payment(account)
    wire.before["confirm_payment_intent"] = kill
    with pytest.raises(KilledError):
        world.charge(payment)
    wire.before.clear()
    reason = "automatic" if by == "Stripe" else "requested_by_customer"
    stripe_id = world.intents(payment)[0].stripe_payment_intent_id
    world.simulator.cancel_payment_intent("global", stripe_id, reason)
    expire_lease(world)
    settle_last_attempt(world, payment)
    assert world.attempts(payment)[0].state == "canceled"
    world.charge(payment)
    if by == "Stripe":
        assert world.captured_amounts(payment) == [5_00]
        assert [row.ordinal for row in world.intents(payment)] == [1, 2]
    else:
        assert world.captured_amounts(payment) == [], "a user canceled it: an operator decides"
        assert world.payment(payment).held_until.year == 9999


def test_look_up_of_an_unknown_payment_intent_leaves_the_outcome_unknown(
    world: World, wire: Wire, account: Account
) -> None:
    payment = world.add_due_payment(account)
    charge_and_lose_the_answer(world, wire, payment)
    with world.engine.begin() as connection:
        connection.execute(text("UPDATE payment_intents SET stripe_payment_intent_id = 'pi_of_another_account'"))
    expire_lease(world)
    settle_last_attempt(world, payment)
    assert world.attempts(payment)[0].state == "unknown"
    assert unknown_attempt_ids(world) == [world.attempts(payment)[0].id]


def unknown_attempt_ids(world: World) -> list[UUID]:
    with world.engine.connect() as connection:
        return [one.attempt_id for one in unknown_attempts(connection, world.machine())]


def test_long_outage_raises_an_alert_after_an_hour_and_then_daily(
    world: World, wire: Wire, account: Account
) -> None:
    payment = world.add_due_payment(account)
    charge_and_lose_the_answer(world, wire, payment)
    wire.after["retrieve_payment_intent"] = lose_answer
    called: list[float] = []
    began = world.attempts(payment)[0].created_at
    while world.machine.now < began + timedelta(days=3):
        world.machine.now = max(world.machine.now, world.attempts(payment)[0].look_up_at)
        settle_last_attempt(world, payment)
        alerts = [kind for kind, _ in world.billing_events(payment)].count(EventType.ATTEMPT_UNKNOWN_FOR_LONG)
        if alerts > len(called):
            called.append((world.machine.now - began) / timedelta(hours=1))
    assert len(called) == 4
    for at, hours in zip(called, [1, 24, 48, 72], strict=True):
        assert hours <= at < hours + 0.3
    wire.after.clear()
    world.machine.advance(hours=1)
    settle_last_attempt(world, payment)
    assert (world.payment(payment).state, world.captured_amounts(payment)) == ("paid", [5_00])


@pytest.mark.parametrize(
    ("age", "alerts"),
    [
        (timedelta(minutes=59, seconds=59), 0),
        (timedelta(hours=1), 1),
        (timedelta(hours=23, minutes=59), 1),
        (timedelta(days=1), 2),
        (timedelta(days=2), 3),
    ],
)
def test_alerts_by_age(age: timedelta, alerts: int) -> None:
    assert alerts_due(age) == alerts


def test_operator_look_up_sends_no_charge(world: World, wire: Wire, account: Account) -> None:
    payment = world.add_due_payment(account)
    charge_and_lose_the_answer(world, wire, payment)
    with world.engine.begin() as connection:  # as after a long outage
        connection.execute(update(payment_attempts).values(look_up_at=world.machine() + timedelta(minutes=15)))
    attempt = world.attempts(payment)[0]
    world.settle(attempt.id)
    assert world.attempts(payment)[0].look_ups == 0, "its look-up is not due"
    confirms = len(world.simulator.requests("/confirm"))
    job = look_up_by_operator(world, payment)
    assert job == SettleAttempt(attempt.id)
    world.settle(attempt.id)
    assert (world.payment(payment).state, world.captured_amounts(payment)) == ("paid", [5_00])
    assert len(world.simulator.requests("/confirm")) == confirms
    assert ("look_up_requested", "the customer calls") in world.billing_events(payment)


def test_look_up_is_refused_inside_the_lease_without_reason_or_known_outcome(
    world: World, wire: Wire, account: Account
) -> None:
    payment = world.add_due_payment(account)
    wire.before["confirm_payment_intent"] = kill
    with pytest.raises(KilledError):
        world.charge(payment)
    refused = look_up_by_operator(world, payment)
    assert isinstance(refused, Refused)
    assert "in progress" in refused.reason
    assert "the lease" not in refused.what_to_do
    expire_lease(world)
    assert isinstance(look_up_by_operator(world, payment, "  "), Refused)
    assert isinstance(look_up_by_operator(world, payment), SettleAttempt)
    settle_last_attempt(world, payment)
    none_open = look_up_by_operator(world, payment)
    assert isinstance(none_open, Refused)
    assert none_open.reason == "no attempt has an unknown outcome"


def test_unknown_attempts_are_listed_with_their_age_until_settled(
    world: World, wire: Wire, account: Account
) -> None:
    payment = world.add_due_payment(account, 12_34)
    charge_and_lose_the_answer(world, wire, payment)
    world.machine.advance(hours=5)
    with world.engine.connect() as connection:
        (one,) = unknown_attempts(connection, world.machine())
    assert (one.payment_id, one.amount_minor, one.currency) == (payment, 12_34, "USD")
    assert abs(one.age - timedelta(hours=5)) < timedelta(minutes=5)
    settle_last_attempt(world, payment)
    assert unknown_attempt_ids(world) == []


def test_decline_is_matched_to_its_attempt_by_charge_id(world: World, wire: Wire, account: Account) -> None:
    world.add_primary_card(account, story=AlwaysDeclines(decline_code="insufficient_funds"))
    payment = world.add_due_payment(account)
    world.charge(payment)
    world.clock.set(world.payment(payment).next_attempt_at)
    charge_and_lose_the_answer(world, wire, payment)
    expire_lease(world)
    settle_last_attempt(world, payment)
    first, second = world.attempts(payment)
    assert (first.state, second.state) == ("declined", "declined")
    assert first.stripe_charge_id != second.stripe_charge_id
    assert world.payment(payment).decline_count == 2
