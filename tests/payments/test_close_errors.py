"""Closes with lost answers or killed workers, withdrawn closes, and how they are explained."""

from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from shared.domain.refusals import Refused
from shared.domain.states import Lane
from shared.explain.explanation import explain_payment
from shared.gateway.port import Answer, Outcome
from shared.messaging.jobs import ChargePayment, ClosePayment, SettleAttempt
from shared.payments.operator.close import CloseWithdrawn
from simulator.issuer.stories import NeedsAuthentication
from tests.payments.closing import (
    WRITTEN_OFF,
    account_with_declining_card,
    assert_verify_is_clean,
    billing_events_of,
    declined_payment,
    due_jobs,
    processor_status,
    request_close_by_operator,
    run_close_payment,
    withdraw_close_by_operator,
)
from tests.payments.wire import (
    KilledError,
    Wire,
    count_posts,
    expire_lease,
    kill,
    lose_answer,
    settle_last_attempt,
)
from tests.seed import Account
from tests.world import World


@pytest.fixture
def account(world: World) -> Account:
    return account_with_declining_card(world)


# -- lost and killed on the way


@pytest.mark.parametrize("request_", ["cancel_payment_intent"])
@pytest.mark.parametrize("when", ["lost after it was done", "killed before it left", "killed after it was done"])
def test_cancellation_without_an_answer_is_settled_and_the_payment_closes(
    world: World, wire: Wire, account: Account, when: str, request_: str
) -> None:
    payment = declined_payment(world, account)
    request_close_by_operator(world, payment)
    if "lost" in when:
        wire.after[request_] = lose_answer
        run_close_payment(world, payment)
    else:
        (wire.before if "before" in when else wire.after)[request_] = kill
        with pytest.raises(KilledError):
            run_close_payment(world, payment)
    wire.before.clear()
    wire.after.clear()
    assert world.payment(payment).state == "retry_scheduled", "its cancellation is not confirmed"
    run_close_payment(world, payment)
    assert len(world.attempts(payment)) == 2, "its attempt is open: no other request is sent"
    assert isinstance(withdraw_close_by_operator(world, payment), Refused)
    expire_lease(world)
    assert SettleAttempt(world.attempts(payment)[-1].id) in due_jobs(world)
    settle_last_attempt(world, payment)
    if "before" in when:
        assert world.attempts(payment)[-1].state == "not_sent"
        assert world.payment(payment).pending_close_as == "void"
        world.machine.advance(seconds=30)
        assert due_jobs(world) == {ClosePayment(payment)}
        run_close_payment(world, payment)
    assert world.payment(payment).state == "void"
    assert processor_status(world, payment) == "canceled"
    assert_verify_is_clean(world, payment)


def test_cancellation_is_retried_after_an_outage(world: World, wire: Wire, account: Account) -> None:
    payment = declined_payment(world, account)
    request_close_by_operator(world, payment)
    wire.after["cancel_payment_intent"] = lambda _: Answer(Outcome.NOT_SENT, "rate_limited: not now")
    run_close_payment(world, payment)
    assert due_jobs(world) == set(), "it backs off"
    run_close_payment(world, payment)
    assert len(world.attempts(payment)) == 2
    wire.after.clear()
    world.machine.advance(seconds=10)
    assert due_jobs(world) == {ClosePayment(payment)}
    run_close_payment(world, payment)
    assert world.payment(payment).state == "void"
    assert [attempt.state for attempt in world.attempts(payment)] == ["declined", "not_sent", "canceled"]


# -- a create whose id was never learnt


def payment_with_an_unanswered_create(world: World, wire: Wire, account: Account) -> UUID:
    payment = world.add_due_payment(account)
    wire.after["create_payment_intent"] = lose_answer
    world.charge(payment)
    wire.after.clear()
    (intent,) = world.intents(payment)
    assert (intent.stripe_payment_intent_id, intent.closed_reason) == (None, None)
    return payment


def test_create_without_an_answer_is_repeated_with_its_key_and_then_canceled(
    world: World, wire: Wire, account: Account
) -> None:
    payment = payment_with_an_unanswered_create(world, wire, account)
    assert request_close_by_operator(world, payment) == ClosePayment(payment), "it may exist with an unknown ID"
    assert world.payment(payment).state == "due"
    run_close_payment(world, payment)
    assert world.payment(payment).state == "void"
    (intent,) = world.intents(payment)
    assert intent.closed_reason == "canceled"
    assert processor_status(world, payment) == "canceled"
    made = [
        snapshot for snapshot in world.simulator.requests(limit=10_000) if snapshot.path == "/v1/payment_intents"
    ]
    assert len({snapshot.idempotency_key for snapshot in made}) == 1
    assert_verify_is_clean(world, payment)


