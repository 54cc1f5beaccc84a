"""What users of other billing systems reported as bugs: late events, long locks, abandoned 3-D Secure.

Polar and Kill Bill publish their issues; each test here is one that they had. Seven clicks, and three months with a
new card, are in `test_what_declines_count.py` and `tests/diaries/test_new_cards.py`.
"""

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from uuid import UUID

import httpx
import pytest
from sqlalchemy import Table, event, select
from sqlalchemy.exc import OperationalError

from shared.db.tables.accounts import accounts, payment_settings
from shared.db.tables.payments import payments
from shared.gateway.port import Answer, Outcome
from shared.payments import record_outcome
from shared.payments.record_outcome import record_answer, record_observation
from simulator.issuer.stories import AlwaysDeclines, DeclinesThenPays, NeedsAuthentication
from tests.payments.wire import Wire, expire_lease, lose_answer, settle_last_attempt
from tests.seed import Account
from tests.world import World, api_key

NO_MONEY = AlwaysDeclines(decline_code="insufficient_funds")


@pytest.fixture
def account(world: World) -> Account:
    return world.account("A-1")


def next_day(world: World) -> None:
    world.clock.set(world.clock.now() + timedelta(days=1))


def do_due(world: World) -> None:
    world.enqueued.extend(world.due_jobs())
    world.do_enqueued()


def observe(world: World, payment: UUID, ordinal: int) -> None:
    """A webhook tells of this PaymentIntent."""
    intent = world.intents(payment)[ordinal - 1]
    answer = world.runtime.gateways["global"].retrieve_payment_intent(intent.stripe_payment_intent_id)
    record_observation(world.runtime, intent.id, answer, "stripe")


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("when", ["before the confirm", "after the charge"])
def test_canceled_event_of_ordinal_1_leaves_ordinal_2_in_flight_alone(
    world: World, wire: Wire, account: Account, when: str, times: int
) -> None:
    world.add_primary_card(account, story=DeclinesThenPays(times=1, decline_code="insufficient_funds"))
    payment = world.add_due_payment(account)
    world.charge(payment)
    world.simulator.cancel_payment_intent("global", world.intents(payment)[0].stripe_payment_intent_id, "automatic")
    observe(world, payment, 1)
    next_day(world)

    def the_event_comes(answer: Answer | None = None) -> Answer | None:
        for _ in range(times):
            observe(world, payment, 1)
        return answer

    hooks: dict[str, Callable[..., object]] = wire.before if when.startswith("before") else wire.after  # type: ignore[assignment]  # one hook for both kinds
    hooks["confirm_payment_intent"] = the_event_comes
    world.charge(payment)
    assert [(row.ordinal, row.closed_reason) for row in world.intents(payment)] == [
        (1, "canceled"),
        (2, "succeeded"),
    ]
    assert [row.state for row in world.attempts(payment)] == ["declined", "succeeded"]
    assert (world.payment(payment).state, world.captured_amounts(payment)) == ("paid", [5_00])


