"""One payment, one attempt at a time: the rows after each answer of the processor."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, text, update

from shared.db.tables.accounts import cards, payment_settings
from shared.db.tables.system import billing_events
from shared.messaging.jobs import ChargePayment
from simulator.issuer.stories import AlwaysDeclines, DeclinesThenPays, NeedsAuthentication
from tests.world import World


def test_good_card_pays_and_all_rows_are_written(world: World) -> None:
    account = world.account("A-1")
    world.add_primary_card(account)
    payment = world.add_due_payment(account, 29_85)
    world.charge(payment)
    assert world.captured_amounts(payment) == [29_85]
    row = world.payment(payment)
    assert (row.state, row.paid_at) == ("paid", world.clock.now())
    (attempt,) = world.attempts(payment)
    assert (attempt.state, attempt.number, attempt.http_status) == ("succeeded", 1, 200)
    assert attempt.stripe_request_id.startswith("req_")
    assert attempt.stripe_charge_id.startswith("ch_")
    (intent,) = world.intents(payment)
    assert (intent.ordinal, intent.status, intent.closed_reason) == (1, "succeeded", "succeeded")
    assert [kind for kind, _ in world.billing_events(payment)] == [
        "attempt_started",
        "attempt_answered",
        "payment_moved",
    ]


def test_attempt_stores_its_card_and_requester(world: World) -> None:
    account = world.account("A-1")
    card = world.add_primary_card(account)
    payment = world.add_due_payment(account, requested_by="anna")
    world.charge(payment)
    (attempt,) = world.attempts(payment)
    with world.engine.connect() as connection:
        card_id = connection.scalar(
            select(cards.c.id).where(cards.c.stripe_payment_method_id == card.payment_method)
        )
    assert (attempt.requested_by, attempt.card_id) == ("anna", card_id)
    assert (attempt.stripe_payment_method_id, attempt.card_network) == (card.payment_method, "visa")


def test_later_attempt_may_confirm_from_its_claim_on(world: World) -> None:
    """Its PaymentIntent's ID is known: settlement must look it up, because the confirm may have been sent."""
    account = world.account("A-1")
    world.add_primary_card(account, story=DeclinesThenPays(times=1, decline_code="insufficient_funds"))
    payment = world.add_due_payment(account)
    world.charge(payment)
    world.clock.set(world.payment(payment).next_attempt_at)
    world.charge(payment)
    assert [attempt.confirm_allowed_at for attempt in world.attempts(payment)] == [world.machine()] * 2


def test_charging_twice_charges_once(world: World) -> None:
    account = world.account("A-1")
    world.add_primary_card(account)
    payment = world.add_due_payment(account)
    for _ in range(3):
        world.charge(payment)
    assert world.captured_amounts(payment) == [5_00]
    assert len(world.attempts(payment)) == 1


def test_create_and_confirm_have_separate_idempotency_keys(world: World) -> None:
    account = world.account("A-1")
    world.add_primary_card(account)
    payment = world.add_due_payment(account)
    world.charge(payment)
    sent = [snapshot for snapshot in world.simulator.requests("payment_intents") if snapshot.method == "POST"]
    assert [snapshot.path.rsplit("/", 1)[-1] for snapshot in sent] == ["payment_intents", "confirm"]
    assert [snapshot.idempotency_key for snapshot in sent] == [
        f"duecourse-create-{payment}-1",
        f"duecourse-charge-{payment}-1",
    ]


def test_metadata_carries_our_ids(world: World) -> None:
    account = world.account("A-1")
    world.add_primary_card(account)
    payment = world.add_due_payment(account)
    world.charge(payment)
    (line,) = world.simulator.ledger()
    assert line.metadata["duecourse_payment_id"] == str(payment)
    assert line.customer == world.customer_id(account)


def test_payment_without_a_card_sends_no_request(world: World) -> None:
    payment = world.add_due_payment(world.account("A-1"))
    world.charge(payment)
    row = world.payment(payment)
    assert (row.state, row.waiting_for_revision_after) == ("needs_payment_method", 0)
    assert world.attempts(payment) == []
    assert world.simulator.requests("payment_intents") == []
    assert ("charge_not_attempted", "no card is registered") in world.billing_events(payment)


