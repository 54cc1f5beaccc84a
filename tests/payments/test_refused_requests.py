"""A request that Stripe refuses as such (HTTP 400, 404) isn't repeated for ever: the payment waits."""

from datetime import timedelta
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import text

from shared.accounts.standing import lock_account, update_standing
from shared.db.billing_events import Cause
from shared.db.session import in_transaction
from shared.domain.states import PaymentState
from shared.gateway.port import GatewayUnavailableError, ProcessorGateway
from shared.payments.operator.close import request_close
from shared.payments.outages import end_backoffs
from shared.payments.outcome_handlers import REFUSED_BACKOFF
from tests.payments.wire import Wire
from tests.seed import Account
from tests.world import World, api_key

LONG = timedelta(days=40)


@pytest.fixture
def account(world: World) -> Account:
    return world.account("A-1")


def time_passes(world: World, minutes: int = 120) -> None:
    """The sweep looks every minute, and another customer's charges succeed all the while."""
    other = world.account(f"other-{uuid4()}")
    world.add_primary_card(other)
    for minute in range(minutes):
        world.machine.advance(minutes=1)
        world.clock.set(world.clock.now() + timedelta(minutes=1))
        if minute % 10 == 0:
            world.charge(world.add_due_payment(other))
        sweep(world)


def sweep(world: World) -> None:
    now, machine_now = world.clock.now(), world.machine()
    in_transaction(world.engine, lambda connection: end_backoffs(connection, now, machine_now))
    world.enqueued.extend(world.due_jobs())
    world.do_enqueued()


def use_gateway_of(world: World, coverage: str) -> ProcessorGateway:
    """Give the coverage another one's key, as a mistake in the settings does; return its own gateway."""
    right = world.runtime.gateways["global"]
    world.runtime.gateways["global"] = world.runtime.gateways[coverage]  # type: ignore[index]
    return right


def findings(world: World) -> list[str]:
    with world.engine.connect() as connection:
        return list(connection.scalars(text("SELECT kind FROM findings WHERE resolved_at IS NULL ORDER BY kind")))


def at_stripe(world: World, method: str, path: str) -> None:
    answer = httpx.request(method, f"{world.simulator.url}/v1/{path}", auth=(api_key("global"), ""))
    assert answer.status_code == 200, answer.text


def test_card_removed_at_stripe_without_a_webhook_parks_the_payment_until_the_next_card(
    world: World, account: Account
) -> None:
    card = world.add_primary_card(account)
    payment = world.add_due_payment(account)
    at_stripe(world, "POST", f"payment_methods/{card.payment_method}/detach")
    world.charge(payment)
    time_passes(world)
    row = world.payment(payment)
    assert (row.state, row.state_reason) == ("needs_payment_method", "the card was removed at Stripe")
    assert [attempt.state for attempt in world.attempts(payment)] == ["not_sent"]
    with world.engine.connect() as connection:
        assert connection.scalar(
            text("SELECT detached_at FROM cards WHERE settings_id = :id"), {"id": account.settings_id}
        )
    world.add_primary_card(account)
    world.enqueued.extend(world.due_jobs())
    world.do_enqueued()
    assert world.captured_amounts(payment) == [5_00]


def test_customer_deleted_at_stripe_parks_the_payment(world: World, account: Account) -> None:
    world.add_primary_card(account)
    payment = world.add_due_payment(account)
    at_stripe(world, "DELETE", f"customers/{world.customer_id(account)}")
    world.charge(payment)
    time_passes(world)
    row = world.payment(payment)
    assert (row.state, row.state_reason) == (
        "needs_payment_method",
        "the customer was deleted at Stripe, with its cards",
    )
    assert len(world.attempts(payment)) == 1


def test_amount_above_stripes_maximum_is_held_for_an_operator(world: World, account: Account) -> None:
    world.add_primary_card(account)
    payment = world.add_due_payment(account, amount_minor=100_000_000)
    world.charge(payment)
    time_passes(world)
    row = world.payment(payment)
    assert (row.state, row.held_until is not None) == ("due", True)
    assert "amount_too_large" in row.state_reason
    assert len(world.attempts(payment)) == 1
    assert findings(world) == ["charge_refused_by_stripe"]
    assert ("attention_needed", row.state_reason) in world.billing_events(payment)


def test_refusal_of_ours_never_marks_the_account(world: World, account: Account) -> None:
    world.add_primary_card(account)
    refused = world.add_due_payment(account, amount_minor=100_000_000, due_on=(world.clock.now() - LONG).date())
    world.charge(refused)
    today = world.clock.now().date()
    with world.engine.begin() as connection:
        cause = Cause("test", world.clock.now(), "a month later")
        decision = update_standing(connection, lock_account(connection, account.id), world.policy, today, cause)
    assert decision.standing == "past_due"
    with world.engine.begin() as connection:
        connection.execute(text("UPDATE findings SET resolved_at = now()"))
        decision = update_standing(connection, lock_account(connection, account.id), world.policy, today, cause)
    assert decision.standing == "marked_for_suspension", "resolved: from now on it is the customer's to pay"


def test_key_of_another_stripe_account_blames_no_card_and_is_tried_again_in_hours(
    world: World, account: Account
) -> None:
    """With another account's key Stripe knows neither card nor customer."""
    world.add_primary_card(account)
    payment = world.add_due_payment(account)
    right = use_gateway_of(world, "japan")
    world.charge(payment)
    row = world.payment(payment)
    assert (row.state, row.held_until, row.backoff_until - world.machine()) == ("due", None, REFUSED_BACKOFF)
    world.runtime.gateways["global"] = right  # type: ignore[index]
    time_passes(world, minutes=100)
    assert len(world.attempts(payment)) == 1
    time_passes(world, minutes=20)
    assert world.captured_amounts(payment) == [5_00]


def test_refused_cancellation_is_repeated_in_hours(world: World, account: Account) -> None:
    world.add_primary_card(account, "pm_card_authenticationRequired")
    payment = world.add_due_payment(account)
    world.charge(payment)
    right = use_gateway_of(world, "japan")
    with world.engine.begin() as connection:
        cause = Cause("operator:anna", world.clock.now(), "never ordered")
        request_close(connection, world.policy, payment, PaymentState.VOID, cause)
    sweep(world)
    world.runtime.gateways["global"] = right  # type: ignore[index]
    time_passes(world, minutes=100)
    assert [attempt.state for attempt in world.attempts(payment)][1:] == ["not_sent"]
    time_passes(world, minutes=20)
    assert world.payment(payment).state == "void"


def test_refusal_whose_cause_is_not_known_yet_holds_nothing_and_is_looked_up_again(
    world: World, wire: Wire, account: Account
) -> None:
    """The model found it: the card was removed, and Stripe didn't answer the question why it refuses the charge."""
    card = world.add_primary_card(account)
    payment = world.add_due_payment(account)
    at_stripe(world, "POST", f"payment_methods/{card.payment_method}/detach")

    def unreachable() -> None:
        raise GatewayUnavailableError("no_answer")

    wire.before["find_missing"] = unreachable
    world.charge(payment)
    row = world.payment(payment)
    assert (row.state, row.held_until, findings(world)) == ("due", None, [])
    assert "why isn't known yet" in world.attempts(payment)[0].outcome_reason
    wire.before.clear()
    world.machine.advance(minutes=1)
    world.charge(payment)
    assert world.payment(payment).state == "needs_payment_method"
    assert world.payment(payment).decline_count == 0
