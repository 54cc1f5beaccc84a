"""Write-off and void: never while the payment could still be paid, always eventually, and captured money wins."""

from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import select, text

from shared.accounts.cards import find_card, register_card
from shared.accounts.registrations import Registration
from shared.db.billing_events import Cause
from shared.db.tables.invoices import invoices
from shared.db.tables.payments import payments
from shared.domain.refusals import Refused
from shared.domain.states import Lane, PaymentState
from shared.messaging.jobs import ChargePayment, ClosePayment
from shared.payments.cancellation import Closed
from shared.payments.card_changes import wake_payments
from shared.payments.operator.charge import preview_charge, request_charge
from shared.payments.operator.close import CloseWithdrawn
from shared.payments.operator.hold import hold_payment
from shared.payments.record_outcome import record_observation
from shared.reconciliation.verify import Scope, verify
from shared.scheduling.retry_preview import preview_retries
from simulator.issuer.stories import AlwaysDeclines, Pays
from tests.payments.closing import (
    ANNA,
    VOID,
    WRITTEN_OFF,
    account_with_declining_card,
    assert_verify_is_clean,
    billing_events_of,
    confirm_in_browser,
    declined_payment,
    due_jobs,
    processor_status,
    request_close_by_operator,
    run_close_payment,
    withdraw_close_by_operator,
)
from tests.payments.wire import (
    Wire,
    count_posts,
    lose_answer,
)
from tests.seed import Account, add_fee, add_run
from tests.world import World
from workers.use_cases.generate_invoices import generate_invoices
from workers.use_cases.retry_payments import retry_payments


@pytest.fixture
def account(world: World) -> Account:
    return account_with_declining_card(world)


# -- at once


@pytest.mark.parametrize(("as_", "word"), [(VOID, "voided"), (WRITTEN_OFF, "written off")])
def test_payment_never_attempted_closes_at_once(
    world: World, account: Account, as_: PaymentState, word: str
) -> None:
    payment = world.add_due_payment(account)
    assert request_close_by_operator(world, payment, as_) == Closed(payment, as_)
    row = world.payment(payment)
    assert (row.state, row.pending_close_as, row.next_attempt_at) == (as_, None, None)
    assert row.state_reason == f"{word} by operator:anna: billed by mistake"
    assert [kind for kind, _ in world.billing_events(payment)] == ["ending_requested", "payment_moved"]
    (moved,) = billing_events_of(world, payment, "payment_moved")
    assert (moved.actor, moved.reason) == (ANNA, row.state_reason)
    world.charge(payment)
    assert world.intents(payment) == []
    assert due_jobs(world) == set()


def test_payment_without_a_card_or_awaiting_transfer_closes_at_once(world: World) -> None:
    account = world.account("no-card")
    waiting, transfer = (
        world.add_due_payment(account),
        world.add_due_payment(account, state=PaymentState.AWAITING_TRANSFER, state_reason="pays by bank transfer"),
    )
    world.charge(waiting)
    for payment in (waiting, transfer):
        assert isinstance(request_close_by_operator(world, payment), Closed)
        assert world.payment(payment).state == "void"


def test_held_payment_may_be_closed(world: World, account: Account) -> None:
    payment = declined_payment(world, account)
    with world.engine.begin() as connection:
        hold_payment(connection, world.policy, payment, None, Cause(ANNA, world.clock.now(), "disputed"))
    assert request_close_by_operator(world, payment) == ClosePayment(payment)
    run_close_payment(world, payment)
    assert (world.payment(payment).state, world.payment(payment).held_until) == ("void", None)


def test_void_voids_the_invoice_and_write_off_keeps_it(world: World) -> None:
    ids = {}
    for name in ("void", "lost"):
        account = world.account(name)
        with world.engine.begin() as connection:
            add_fee(connection, account, 7_00)
    with world.engine.begin() as connection:
        run_id = add_run(connection)
    generate_invoices(world.runtime, run_id)
    while world.enqueued:
        world.enqueued.clear()
        generate_invoices(world.runtime, run_id)
    with world.engine.connect() as connection:
        for row in connection.execute(
            text("SELECT a.external_id AS name, p.id FROM payments p JOIN accounts a ON a.id = p.account_id")
        ):
            ids[row.name] = row.id
    request_close_by_operator(world, ids["void"], VOID)
    request_close_by_operator(world, ids["lost"], WRITTEN_OFF)
    with world.engine.connect() as connection:
        voided = {
            row.id: row.voided_at
            for row in connection.execute(
                select(payments.c.id, invoices.c.voided_at).join(invoices, payments.c.invoice_id == invoices.c.id)
            )
        }
    assert voided == {ids["void"]: world.clock.now(), ids["lost"]: None}
    (event,) = billing_events_of(world, ids["void"], "invoice_voided")
    assert event.reason == "voided by operator:anna: billed by mistake"
    assert billing_events_of(world, ids["lost"], "invoice_voided") == []
    report = verify(
        world.engine,
        Scope(now=world.clock.now(), machine_now=world.machine(), forgotten_after=timedelta(0)),
        gateways=world.runtime.gateways,
        coverages=world.policy.coverages,
    )
    assert [one.check.name for one in report.results if not one.holds] == []


