"""When the processor answers again, payments don't wait out the long backoff of an hour of outage."""

from datetime import timedelta
from uuid import UUID

import pytest

from shared.db.session import in_transaction
from shared.payments.outages import LONGEST_BACKOFF_WITHOUT_OUTAGE, end_backoffs
from simulator.faults.rules import FaultRule
from tests.world import World

TIMES = 9
LAST_PAUSE = timedelta(seconds=1_280)  # after 5, 10, 20, …


def wake(world: World) -> list[UUID]:
    woken = in_transaction(
        world.engine, lambda connection: end_backoffs(connection, world.clock.now(), world.machine.now)
    )
    return list(woken)


@pytest.fixture
def backing_off(world: World) -> UUID:
    """A payment whose charges met an outage repeatedly; its next try is minutes away."""
    account = world.account("A-1")
    world.add_primary_card(account)
    payment = world.add_due_payment(account)
    world.simulator.add_faults([FaultRule("rate_limited", count=TIMES)])
    for _ in range(TIMES):
        world.machine.now = world.payment(payment).backoff_until or world.machine.now
        world.charge(payment)
    row = world.payment(payment)
    assert (row.not_sent_count, row.backoff_until - world.machine.now) == (TIMES, LAST_PAUSE)
    return payment


def another_request_succeeds(world: World) -> None:
    account = world.account("A-2")
    world.add_primary_card(account)
    world.charge(world.add_due_payment(account))


def test_backoff_stays_during_the_outage(world: World, backing_off: UUID) -> None:
    world.machine.advance(minutes=5)
    assert wake(world) == []


def test_backoff_ends_within_a_minute_once_other_requests_succeed(world: World, backing_off: UUID) -> None:
    world.machine.advance(seconds=10)
    another_request_succeeds(world)
    assert wake(world) == [], "a minute is the minimum wait"
    world.machine.now += LONGEST_BACKOFF_WITHOUT_OUTAGE
    assert wake(world) == [backing_off]
    assert ("backoff_ended", "the processor answers other requests again") in world.billing_events(backing_off)
    world.charge(backing_off)
    assert world.payment(backing_off).state == "paid"
    assert world.captured_amounts(backing_off) == [5_00]
    assert wake(world) == []


def test_answer_from_before_the_backoff_does_not_end_it(world: World) -> None:
    """The outage began after it."""
    another_request_succeeds(world)
    account = world.account("A-1")
    world.add_primary_card(account)
    payment = world.add_due_payment(account)
    world.simulator.add_faults([FaultRule("rate_limited", count=TIMES)])
    for _ in range(TIMES):
        world.machine.now = world.payment(payment).backoff_until or world.machine.now + timedelta(seconds=1)
        world.charge(payment)
    world.machine.advance(minutes=3)
    assert wake(world) == []


def test_answers_of_another_coverage_do_not_end_the_backoff(world: World, backing_off: UUID) -> None:
    account = world.account("J-1", "japan")
    world.add_primary_card(account)
    world.machine.advance(seconds=10)
    payment = world.add_due_payment(account, 500)
    world.charge(payment)
    assert world.payment(payment).state == "paid"
    world.machine.advance(minutes=3)
    assert wake(world) == []


def test_payment_with_its_own_error_backs_off_a_minute_at_a_time(world: World, backing_off: UUID) -> None:
    world.machine.advance(seconds=10)
    another_request_succeeds(world)
    world.machine.now += LONGEST_BACKOFF_WITHOUT_OUTAGE
    world.simulator.add_faults([FaultRule("rate_limited", count=1)])
    assert wake(world) == [backing_off]
    world.charge(backing_off)
    world.machine.advance(minutes=2)
    assert wake(world) == [], "no request succeeded since"
    carol = world.account("A-3")
    world.add_primary_card(carol)
    world.charge(world.add_due_payment(carol))
    assert wake(world) == [backing_off]
