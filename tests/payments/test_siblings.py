"""Two unpaid months of one account: their claims run side by side, and the card is tried once."""

from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from uuid import UUID

import pytest
from sqlalchemy import update

from shared.db.tables.payments import payments
from shared.domain.dunning import OPEN_ATTEMPTS_WAIT
from shared.domain.states import Trigger
from shared.payments.claim import Claimed, NotClaimed, claim_charge
from shared.payments.parking import WAITS_FOR_OLDER
from simulator.issuer.stories import AlwaysDeclines, NeedsAuthentication
from tests.invoicing.month_start import wait_for_waiter
from tests.seed import Account
from tests.world import World

DECLINES = AlwaysDeclines(decline_code="do_not_honor")


@pytest.fixture
def anna(world: World) -> Account:
    return world.account("A-1")


def two_months(world: World, account: Account) -> tuple[UUID, UUID]:
    older = world.add_due_payment(account, period=date(2026, 9, 1))
    return older, world.add_due_payment(account, period=date(2026, 10, 1))


def claim(world: World, payment: UUID) -> Claimed | NotClaimed:
    with world.engine.begin() as connection:
        return claim_charge(connection, world.runtime, payment)


def change(world: World, payment: UUID, **columns: object) -> None:
    with world.engine.begin() as connection:
        connection.execute(update(payments).where(payments.c.id == payment).values(**columns))


def test_claims_of_two_months_at_one_instant_take_turns(world: World, anna: Account) -> None:
    """The younger one is claimed while the older isn't due; before it commits, the older one is, and is claimed."""
    world.add_primary_card(anna, story=DECLINES)
    older, younger = two_months(world, anna)
    now = world.clock.now()
    change(world, older, next_attempt_at=now + timedelta(seconds=1))
    with ThreadPoolExecutor(1) as other_worker:
        with world.engine.begin() as connection:
            assert isinstance(claim_charge(connection, world.runtime, younger), Claimed)
            change(world, older, next_attempt_at=now)
            waiting = other_worker.submit(claim, world, older)
            wait_for_waiter(world.engine, "l.locktype = 'advisory'")
        assert waiting.result() == NotClaimed(WAITS_FOR_OLDER)
    assert world.payment(older).state == "due", "the sweep enqueues it once the other is answered"
    assert older not in {job.payment_id for job in world.due_jobs()}


def test_older_month_goes_first_whatever_message_comes_first(world: World, anna: Account) -> None:
    world.add_primary_card(anna)
    older, younger = two_months(world, anna)
    assert claim(world, younger) == NotClaimed(WAITS_FOR_OLDER)
    for payment in (younger, older, younger):
        world.charge(payment)
    paid = [line.metadata["duecourse_payment_id"] for line in world.simulator.ledger()]
    assert paid == [str(older), str(younger)]


@pytest.mark.parametrize("trigger", [Trigger.CARD_REGISTERED, Trigger.OPERATOR, Trigger.CUSTOMER])
def test_what_a_user_starts_waits_for_nothing(world: World, anna: Account, trigger: Trigger) -> None:
    world.add_primary_card(anna, story=DECLINES)
    older, younger = two_months(world, anna)
    change(world, younger, trigger=trigger)
    world.charge(younger)
    world.charge(older)
    assert [len(world.attempts(payment)) for payment in (older, younger)] == [0, 1]
    assert "once a day" in world.payment(older).state_reason, "the click has tried the card today"


def test_authentication_of_one_month_keeps_no_other_waiting(world: World, anna: Account) -> None:
    world.add_primary_card(anna, story=NeedsAuthentication())
    older, younger = two_months(world, anna)
    for payment in (older, younger):
        world.charge(payment)
    assert [world.payment(payment).state for payment in (older, younger)] == ["needs_authentication"] * 2


def test_attempt_without_an_answer_keeps_the_others_waiting_for_minutes(world: World, anna: Account) -> None:
    world.add_primary_card(anna)
    older, younger = two_months(world, anna)
    assert isinstance(claim(world, older), Claimed)
    assert claim(world, younger) == NotClaimed(WAITS_FOR_OLDER)
    world.clock.set(world.clock.now() + OPEN_ATTEMPTS_WAIT)
    assert isinstance(claim(world, younger), Claimed), "an unknown outcome blocks only its own payment"


def test_worker_killed_after_the_older_ones_claim_delays_both(world: World, anna: Account) -> None:
    world.add_primary_card(anna)
    older, younger = two_months(world, anna)
    assert isinstance(claim(world, older), Claimed)
    for _ in range(4):  # the lease is over, and then a back-off
        world.machine.advance(minutes=10)
        world.enqueued.extend(world.due_jobs())
        world.do_enqueued()
    assert [world.captured_amounts(payment) for payment in (older, younger)] == [[5_00], [5_00]]