# -- after the PaymentIntent was seen canceled


def test_payment_closes_only_after_its_payment_intent_is_canceled(world: World, account: Account) -> None:
    payment = declined_payment(world, account)
    assert request_close_by_operator(world, payment, WRITTEN_OFF) == ClosePayment(payment)
    waiting = world.payment(payment)
    assert (waiting.state, waiting.pending_close_as) == ("retry_scheduled", "uncollectible")
    assert due_jobs(world) == {ClosePayment(payment)}
    run_close_payment(world, payment)
    assert processor_status(world, payment) == "canceled"
    row = world.payment(payment)
    assert (row.state, row.pending_close_as) == ("uncollectible", None)
    assert row.state_reason == "written off by operator:anna: billed by mistake"
    (intent,) = world.intents(payment)
    cancel = world.attempts(payment)[-1]
    assert (intent.closed_reason, cancel.kind, cancel.state) == ("canceled", "cancel", "canceled")
    assert (cancel.requested_by, cancel.trigger, cancel.card_id) == (ANNA, "operator", None)
    assert (world.captured_amounts(payment), due_jobs(world)) == ([], set())
    assert_verify_is_clean(world, payment)


def test_payment_is_not_charged_once_its_close_is_requested(world: World, account: Account) -> None:
    payment = declined_payment(world, account)
    world.clock.set(world.clock.now() + timedelta(days=2))
    request_close_by_operator(world, payment)
    confirms = count_posts(world, "/confirm")
    world.charge(payment)
    with world.engine.begin() as connection:
        refused = request_charge(connection, payment, Cause(ANNA, world.clock.now(), "after all"), world.machine())
        assert isinstance(refused, Refused)
        assert "being voided" in refused.reason
        assert isinstance(preview_charge(connection, payment, world.clock.now(), world.machine()), Refused)
    assert due_jobs(world) == {ClosePayment(payment)}, "neither the queue nor the daily run has it"
    assert count_posts(world, "/confirm") == confirms


def test_daily_run_skips_a_payment_with_a_pending_close(world: World, account: Account) -> None:
    payment, other = (
        declined_payment(world, account),
        declined_payment(world, account_with_declining_card(world, "A-2")),
    )
    request_close_by_operator(world, payment)
    world.clock.set(world.clock.now() + timedelta(days=1))
    with world.engine.begin() as connection:
        run_id = add_run(connection, "2026-11-02", job="daily-retries")
        snapshot = preview_retries(connection, world.policy.coverage("global"), world.clock.now(), world.machine())
    assert (snapshot.payments, [(one.reason, one.payments) for one in snapshot.skipped]) == (
        1,
        [("being_ended", 1)],
    )
    retry_payments(world.runtime, run_id)
    assert (world.payment(payment).state, world.payment(other).state) == ("retry_scheduled", "due")


def register(world: World, account: Account) -> None:
    """Register a card that pays, as the webhook of its SetupIntent does."""
    registered = world.register_card(account, story=Pays())
    card = world.runtime.gateways["global"].retrieve_card(registered.payment_method)
    with world.engine.begin() as connection:
        known = find_card(connection, "global", registered.payment_method)
        registration = Registration(
            "global",
            f"seti_{uuid4().hex}",
            account.settings_id,
            world.customer_id(account),
            registered.payment_method,
            True,
            world.clock.now(),
        )
        wake_payments(connection, register_card(connection, registration, card, known, world.clock.now()))


def test_card_registered_during_a_pending_close_is_charged_only_after_withdrawal(
    world: World, account: Account
) -> None:
    world.add_primary_card(account, story=AlwaysDeclines(decline_code="expired_card"))
    payment = declined_payment(world, account)
    assert world.payment(payment).state == "needs_payment_method"
    request_close_by_operator(world, payment)
    register(world, account)
    world.charge(payment)
    assert (world.payment(payment).state, due_jobs(world)) == ("needs_payment_method", {ClosePayment(payment)})
    assert world.billing_events(payment)[-1] == (
        "charge_not_attempted",
        "a card was registered, but an operator is closing the payment",
    )
    assert withdraw_close_by_operator(world, payment) == CloseWithdrawn(payment, None)
    assert ChargePayment(payment, Lane.INTERACTIVE) in due_jobs(world), "no wake-up is lost (I15)"
    world.charge(payment)
    assert world.captured_amounts(payment) == [5_00]