@pytest.mark.parametrize("locked", [accounts, payment_settings, payments], ids=lambda table: table.name)
@pytest.mark.parametrize("when", ["before the claim", "before the record"])
def test_row_locked_for_ten_minutes_counts_no_decline_and_loses_nothing(
    world: World, wire: Wire, account: Account, locked: Table, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A worker waits for 2 s for a lock, and for 20 s to record an answer; here shorter, with the same end.
    event.listen(world.engine, "begin", lambda begun: begun.exec_driver_sql("SET LOCAL lock_timeout = '50ms'"))
    monkeypatch.setattr(record_outcome, "WRITE_INSISTS_FOR_S", 0.1)
    world.add_primary_card(account)
    payment = world.add_due_payment(account)
    with world.engine.connect() as other_session:

        def lock() -> None:
            other_session.execute(select(locked.c.id).with_for_update())

        if when == "before the claim":
            lock()
        else:
            wire.before["confirm_payment_intent"] = lock
        with suppress(OperationalError):  # the message comes again; the row is what counts
            world.charge(payment)
        world.machine.advance(minutes=10)
        is_claim_stopped = when == "before the claim" and locked is not accounts  # which a claim doesn't lock
        assert len(world.attempts(payment)) == (0 if is_claim_stopped else 1)
    wire.before.clear()
    for _ in range(3):
        do_due(world)
    row = world.payment(payment)
    assert (row.state, row.decline_count, row.not_sent_count) == ("paid", 0, 0)
    assert [attempt.state for attempt in world.attempts(payment)] == ["succeeded"]
    assert world.captured_amounts(payment) == [5_00]


def begin_authentication(world: World, payment: UUID) -> str:
    """The customer opens the bank's page: a confirm on session, which waits in requires_action."""
    (intent,) = world.intents(payment)
    stripe_id = str(intent.stripe_payment_intent_id)
    method = world.attempts(payment)[0].stripe_payment_method_id
    answer = httpx.post(
        f"{world.simulator.url}/v1/payment_intents/{stripe_id}/confirm",
        data={"payment_method": method, "return_url": "https://example.com/"},
        auth=(api_key("global"), ""),
    )
    assert answer.json()["status"] == "requires_action", answer.text
    return stripe_id


@pytest.mark.parametrize("pays_by", ["authenticating after all", "another card"])
def test_abandoned_authentication_is_no_decline_and_is_paid_later_once(
    world: World, account: Account, pays_by: str
) -> None:
    world.add_primary_card(account, story=NeedsAuthentication())
    payment = world.add_due_payment(account)
    world.charge(payment)
    assert world.payment(payment).state == "needs_authentication"
    stripe_id = begin_authentication(world, payment)
    observe(world, payment, 1)
    for _ in range(13):  # the customer closed the page
        next_day(world)
        do_due(world)
    row = world.payment(payment)
    assert (row.state, row.decline_count, len(world.attempts(payment))) == ("needs_authentication", 0, 1)
    assert world.standing(account) == "good"

    if pays_by == "another card":
        world.add_primary_card(account)
        for _ in range(3):
            do_due(world)
    else:
        world.simulator.authenticate("global", stripe_id)
        observe(world, payment, 1)
        observe(world, payment, 1)
    assert (world.payment(payment).state, world.captured_amounts(payment)) == ("paid", [5_00])
    assert world.payment(payment).decline_count == 0


def _look_up(world: World, payment: UUID, answered: Answer) -> None:
    expire_lease(world)
    settle_last_attempt(world, payment)


def _webhook(world: World, payment: UUID, answered: Answer) -> None:
    expire_lease(world)
    observe(world, payment, 1)


def _late_answer(world: World, payment: UUID, answered: Answer) -> None:
    """The worker that had sent the request was only slow."""
    record_answer(world.runtime, world.attempts(payment)[-1].id, answered)


@pytest.mark.parametrize("found_by", [_look_up, _webhook, _late_answer], ids=lambda path: path.__name__[1:])
def test_unknown_attempt_that_was_declined_is_retried_whatever_path_finds_it(
    world: World, wire: Wire, account: Account, found_by: Callable[[World, UUID, Answer], None]
) -> None:
    world.add_primary_card(account, story=DeclinesThenPays(times=1, decline_code="insufficient_funds"))
    payment = world.add_due_payment(account)
    answers: list[Answer] = []

    def lose(answer: Answer) -> Answer:
        answers.append(answer)
        return lose_answer(answer)

    wire.after["confirm_payment_intent"] = lose
    world.charge(payment)
    wire.after.clear()
    assert world.attempts(payment)[0].state == "unknown"
    assert answers[0].outcome is Outcome.DECLINED
    for _ in range(2):  # and told twice
        found_by(world, payment, answers[0])
    row = world.payment(payment)
    assert (row.state, row.decline_count) == ("retry_scheduled", 1)
    assert row.next_attempt_at.date() == (world.clock.now() + timedelta(days=1)).date()
    assert "insufficient_funds" in row.state_reason
    world.clock.set(row.next_attempt_at)
    do_due(world)
    assert world.captured_amounts(payment) == [5_00]