def test_close_resumes_after_a_kill_between_create_and_cancellation(
    world: World, wire: Wire, account: Account
) -> None:
    payment = payment_with_an_unanswered_create(world, wire, account)
    request_close_by_operator(world, payment)
    wire.after["create_payment_intent"] = kill
    with pytest.raises(KilledError):
        run_close_payment(world, payment)
    wire.after.clear()
    expire_lease(world)
    settle_last_attempt(world, payment)
    assert world.payment(payment).pending_close_as == "void"
    world.machine.advance(seconds=30)
    run_close_payment(world, payment)
    assert (world.payment(payment).state, processor_status(world, payment)) == ("void", "canceled")


def test_create_with_an_expired_key_was_never_confirmed_and_is_given_up(
    world: World, wire: Wire, account: Account
) -> None:
    payment = payment_with_an_unanswered_create(world, wire, account)
    request_close_by_operator(world, payment)
    world.machine.advance(hours=24)
    creates = count_posts(world, "/v1/payment_intents")
    run_close_payment(world, payment)
    assert world.payment(payment).state == "void"
    assert world.intents(payment)[0].closed_reason == "abandoned"
    assert count_posts(world, "/v1/payment_intents") == creates, "it would create another one"
    assert_verify_is_clean(world, payment)


# -- taking it back


def test_close_can_be_withdrawn_until_the_cancellation_begins(world: World, account: Account) -> None:
    payment = declined_payment(world, account)
    before = world.payment(payment)
    request_close_by_operator(world, payment)
    assert withdraw_close_by_operator(world, payment) == CloseWithdrawn(payment, None)
    assert world.payment(payment) == before
    (event,) = billing_events_of(world, payment, "ending_taken_back")
    assert (event.actor, event.reason) == ("operator:bob", "it was right")
    run_close_payment(world, payment)
    assert world.intents(payment)[0].closed_reason is None
    assert isinstance(withdraw_close_by_operator(world, payment), Refused)
    request_close_by_operator(world, payment)
    run_close_payment(world, payment)
    assert isinstance(withdraw_close_by_operator(world, payment), Refused), "it is void"


def test_due_payment_is_enqueued_when_its_close_is_withdrawn(world: World, account: Account) -> None:
    payment = declined_payment(world, account)
    request_close_by_operator(world, payment)
    world.clock.set(world.clock.now() + timedelta(days=2))
    assert withdraw_close_by_operator(world, payment) == CloseWithdrawn(payment, ChargePayment(payment, Lane.BATCH))


@pytest.mark.parametrize("reason", ["", "  "])
def test_close_and_withdrawal_require_a_reason(world: World, account: Account, reason: str) -> None:
    payment = declined_payment(world, account)
    assert isinstance(request_close_by_operator(world, payment, reason=reason), Refused)
    request_close_by_operator(world, payment)
    assert isinstance(withdraw_close_by_operator(world, payment, reason), Refused)
    assert world.payment(payment).pending_close_as == "void"
    for other in (
        request_close_by_operator(world, payment, WRITTEN_OFF),
        request_close_by_operator(world, uuid4()),
        withdraw_close_by_operator(world, uuid4()),
    ):
        assert isinstance(other, Refused)


# -- explained


def test_next_step_names_the_pending_close(world: World, wire: Wire, account: Account) -> None:
    payment = declined_payment(world, account)
    request_close_by_operator(world, payment, WRITTEN_OFF)

    def explained() -> str:
        with world.engine.connect() as connection:
            found = explain_payment(connection, world.policy, payment, world.clock.now(), world.machine())
        return found.next_step.sentence

    assert explained().startswith("It is being written off: its PaymentIntent is canceled at the processor")
    wire.after["cancel_payment_intent"] = lambda _: Answer(Outcome.NOT_SENT, "rate_limited: not now")
    run_close_payment(world, payment)
    assert "The processor could not be reached" in explained()
    world.machine.advance(seconds=10)
    wire.after["cancel_payment_intent"] = lose_answer
    run_close_payment(world, payment)
    assert explained().startswith("It is being written off. ")
    assert "The outcome of attempt 3" in explained()
    wire.after.clear()
    expire_lease(world)
    settle_last_attempt(world, payment)
    assert explained() == "None: written off by operator:anna: billed by mistake."


def test_payment_awaiting_authentication_can_be_closed(world: World) -> None:
    elsa = world.account("E-1")
    world.add_primary_card(elsa, story=NeedsAuthentication())
    payment = declined_payment(world, elsa)
    assert world.payment(payment).state == "needs_authentication"
    request_close_by_operator(world, payment)
    run_close_payment(world, payment)
    assert world.payment(payment).state == "void"
    assert_verify_is_clean(world, payment)