def test_soft_decline_is_retried_next_morning_in_the_coverage_zone(world: World) -> None:
    account = world.account("J-1", "japan")
    world.add_primary_card(account, story=AlwaysDeclines(decline_code="insufficient_funds"))
    payment = world.add_due_payment(account, 500)
    world.charge(payment)
    row = world.payment(payment)
    assert row.state == "retry_scheduled"
    assert row.next_attempt_at == datetime(2026, 11, 2, 0, 0, tzinfo=UTC), "09:00 in Tokyo"
    assert (row.decline_count, row.lane, row.trigger) == (1, "batch", "daily_retry")
    (attempt,) = world.attempts(payment)
    assert (attempt.state, attempt.code, attempt.decline_code) == (
        "declined",
        "card_declined",
        "insufficient_funds",
    )
    assert attempt.http_status == 402
    assert world.standing(account) == "past_due"
    assert world.captured_amounts(payment) == []


@pytest.mark.parametrize(
    ("card", "code", "decline_code", "state"),
    [
        ("pm_card_visa_chargeDeclined", "card_declined", "generic_decline", "retry_scheduled"),
        ("pm_card_chargeDeclinedExpiredCard", "expired_card", None, "needs_payment_method"),
        ("pm_card_chargeDeclinedProcessingError", "processing_error", None, "retry_scheduled"),
        ("pm_card_visa_chargeDeclinedStolenCard", "card_declined", "stolen_card", "needs_payment_method"),
    ],
)
def test_each_decline_leads_to_its_state(
    world: World, card: str, code: str, decline_code: str | None, state: str
) -> None:
    account = world.account("A-1")
    payment = world.add_due_payment(account)
    registered = world.simulator.make_card("global", AlwaysDeclines(decline_code=decline_code or code))
    world.add_primary_card(account, registered.token)
    world.charge(payment)
    (attempt,) = world.attempts(payment)
    assert (attempt.code, attempt.decline_code) == (code, decline_code)
    assert world.payment(payment).state == state


def test_required_authentication_is_not_a_decline(world: World) -> None:
    account = world.account("A-1")
    world.add_primary_card(account, story=NeedsAuthentication())
    payment = world.add_due_payment(account)
    world.charge(payment)
    row = world.payment(payment)
    assert (row.state, row.decline_count) == ("needs_authentication", 0)
    assert world.attempts(payment)[0].state == "authentication_needed"
    assert world.standing(account) == "good"


def test_stolen_card_is_never_charged_again_for_any_account(world: World) -> None:
    first, second = world.account("A-1"), world.account("A-2")
    stolen = world.simulator.make_card("global", AlwaysDeclines(decline_code="stolen_card"))
    world.add_primary_card(first, stolen.token)
    world.charge(world.add_due_payment(first))
    world.add_primary_card(second, stolen.token)
    other = world.add_due_payment(second)
    world.charge(other)
    assert world.payment(other).state == "needs_payment_method"
    assert "the card network forbids charging this card again" in world.payment(other).state_reason
    assert world.attempts(other) == []


def test_budget_counts_all_payments_of_a_card(world: World) -> None:
    card = world.simulator.make_card(
        "global", AlwaysDeclines(decline_code="insufficient_funds"), brand="mastercard"
    )
    accounts = [world.account(f"A-{number}") for number in range(11)]
    payments = []
    for account in accounts:
        world.add_primary_card(account, card.token, brand="mastercard")
        payments.append(world.add_due_payment(account))
        world.charge(payments[-1])
    assert [len(world.attempts(payment)) for payment in payments] == [1] * 10 + [0]
    row = world.payment(payments[-1])
    assert (row.state, row.next_attempt_at) == ("retry_scheduled", world.clock.now() + timedelta(days=1))
    assert "the network allows 10" in row.state_reason
    with world.engine.connect() as connection:
        event = connection.execute(
            select(billing_events).where(
                billing_events.c.payment_id == row.id, billing_events.c.type == "charge_not_attempted"
            )
        ).one()
    assert event.account_id == accounts[-1].id
    assert event.data == {"next_attempt_at": row.next_attempt_at.isoformat(), "trigger": row.trigger}


