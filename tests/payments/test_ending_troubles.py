"""Endings whose answers are lost, whose workers are killed, and that are taken back; and what is said of them."""

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
from tests.payments.endings import (
    WRITTEN_OFF,
    account_with_a_bad_card,
    ask_to_end,
    assert_clean,
    declined,
    due,
    end,
    status_there,
    take_back,
    told,
)
from tests.payments.wire import (
    KilledError,
    Wire,
    kill,
    let_the_lease_run_out,
    lose,
    sent,
    settle_last,
)
from tests.seed import Account
from tests.world import World


@pytest.fixture
def account(world: World) -> Account:
    return account_with_a_bad_card(world)


# -- lost and killed on the way


@pytest.mark.parametrize("request_", ["cancel_payment_intent"])
@pytest.mark.parametrize("when", ["lost after it was done", "killed before it left", "killed after it was done"])
def test_a_cancellation_without_an_answer_is_settled_and_the_payment_ends(
    world: World, wire: Wire, account: Account, when: str, request_: str
) -> None:
    payment = declined(world, account)
    ask_to_end(world, payment)
    if "lost" in when:
        wire.after[request_] = lose
        end(world, payment)
    else:
        (wire.before if "before" in when else wire.after)[request_] = kill
        with pytest.raises(KilledError):
            end(world, payment)
    wire.before.clear()
    wire.after.clear()
    assert world.payment(payment).state == "retry_scheduled", "nobody has seen it canceled"
    end(world, payment)
    assert len(world.attempts(payment)) == 2, "its attempt is open: nobody asks beside it"
    assert isinstance(take_back(world, payment), Refused)
    let_the_lease_run_out(world)
    assert SettleAttempt(world.attempts(payment)[-1].id) in due(world)
    settle_last(world, payment)
    if "before" in when:
        assert world.attempts(payment)[-1].state == "not_sent"
        assert world.payment(payment).pending_close_as == "void"
        world.machine.advance(seconds=30)
        assert due(world) == {ClosePayment(payment)}
        end(world, payment)
    assert world.payment(payment).state == "void"
    assert status_there(world, payment) == "canceled"
    assert_clean(world, payment)


def test_a_processor_that_is_away_is_asked_again_after_a_pause(world: World, wire: Wire, account: Account) -> None:
    payment = declined(world, account)
    ask_to_end(world, payment)
    wire.after["cancel_payment_intent"] = lambda _: Answer(Outcome.NOT_SENT, "rate_limited: not now")
    end(world, payment)
    assert due(world) == set(), "it backs off"
    end(world, payment)
    assert len(world.attempts(payment)) == 2
    wire.after.clear()
    world.machine.advance(seconds=10)
    assert due(world) == {ClosePayment(payment)}
    end(world, payment)
    assert world.payment(payment).state == "void"
    assert [attempt.state for attempt in world.attempts(payment)] == ["declined", "not_sent", "canceled"]


# -- a create whose id was never learnt


def with_an_unanswered_create(world: World, wire: Wire, account: Account) -> UUID:
    payment = world.add_due_payment(account)
    wire.after["create_payment_intent"] = lose
    world.charge(payment)
    wire.after.clear()
    (intent,) = world.intents(payment)
    assert (intent.stripe_payment_intent_id, intent.closed_reason) == (None, None)
    return payment


def test_a_create_without_an_answer_is_repeated_under_its_key_and_what_it_made_is_canceled(
    world: World, wire: Wire, account: Account
) -> None:
    payment = with_an_unanswered_create(world, wire, account)
    assert ask_to_end(world, payment) == ClosePayment(payment), "it may be there, and nobody knows its id"
    assert world.payment(payment).state == "due"
    end(world, payment)
    assert world.payment(payment).state == "void"
    (intent,) = world.intents(payment)
    assert intent.closed_reason == "canceled"
    assert status_there(world, payment) == "canceled"
    made = [
        snapshot for snapshot in world.simulator.requests(limit=10_000) if snapshot.path == "/v1/payment_intents"
    ]
    assert len({snapshot.idempotency_key for snapshot in made}) == 1
    assert_clean(world, payment)