def test_close_waits_for_an_open_attempt(world: World, wire: Wire) -> None:
    payer = world.account("P-1")
    world.add_primary_card(payer)
    wire.after["confirm_payment_intent"] = lose_answer
    payment = world.add_due_payment(payer)
    world.charge(payment)
    refused = request_close_by_operator(world, payment)
    assert isinstance(refused, Refused)
    assert refused.reason == "attempt 1 may still charge the card (unknown)"
    assert world.payment(payment).pending_close_as is None
    (event,) = billing_events_of(world, payment, "decision_refused")
    assert event.data == {"asked_for": "be voided", "asked_because": "billed by mistake"}


@pytest.mark.parametrize("canceled_by", ["a person at the processor", "Stripe"])
def test_payment_closes_by_whatever_cancels_its_payment_intent(
    world: World, wire: Wire, account: Account, canceled_by: str
) -> None:
    payment = declined_payment(world, account)
    request_close_by_operator(world, payment)
    (intent,) = world.intents(payment)
    wire.cancel_payment_intent(intent.stripe_payment_intent_id, "another-key")
    answer = wire.retrieve_payment_intent(intent.stripe_payment_intent_id)
    if canceled_by == "Stripe":
        answer = replace(answer, payment_intent=replace(answer.payment_intent, cancellation_reason="automatic"))
    record_observation(world.runtime, intent.id, answer, "stripe")
    assert world.payment(payment).state == "void"
    with world.engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM findings")).scalar_one() == 0
    run_close_payment(world, payment)
    assert len(world.attempts(payment)) == 1, "nothing is left to cancel"
    assert_verify_is_clean(world, payment)


# -- money wins


@pytest.mark.parametrize("seen_by", ["the cancellation", "a webhook"])
def test_money_captured_first_is_booked_and_the_close_is_dropped(
    world: World, account: Account, seen_by: str
) -> None:
    payment = declined_payment(world, account)
    request_close_by_operator(world, payment)
    confirm_in_browser(world, payment, account)
    if seen_by == "a webhook":
        (intent,) = world.intents(payment)
        answer = world.runtime.gateways["global"].retrieve_payment_intent(intent.stripe_payment_intent_id)
        record_observation(world.runtime, intent.id, answer, "stripe")
    run_close_payment(world, payment)
    row = world.payment(payment)
    assert (row.state, row.pending_close_as) == ("paid", None)
    assert world.captured_amounts(payment) == [5_00]
    (event,) = billing_events_of(world, payment, "ending_overtaken")
    assert event.reason == "paid before it could be voided, as operator:anna requested"
    assert isinstance(request_close_by_operator(world, payment), Refused)
    assert_verify_is_clean(world, payment)


def test_success_webhook_during_the_cancellation_pays_the_payment(
    world: World, wire: Wire, account: Account
) -> None:
    payment = declined_payment(world, account)
    request_close_by_operator(world, payment)

    def pay_and_deliver_webhook() -> None:
        wire.before.clear()
        confirm_in_browser(world, payment, account)
        (intent,) = world.intents(payment)
        answer = wire.retrieve_payment_intent(intent.stripe_payment_intent_id)
        record_observation(world.runtime, intent.id, answer, "stripe")

    wire.before["cancel_payment_intent"] = pay_and_deliver_webhook
    run_close_payment(world, payment)
    assert (world.payment(payment).state, world.payment(payment).pending_close_as) == ("paid", None)
    assert world.captured_amounts(payment) == [5_00]
    assert [attempt.state for attempt in world.attempts(payment)] == ["declined", "succeeded"]
    assert_verify_is_clean(world, payment)


def test_concurrent_charge_and_close_request_are_serialized(world: World, wire: Wire, account: Account) -> None:
    payment = world.add_due_payment(account)
    answers: list[Any] = []
    wire.before["confirm_payment_intent"] = lambda: answers.append(request_close_by_operator(world, payment))
    world.charge(payment)
    (refused,) = answers
    assert isinstance(refused, Refused), "the attempt was committed before its request left"
    wire.before.clear()
    assert isinstance(request_close_by_operator(world, payment), ClosePayment)
    world.clock.set(world.clock.now() + timedelta(days=3))
    wire.before["cancel_payment_intent"] = lambda: world.charge(payment)
    run_close_payment(world, payment)
    assert (world.payment(payment).state, len(world.attempts(payment))) == ("void", 2)