def test_confirmation_limit_cancels_the_payment_intent_and_its_successor_pays_once(world: World) -> None:
    account = world.account("A-1")
    world.add_primary_card(account, story=DeclinesThenPays(times=10, decline_code="insufficient_funds"))
    payment = world.add_due_payment(account)
    for _ in range(12):
        world.charge(payment)
        world.clock.set(world.clock.now() + timedelta(days=1))
    assert world.captured_amounts(payment) == [5_00]
    assert [row.state for row in world.attempts(payment)] == ["declined"] * 10 + ["canceled", "succeeded"]
    assert [(row.ordinal, row.closed_reason) for row in world.intents(payment)] == [
        (1, "canceled"),
        (2, "succeeded"),
    ]


def test_payment_interrupted_by_a_cancellation_is_retried_at_once(world: World) -> None:
    account = world.account("A-1")
    world.add_primary_card(account, story=DeclinesThenPays(times=10, decline_code="insufficient_funds"))
    payment = world.add_due_payment(account)
    for _ in range(11):
        world.charge(payment)
        world.clock.set(world.clock.now() + timedelta(days=1))
    row = world.payment(payment)
    assert row.state == "due"
    assert row.next_attempt_at < world.clock.now()
    assert row.decline_count == 10, "a canceled PaymentIntent reaches no issuer"
    assert (
        ChargePayment(payment, "batch") in world.enqueued or ChargePayment(payment, "interactive") in world.enqueued
    )


def test_cancellation_in_the_stripe_dashboard_is_not_overruled(world: World) -> None:
    account = world.account("A-1")
    world.add_primary_card(account, story=DeclinesThenPays(times=1, decline_code="insufficient_funds"))
    payment = world.add_due_payment(account)
    world.charge(payment)
    (intent,) = world.intents(payment)
    world.simulator.cancel_payment_intent("global", intent.stripe_payment_intent_id)
    world.clock.set(world.clock.now() + timedelta(days=1))
    for _ in range(3):
        world.charge(payment)
        world.clock.set(world.clock.now() + timedelta(days=1))
    assert world.captured_amounts(payment) == []
    assert len(world.intents(payment)) == 1
    row = world.payment(payment)
    assert row.held_until.year == 9999
    assert "canceled at Stripe by a user of Stripe" in row.state_reason
    with world.engine.connect() as connection:
        assert connection.scalar(text("SELECT kind FROM findings")) == "canceled_by_a_person"


def test_card_registered_during_a_decline_is_charged(world: World) -> None:
    """I15: the attempt stores the revision; recording its outcome reads it again."""
    account = world.account("A-1")
    world.add_primary_card(account, story=AlwaysDeclines(decline_code="expired_card"))
    payment = world.add_due_payment(account)
    gateway = world.runtime.gateways["global"]
    original = gateway.confirm_payment_intent

    def confirm_during_registration(*arguments: str) -> object:
        answer = original(*arguments)
        if len(world.attempts(payment)) == 1:
            world.add_primary_card(account)
        return answer

    gateway.confirm_payment_intent = confirm_during_registration
    world.charge(payment)
    row = world.payment(payment)
    assert (row.state, row.lane, row.trigger) == ("due", "interactive", "card_registered")
    assert ChargePayment(payment, "interactive") in world.enqueued
    world.charge(payment)
    assert world.captured_amounts(payment) == [5_00]


def test_waiting_payment_is_woken_only_by_a_newer_card(world: World) -> None:
    account = world.account("A-1")
    payment = world.add_due_payment(account)
    world.charge(payment)
    with world.engine.begin() as connection:  # the card was detached: newer revision, no card
        connection.execute(update(payment_settings).values(card_revision=5))
    world.charge(payment)
    assert world.payment(payment).state == "needs_payment_method"
    world.add_primary_card(account)
    world.charge(payment)
    assert world.captured_amounts(payment) == [5_00]


def test_paying_the_last_unpaid_payment_restores_good_standing(world: World) -> None:
    account = world.account("A-1")
    world.add_primary_card(account, story=DeclinesThenPays(times=7, decline_code="insufficient_funds"))
    payment = world.add_due_payment(account)
    standings = []
    for _ in range(8):
        world.charge(payment)
        standings.append(world.standing(account))
        world.clock.set(world.clock.now() + timedelta(days=1))
    assert standings == ["past_due"] * 6 + ["marked_for_suspension", "good"]
    with world.engine.connect() as connection:
        told = connection.execute(
            text("SELECT after ->> 'standing' FROM billing_events WHERE type = 'standing_changed' ORDER BY id")
        )
        assert [row[0] for row in told] == ["past_due", "marked_for_suspension", "good"]
