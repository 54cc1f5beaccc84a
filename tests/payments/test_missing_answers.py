"""Workers killed before, during and after a request; late and missing answers: attempts and money."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import text

from shared.db.billing_events import Cause
from shared.db.session import in_transaction
from shared.domain.dunning import OPEN_ATTEMPTS_WAIT
from shared.domain.states import Lane, Trigger
from shared.gateway.port import Answer, Outcome
from shared.payments.claim import Claimed, claim_charge
from shared.payments.locked_rows import lock_payment
from shared.payments.record_outcome import record_answer, record_observation
from shared.payments.state_changes import make_due_now
from simulator.issuer.stories import AlwaysDeclines, DeclinesThenPays
from tests.payments.wire import (
    UNANSWERED,
    KilledError,
    Wire,
    count_posts,
    expire_lease,
    kill,
    lose_answer,
    settle_last_attempt,
)
from tests.seed import Account
from tests.world import World, api_key
from workers.use_cases.charge_payment import _request, charge_payment


@pytest.fixture
def account(world: World) -> Account:
    account = world.account("A-1")
    world.add_primary_card(account)
    return account


def claim(world: World, payment: UUID) -> Claimed:
    claimed = in_transaction(world.engine, lambda connection: claim_charge(connection, world.runtime, payment))
    assert isinstance(claimed, Claimed)
    return claimed


def test_captured_money_is_found_at_the_first_look_up(world: World, wire: Wire, account: Account) -> None:
    wire.after["confirm_payment_intent"] = lose_answer
    payment = world.add_due_payment(account)
    world.charge(payment)
    assert world.attempts(payment)[0].state == "unknown"
    assert world.payment(payment).state == "due"
    world.machine.advance(seconds=6)
    settle_last_attempt(world, payment)
    assert world.payment(payment).state == "paid", "evidence of money closes an attempt inside its lease, too"
    assert world.captured_amounts(payment) == [5_00]


def test_unknown_attempt_blocks_every_other_path(world: World, wire: Wire, account: Account) -> None:
    wire.after["confirm_payment_intent"] = lose_answer
    payment = world.add_due_payment(account)
    world.charge(payment)
    for _ in range(3):
        world.charge(payment)
    with world.engine.begin() as connection:
        cause = Cause("operator:anna", world.clock.now(), "customer called")
        row = lock_payment(connection, payment)
        assert not make_due_now(connection, row, Lane.INTERACTIVE, Trigger.OPERATOR, cause)
    assert count_posts(world, "/confirm") == 1


def test_lost_decline_counts_once_and_only_after_the_lease(world: World, wire: Wire, account: Account) -> None:
    world.add_primary_card(account, story=AlwaysDeclines(decline_code="insufficient_funds"))
    wire.after["confirm_payment_intent"] = lose_answer
    payment = world.add_due_payment(account)
    world.charge(payment)
    world.machine.advance(seconds=30)
    settle_last_attempt(world, payment)
    assert world.attempts(payment)[0].state == "unknown", "it might be about the previous attempt"
    expire_lease(world)
    settle_last_attempt(world, payment)
    settle_last_attempt(world, payment)
    (attempt,) = world.attempts(payment)
    assert (attempt.state, attempt.decline_code) == ("declined", "insufficient_funds")
    assert (world.payment(payment).state, world.payment(payment).decline_count) == ("retry_scheduled", 1)


def test_decline_of_the_previous_attempt_does_not_close_this_one(
    world: World, wire: Wire, account: Account
) -> None:
    world.add_primary_card(account, story=DeclinesThenPays(times=1, decline_code="insufficient_funds"))
    payment = world.add_due_payment(account)
    world.charge(payment)
    world.clock.set(world.payment(payment).next_attempt_at)
    wire.before["confirm_payment_intent"] = kill
    with pytest.raises(KilledError):
        world.charge(payment)
    expire_lease(world)
    settle_last_attempt(world, payment)
    assert [row.state for row in world.attempts(payment)] == ["declined", "not_sent"]
    assert world.payment(payment).decline_count == 1
    wire.before.clear()
    world.machine.advance(seconds=10)
    world.charge(payment)
    assert world.captured_amounts(payment) == [5_00]


def test_kill_after_the_claim_sends_nothing(world: World, account: Account) -> None:
    payment = world.add_due_payment(account)
    claim(world, payment)
    world.charge(payment)
    assert world.captured_amounts(payment) == [], "the open attempt blocks others"
    expire_lease(world)
    settle_last_attempt(world, payment)
    assert world.attempts(payment)[0].state == "not_sent"
    assert world.simulator.requests("payment_intents") == []
    world.machine.advance(seconds=10)
    world.charge(payment)
    assert world.captured_amounts(payment) == [5_00]


def test_kill_after_the_create_reuses_the_payment_intent(world: World, wire: Wire, account: Account) -> None:
    wire.after["create_payment_intent"] = kill
    payment = world.add_due_payment(account)
    with pytest.raises(KilledError):
        world.charge(payment)
    assert world.intents(payment)[0].stripe_payment_intent_id is None
    expire_lease(world)
    settle_last_attempt(world, payment)
    wire.after.clear()
    world.machine.advance(seconds=10)
    world.charge(payment)
    assert world.captured_amounts(payment) == [5_00]
    assert len(world.intents(payment)) == 1
    assert world.simulator.health()["objects"]["payment_intents"] == 1


def test_create_without_an_answer_is_repeated_with_its_key(world: World, wire: Wire, account: Account) -> None:
    wire.after["create_payment_intent"] = lose_answer
    payment = world.add_due_payment(account)
    world.charge(payment)
    (attempt,) = world.attempts(payment)
    assert attempt.state == "not_sent"
    assert world.payment(payment).backoff_until > world.machine.now
    wire.after.clear()
    world.machine.advance(seconds=10)
    world.charge(payment)
    assert world.captured_amounts(payment) == [5_00]
    creates = [s.idempotency_key for s in world.simulator.requests("payment_intents") if s.path.endswith("intents")]
    assert creates == [f"duecourse-create-{payment}-1"] * 2


def test_create_key_older_than_23_hours_is_never_sent_again(world: World, wire: Wire, account: Account) -> None:
    wire.after["create_payment_intent"] = lose_answer
    payment = world.add_due_payment(account)
    world.charge(payment)
    wire.after.clear()
    world.machine.advance(hours=23, seconds=1)
    world.simulator.prune_idempotency_keys()
    world.charge(payment)
    assert [(row.ordinal, row.closed_reason) for row in world.intents(payment)] == [
        (1, "abandoned"),
        (2, "succeeded"),
    ]
    assert world.captured_amounts(payment) == [5_00]


def test_kill_before_the_confirm_is_recovered(world: World, wire: Wire, account: Account) -> None:
    wire.before["confirm_payment_intent"] = kill
    payment = world.add_due_payment(account)
    with pytest.raises(KilledError):
        world.charge(payment)
    expire_lease(world)
    settle_last_attempt(world, payment)
    assert world.attempts(payment)[0].state == "not_sent"
    wire.before.clear()
    world.machine.advance(seconds=10)
    world.charge(payment)
    assert world.captured_amounts(payment) == [5_00]


def test_kill_after_the_capture_is_recovered(world: World, wire: Wire, account: Account) -> None:
    wire.after["confirm_payment_intent"] = kill
    payment = world.add_due_payment(account)
    with pytest.raises(KilledError):
        world.charge(payment)
    assert world.captured_amounts(payment) == [5_00]
    world.charge(payment)
    expire_lease(world)
    settle_last_attempt(world, payment)
    assert world.payment(payment).state == "paid"
    assert world.attempts(payment)[0].state == "succeeded"
    assert world.captured_amounts(payment) == [5_00]
    with world.engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM receipts")) == 1


def test_worker_resumed_after_its_lease_sends_nothing(world: World, wire: Wire, account: Account) -> None:
    """It froze between create and confirm; settlement took the attempt; its confirm must not be sent."""
    payment = world.add_due_payment(account)
    claimed = claim(world, payment)

    def freeze_past_the_lease(answer: Answer) -> Answer:
        expire_lease(world)
        settle_last_attempt(world, payment)
        return answer

    wire.after["create_payment_intent"] = freeze_past_the_lease
    assert _request(world.runtime, claimed) is None
    assert count_posts(world, "/confirm") == 0
    assert world.attempts(payment)[0].state == "not_sent"


def test_no_request_is_sent_when_the_lease_is_nearly_over(world: World, wire: Wire, account: Account) -> None:
    payment = world.add_due_payment(account)
    wire.before["create_payment_intent"] = lambda: world.machine.advance(minutes=4, seconds=30)
    world.charge(payment)
    assert count_posts(world, "/confirm") == 0
    assert world.attempts(payment)[0].state == "not_sent"


def test_late_answer_changes_nothing_unless_it_reports_money(world: World, account: Account) -> None:
    payment = world.add_due_payment(account)
    claimed = claim(world, payment)
    expire_lease(world)
    settle_last_attempt(world, payment)
    record_answer(world.runtime, claimed.attempt_id, Answer(Outcome.DECLINED, "late", charge_id="ch_late"))
    assert world.attempts(payment)[0].state == "not_sent"
    assert world.payment(payment).decline_count == 0


def test_late_capture_pays_a_closed_payment(world: World, wire: Wire, account: Account) -> None:
    answers: list[Answer] = []
    wire.after["confirm_payment_intent"] = lambda answer: (answers.append(answer), UNANSWERED)[1]
    payment = world.add_due_payment(account)
    world.charge(payment)
    with world.engine.begin() as connection:  # as if it had been closed on weaker evidence
        connection.execute(text("UPDATE payment_attempts SET state = 'not_sent', look_up_at = NULL"))
        connection.execute(text("UPDATE payments SET state = 'void', next_attempt_at = NULL"))
    record_answer(world.runtime, world.attempts(payment)[0].id, answers[0])
    assert world.payment(payment).state == "paid"
    assert world.attempts(payment)[0].state == "succeeded"
    with world.engine.connect() as connection:
        assert connection.scalar(text("SELECT kind FROM findings")) == "paid_after_its_end"


def test_capture_reported_by_webhook_closes_an_attempt_inside_its_lease(
    world: World, wire: Wire, account: Account
) -> None:
    """A webhook arrives before the worker handles its answer."""
    payment = world.add_due_payment(account)

    def webhook(answer: Answer) -> Answer:
        record_observation(world.runtime, world.intents(payment)[0].id, answer, actor="stripe")
        return answer

    wire.after["confirm_payment_intent"] = webhook
    world.charge(payment)
    assert world.payment(payment).state == "paid"
    assert [kind for kind, _ in world.billing_events(payment)].count("payment_moved") == 1
    assert world.captured_amounts(payment) == [5_00]


def test_long_outage_blocks_only_the_affected_payment(world: World, wire: Wire, account: Account) -> None:
    wire.after["confirm_payment_intent"] = lose_answer
    stuck, other = world.add_due_payment(account), world.add_due_payment(account)
    world.charge(stuck)
    wire.after = {"retrieve_payment_intent": lose_answer}
    waits = []
    for _ in range(12):
        before = world.machine.now
        world.machine.now = world.attempts(stuck)[0].look_up_at
        waits.append((world.machine.now - before).total_seconds())
        settle_last_attempt(world, stuck)
    assert world.attempts(stuck)[0].state == "unknown"
    assert waits[:5] == [5, 5, 10, 20, 40]
    assert max(waits) == 900
    world.clock.set(world.clock.now() + OPEN_ATTEMPTS_WAIT)
    world.charge(other)
    assert world.captured_amounts(other) == [5_00]
    wire.after.clear()
    world.machine.advance(hours=72)
    settle_last_attempt(world, stuck)
    assert world.payment(stuck).state == "paid"
    assert world.captured_amounts(stuck) == [5_00]


@pytest.mark.parametrize("key", ["sk_test_wrong", "nonsense"])
def test_wrong_api_key_raises_an_alert_and_is_not_a_decline(world: World, account: Account, key: str) -> None:
    from tests.world import make_gateways

    good = world.runtime
    bad = make_gateways(world.simulator.url, ["global"])
    bad["global"]._client._requestor._options.api_key = key  # type: ignore[index]
    world.runtime = replace(world.runtime, gateways=bad)
    payment = world.add_due_payment(account)
    world.charge(payment)
    row = world.payment(payment)
    assert (row.state, row.decline_count, row.not_sent_count) == ("due", 0, 1)
    assert world.attempts(payment)[0].http_status == 401
    assert "attention_needed" in [kind for kind, _ in world.billing_events(payment)]
    world.runtime = good
    world.charge(payment)
    assert world.captured_amounts(payment) == [], "it backs off"
    world.machine.advance(seconds=10)
    world.charge(payment)
    assert world.captured_amounts(payment) == [5_00]
    assert api_key("global") not in str(world.billing_events(payment))


def test_refused_connection_is_recorded_as_not_sent(world: World, account: Account) -> None:
    from tests.world import make_gateways

    good = world.runtime
    world.runtime = replace(good, gateways=make_gateways("http://127.0.0.1:9", ["global"]))
    payment = world.add_due_payment(account)
    waits = []
    for _ in range(4):
        world.charge(payment)
        row = world.payment(payment)
        waits.append((row.backoff_until - world.machine.now).total_seconds())
        world.machine.now = row.backoff_until
    assert waits == [5, 10, 20, 40]
    assert {row.state for row in world.attempts(payment)} == {"not_sent"}
    world.runtime = good
    world.charge(payment)
    assert world.captured_amounts(payment) == [5_00]


def test_many_workers_on_one_payment_send_one_confirm(world: World, account: Account) -> None:
    payment = world.add_due_payment(account)
    with ThreadPoolExecutor(12) as pool:
        for done in [pool.submit(charge_payment, world.runtime, payment) for _ in range(48)]:
            done.result()
    assert world.captured_amounts(payment) == [5_00]
    assert (count_posts(world, "/confirm"), len(world.attempts(payment))) == (1, 1)


def test_late_event_of_a_closed_payment_intent_changes_nothing(world: World, account: Account) -> None:
    """Ten declines, the limit, a successor that declines too; then the first one's canceled event arrives again."""
    world.add_primary_card(account, story=AlwaysDeclines(decline_code="insufficient_funds"))
    payment = world.add_due_payment(account)
    for _ in range(12):
        world.charge(payment)
        world.clock.set(world.clock.now() + timedelta(days=1))
    first, second = world.intents(payment)
    before = world.payment(payment)
    assert (first.closed_reason, second.closed_reason, before.state) == ("canceled", None, "retry_scheduled")
    snapshot = world.runtime.gateways["global"].retrieve_payment_intent(first.stripe_payment_intent_id)
    record_observation(world.runtime, first.id, snapshot, actor="stripe")
    assert world.payment(payment) == before
