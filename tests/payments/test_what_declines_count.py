"""Which declines lead to what: a new card begins anew, and a user's clicks mark no account."""

from datetime import timedelta
from uuid import UUID

from shared.db.billing_events import Cause
from shared.domain.states import Lane, Trigger
from shared.payments.locked_rows import lock_payment
from shared.payments.state_changes import make_due_now
from simulator.issuer.stories import AlwaysDeclines
from tests.seed import Account
from tests.world import World

NO_MONEY = AlwaysDeclines(decline_code="insufficient_funds")


def click(world: World, payment: UUID, trigger: Trigger = Trigger.CUSTOMER) -> None:
    """A user starts a charge now."""
    with world.engine.begin() as connection:
        cause = Cause("customer", world.clock.now(), "Activate")
        assert make_due_now(connection, lock_payment(connection, payment), Lane.INTERACTIVE, trigger, cause)
    world.charge(payment)


def next_retry(world: World, payment: UUID) -> None:
    """The next daily retry, and what follows at once from a canceled PaymentIntent."""
    due_at = world.payment(payment).next_attempt_at
    world.clock.set(max(due_at, world.clock.now() + timedelta(days=1)))
    world.charge(payment)
    if world.payment(payment).state == "due":
        world.charge(payment)


def declining(world: World, brand: str) -> tuple[Account, UUID]:
    account = world.account("A-1")
    world.add_primary_card(account, story=NO_MONEY, brand=brand)
    payment = world.add_due_payment(account)
    world.charge(payment)
    return account, payment


def test_seven_clicks_in_an_hour_mark_nobody_and_seven_days_do(world: World) -> None:
    account, payment = declining(world, "visa")
    for _ in range(7):
        click(world, payment)
    assert (world.payment(payment).decline_count, world.standing(account)) == (8, "past_due")
    for _ in range(6):
        next_retry(world, payment)
    assert world.payment(payment).decline_count == 14
    assert world.standing(account) == "marked_for_suspension"


def test_new_card_after_the_last_decline_is_retried_daily_like_the_first(world: World) -> None:
    account, payment = declining(world, "mastercard")
    for _ in range(40):
        next_retry(world, payment)
        if world.payment(payment).state == "needs_payment_method":
            break
    assert "declined 30 times" in world.payment(payment).state_reason
    world.add_primary_card(account, story=NO_MONEY, brand="mastercard")
    world.enqueued.extend(world.due_jobs())
    world.do_enqueued()
    row = world.payment(payment)
    assert (row.state, row.decline_count) == ("retry_scheduled", 31)
    for _ in range(28):
        next_retry(world, payment)
    assert (world.payment(payment).state, world.payment(payment).decline_count) == ("retry_scheduled", 59)
    next_retry(world, payment)
    assert world.payment(payment).state == "needs_payment_method"