def test_killed_between_that_create_and_its_cancellation_it_goes_on_by_itself(
    world: World, wire: Wire, account: Account
) -> None:
    payment = with_an_unanswered_create(world, wire, account)
    ask_to_end(world, payment)
    wire.after["create_payment_intent"] = kill
    with pytest.raises(KilledError):
        end(world, payment)
    wire.after.clear()
    let_the_lease_run_out(world)
    settle_last(world, payment)
    assert world.payment(payment).pending_close_as == "void"
    world.machine.advance(seconds=30)
    end(world, payment)
    assert (world.payment(payment).state, status_there(world, payment)) == ("void", "canceled")


def test_a_create_that_nobody_can_repeat_any_more_was_never_confirmed_and_is_given_up(
    world: World, wire: Wire, account: Account
) -> None:
    payment = with_an_unanswered_create(world, wire, account)
    ask_to_end(world, payment)
    world.machine.advance(hours=24)
    creates = sent(world, "/v1/payment_intents")
    end(world, payment)
    assert world.payment(payment).state == "void"
    assert world.intents(payment)[0].closed_reason == "abandoned"
    assert sent(world, "/v1/payment_intents") == creates, "it would make another one"
    assert_clean(world, payment)


# -- taking it back


def test_a_person_takes_it_back_until_the_cancellation_has_begun(world: World, account: Account) -> None:
    payment = declined(world, account)
    before = world.payment(payment)
    ask_to_end(world, payment)
    assert take_back(world, payment) == CloseWithdrawn(payment, None)
    assert world.payment(payment) == before
    (event,) = told(world, payment, "ending_taken_back")
    assert (event.actor, event.reason) == ("operator:bob", "it was right")
    end(world, payment)
    assert world.intents(payment)[0].closed_reason is None
    assert isinstance(take_back(world, payment), Refused)
    ask_to_end(world, payment)
    end(world, payment)
    assert isinstance(take_back(world, payment), Refused), "it is void"


def test_what_is_due_when_it_is_taken_back_is_rung_for(world: World, account: Account) -> None:
    payment = declined(world, account)
    ask_to_end(world, payment)
    world.clock.set(world.clock.now() + timedelta(days=2))
    assert take_back(world, payment) == CloseWithdrawn(payment, ChargePayment(payment, Lane.BATCH))


@pytest.mark.parametrize("reason", ["", "  "])
def test_without_a_reason_nothing_is_ended_or_taken_back(world: World, account: Account, reason: str) -> None:
    payment = declined(world, account)
    assert isinstance(ask_to_end(world, payment, reason=reason), Refused)
    ask_to_end(world, payment)
    assert isinstance(take_back(world, payment, reason), Refused)
    assert world.payment(payment).pending_close_as == "void"
    for other in (ask_to_end(world, payment, WRITTEN_OFF), ask_to_end(world, uuid4()), take_back(world, uuid4())):
        assert isinstance(other, Refused)


# -- explained


def test_what_comes_next_says_that_it_is_being_ended(world: World, wire: Wire, account: Account) -> None:
    payment = declined(world, account)
    ask_to_end(world, payment, WRITTEN_OFF)

    def explained() -> str:
        with world.engine.connect() as connection:
            found = explain_payment(connection, world.policy, payment, world.clock.now(), world.machine())
        return found.next_step.sentence

    assert explained().startswith("It is being written off: its PaymentIntent is canceled at the processor")
    wire.after["cancel_payment_intent"] = lambda _: Answer(Outcome.NOT_SENT, "rate_limited: not now")
    end(world, payment)
    assert "The processor could not be reached" in explained()
    world.machine.advance(seconds=10)
    wire.after["cancel_payment_intent"] = lose
    end(world, payment)
    assert explained().startswith("It is being written off. ")
    assert "The outcome of attempt 3" in explained()
    wire.after.clear()
    let_the_lease_run_out(world)
    settle_last(world, payment)
    assert explained() == "None: written off by operator:anna: billed by mistake."


def test_a_payment_that_waits_for_authentication_ends_like_any_other(world: World) -> None:
    elsa = world.account("E-1")
    world.add_primary_card(elsa, story=NeedsAuthentication())
    payment = declined(world, elsa)
    assert world.payment(payment).state == "needs_authentication"
    ask_to_end(world, payment)
    end(world, payment)
    assert world.payment(payment).state == "void"
    assert_clean(world, payment)
