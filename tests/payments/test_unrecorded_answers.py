"""An answer that a defect keeps from being recorded: operators see the error, and no card is charged twice."""

from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest

from shared.explain.explanation import Explanation, explain_payment
from shared.explain.next_step import Owner
from simulator.issuer.stories import AlwaysDeclines
from tests.payments.wire import count_posts, expire_lease, settle_last_attempt
from tests.world import World

KEY_ERROR = "KeyError: <DeclineCategory.RETRY_DAILY: 'retry_daily'>"
ALERT = ("attention_needed", f"the processor's answer could not be recorded: {KEY_ERROR}")


@pytest.fixture
def payment(world: World) -> UUID:
    account = world.account("A-1")
    world.add_primary_card(account, story=AlwaysDeclines(decline_code="insufficient_funds"))
    return world.add_due_payment(account)


def break_decisions(world: World) -> None:
    """A defect in what follows a decline."""
    policy = world.policy
    world.runtime = replace(
        world.runtime, policy=replace(policy, dunning=replace(policy.dunning, retry_every_days={}))
    )


def explained(world: World, payment: UUID) -> Explanation:
    with world.engine.connect() as connection:
        return explain_payment(connection, world.policy, payment, world.clock.now(), world.machine())


def alerts(world: World, payment: UUID) -> list[tuple[str, str | None]]:
    return [event for event in world.billing_events(payment) if event[0] == "attention_needed"]


def test_answer_that_cannot_be_recorded_raises_an_alert_with_the_error(world: World, payment: UUID) -> None:
    break_decisions(world)
    with pytest.raises(KeyError):
        world.charge(payment)
    assert alerts(world, payment) == [ALERT]
    step = explained(world, payment).next_step
    assert step.owner is Owner.OPERATOR
    assert KEY_ERROR in step.sentence
    assert step.what_to_do is not None
    assert step.what_to_do.startswith("report this error: it is a defect of Duecourse")


def test_look_ups_repeat_the_alert_once_a_day(world: World, payment: UUID) -> None:
    break_decisions(world)
    with pytest.raises(KeyError):
        world.charge(payment)
    for days, told in ((0, 1), (0, 1), (1, 2)):
        world.clock.set(world.clock.now() + timedelta(days=days))
        expire_lease(world)
        world.machine.advance(minutes=20)
        with pytest.raises(KeyError):
            settle_last_attempt(world, payment)
        assert alerts(world, payment) == [ALERT] * told
    assert world.attempts(payment)[0].state == "unknown"
    assert KEY_ERROR in explained(world, payment).next_step.sentence


def test_look_up_records_the_answer_once_the_defect_is_gone(world: World, payment: UUID) -> None:
    sound = world.runtime
    break_decisions(world)
    with pytest.raises(KeyError):
        world.charge(payment)
    world.runtime = sound
    expire_lease(world)
    settle_last_attempt(world, payment)
    (attempt,) = world.attempts(payment)
    assert (attempt.state, attempt.decline_code) == ("declined", "insufficient_funds")
    assert world.payment(payment).state == "retry_scheduled"
    assert "could not be recorded" not in explained(world, payment).next_step.sentence
    assert count_posts(world, "/confirm") == 1
