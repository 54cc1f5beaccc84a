"""Operators' actions on one payment or account: recorded with actor and reason, or refused with an explanation."""

from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select, text

from shared.accounts.standing import lock_account, update_standing
from shared.accounts.suspension_marks import LONGEST_SPARED, SPARED_FOR, Stands, mark_account, unmark_account
from shared.db.billing_events import Cause
from shared.db.tables.accounts import accounts
from shared.db.tables.system import billing_events
from shared.domain.calendar import UNTIL_RELEASED
from shared.domain.refusals import Refused
from shared.domain.states import Lane, PaymentState, Standing
from shared.explain.explanation import explain_payment
from shared.messaging.jobs import ChargePayment, RetryPayments
from shared.payments.operator.charge import request_charge
from shared.payments.operator.close import request_close
from shared.payments.operator.hold import Held, Released, hold_payment, release_payment
from simulator.issuer.stories import AlwaysDeclines
from tests.seed import Account, add_run
from tests.world import World
from workers.use_cases.retry_payments import retry_payments

ANNA = "operator:anna"
WHY = "the customer disputes it"


@pytest.fixture
def account(world: World) -> Account:
    account = world.account("A-1")
    world.add_primary_card(account)
    return account


def hold(world: World, payment: UUID, until: date | None = None, reason: str = WHY) -> Held | Refused:
    with world.engine.begin() as connection:
        return hold_payment(connection, world.policy, payment, until, Cause(ANNA, world.clock.now(), reason))


def release(world: World, payment: UUID, reason: str = "settled by phone") -> Released | Refused:
    with world.engine.begin() as connection:
        return release_payment(connection, payment, Cause(ANNA, world.clock.now(), reason))


def mark(world: World, account: Account, reason: str = "looks like fraud") -> Stands | Refused:
    with world.engine.begin() as connection:
        return mark_account(connection, account.id, Cause(ANNA, world.clock.now(), reason))


def unmark(
    world: World, account: Account, until: date | None = None, reason: str = "promised to pay"
) -> Stands | Refused:
    with world.engine.begin() as connection:
        return unmark_account(connection, world.policy, account.id, until, Cause(ANNA, world.clock.now(), reason))


def billing_events_of(world: World, **where: Any) -> list[Any]:
    with world.engine.connect() as connection:
        return list(connection.execute(select(billing_events).filter_by(**where).order_by(billing_events.c.id)))


def next_step(world: World, payment: UUID) -> str:
    with world.engine.connect() as connection:
        explained = explain_payment(connection, world.policy, payment, world.clock.now(), world.machine())
    return explained.next_step.sentence


# -- hold and release


def test_held_payment_is_not_charged_until_its_day_begins_in_the_coverage_zone(world: World) -> None:
    taro = world.account("T-1", "japan")
    world.add_primary_card(taro)
    payment = world.add_due_payment(taro, 900)
    held = hold(world, payment, date(2026, 11, 3))
    assert held == Held(payment, datetime(2026, 11, 2, 15, tzinfo=UTC)), "midnight in Tokyo"
    world.charge(payment)
    world.clock.set(datetime(2026, 11, 2, 14, 59, tzinfo=UTC))
    world.charge(payment)
    assert world.captured_amounts(payment) == []
    world.clock.set(datetime(2026, 11, 2, 15, tzinfo=UTC))
    world.charge(payment)
    assert world.captured_amounts(payment) == [900]


def test_hold_without_a_date_lasts_until_it_is_released(world: World, account: Account) -> None:
    payment = world.add_due_payment(account)
    assert hold(world, payment) == Held(payment, UNTIL_RELEASED)
    world.clock.set(world.clock.now() + timedelta(days=2_000))
    world.charge(payment)
    assert world.captured_amounts(payment) == []
    assert release(world, payment) == Released(payment, ChargePayment(payment, Lane.BATCH))
    world.charge(payment)
    assert world.captured_amounts(payment) == [5_00]


def test_hold_records_actor_reason_end_and_previous_state(world: World, account: Account) -> None:
    world.add_primary_card(account, story=AlwaysDeclines(decline_code="insufficient_funds"))
    payment = world.add_due_payment(account)
    world.charge(payment)
    before = world.payment(payment)
    hold(world, payment, date(2026, 11, 20))
    now = world.payment(payment)
    assert now.state == before.state == "retry_scheduled"
    assert now.next_attempt_at == before.next_attempt_at
    assert now.state_reason == (
        f"{WHY} (held by operator:anna until 2026-11-20; before that: {before.state_reason})"
    )
    assert next_step(world, payment).startswith(f"Held until 2026-11-20 00:00 UTC: {WHY} (held by operator:anna")
    (event,) = billing_events_of(world, type="payment_held")
    assert (event.actor, event.reason, event.payment_id, event.account_id) == (ANNA, WHY, payment, account.id)
    assert event.before["state_reason"] == before.state_reason


def test_second_hold_replaces_the_first_and_release_restores_the_original_state(
    world: World, account: Account
) -> None:
    world.add_primary_card(account, story=AlwaysDeclines(decline_code="insufficient_funds"))
    payment = world.add_due_payment(account)
    world.charge(payment)
    before = world.payment(payment)
    hold(world, payment, date(2026, 11, 20))
    hold(world, payment, None, "it goes to court")
    assert WHY not in world.payment(payment).state_reason
    assert f"before that: {before.state_reason}" in world.payment(payment).state_reason
    assert release(world, payment) == Released(payment, None), "it is scheduled for tomorrow"
    assert world.payment(payment) == before
    hold_event, second, released = billing_events_of(world, payment_id=payment)[-3:]
    assert [one.type for one in (hold_event, second, released)] == ["payment_held", "payment_held", "hold_released"]
    assert (released.actor, released.reason) == (ANNA, "settled by phone")


@pytest.mark.parametrize(
    ("until", "why"),
    [
        (date(2026, 11, 1), "2026-11-01 has already begun"),
        (date(2026, 10, 1), "2026-10-01 has already begun"),
        (date(2027, 11, 3), "more than 366 days away"),
    ],
)
def test_hold_with_invalid_end_date_is_refused_and_recorded(
    world: World, account: Account, until: date, why: str
) -> None:
    payment = world.add_due_payment(account)
    before = world.payment(payment)
    refused = hold(world, payment, until)
    assert isinstance(refused, Refused)
    assert why in refused.reason
    assert refused.what_to_do
    assert world.payment(payment) == before
    (event,) = billing_events_of(world, type="decision_refused")
    assert (event.actor, event.reason) == (ANNA, refused.reason)
    assert event.data == {"asked_for": "hold", "asked_because": WHY}


def test_first_and_last_allowed_hold_dates_are_accepted(world: World, account: Account) -> None:
    for until in (date(2026, 11, 2), date(2027, 11, 2)):
        assert isinstance(hold(world, world.add_due_payment(account), until), Held)


def test_paid_or_closing_payment_cannot_be_held_and_unheld_payment_cannot_be_released(
    world: World, account: Account
) -> None:
    paid, ending, free = (
        world.add_due_payment(account),
        world.add_due_payment(account, pending_close_as="void"),
        world.add_due_payment(account, due_on=date(2026, 12, 1)),
    )
    world.charge(paid)
    for payment, refused in (
        (paid, hold(world, paid)),
        (ending, hold(world, ending)),
        (free, release(world, free)),
        (free, hold(world, free, reason=" ")),
        (uuid4(), hold(world, uuid4())),
        (uuid4(), release(world, uuid4())),
    ):
        assert isinstance(refused, Refused), payment


def test_operator_charge_releases_a_hold_and_bulk_charge_does_not(world: World, account: Account) -> None:
    payment = world.add_due_payment(account)
    hold(world, payment)
    with world.engine.begin() as connection:
        refused = request_charge(
            connection, payment, Cause(ANNA, world.clock.now(), "all"), world.machine(), releases_hold=False
        )
        assert isinstance(refused, Refused)
        assert refused.reason.startswith(f"it is held: {WHY}")
        requested = request_charge(
            connection, payment, Cause(ANNA, world.clock.now(), "now"), world.machine(), lane=Lane.BATCH
        )
    assert requested == ChargePayment(payment, Lane.BATCH)
    assert world.payment(payment).held_until is None


# -- mark and unmark


def overdue(world: World, account: Account, days: int = 20) -> UUID:
    """A payment old enough that the daily run marks its account."""
    return world.add_due_payment(
        account,
        due_on=world.clock.now().date() - timedelta(days=days),
        next_attempt_at=world.clock.now() + timedelta(days=60),
    )


def daily_run(world: World, day: str) -> None:
    with world.engine.begin() as connection:
        run_id = add_run(connection, day, job="daily-retries")
    for _ in range(5):
        world.enqueued.clear()
        retry_payments(world.runtime, run_id)
        if RetryPayments(run_id) not in world.enqueued:
            return
    raise AssertionError("the run isn't through")


def test_operator_marks_an_account_by_the_same_transition_as_the_daily_run(world: World, account: Account) -> None:
    assert mark(world, account) == Stands(account.id, Standing.MARKED_FOR_SUSPENSION)
    with world.engine.connect() as connection:
        row = connection.execute(select(accounts)).one()
    assert (row.standing, row.standing_since_at) == ("marked_for_suspension", world.clock.now())
    assert row.standing_reason == "marked by operator:anna: looks like fraud"
    (event,) = billing_events_of(world, type="standing_changed")
    assert (event.actor, event.before, event.after) == (
        ANNA,
        {"standing": "good"},
        {"standing": "marked_for_suspension"},
    )
    refused = mark(world, account)
    assert isinstance(refused, Refused)
    assert "already marked" in refused.reason


def test_operator_mark_is_removed_once_overdue_payments_are_paid(world: World, account: Account) -> None:
    payment = world.add_due_payment(account, due_on=date(2026, 10, 30))
    mark(world, account)
    daily_run(world, "2026-11-01")
    assert world.standing(account) == "marked_for_suspension"
    world.charge(payment)
    assert world.standing(account) == "good"


def test_unmarking_holds_until_its_date(world: World, account: Account) -> None:
    overdue(world, account)
    daily_run(world, "2026-11-01")
    assert world.standing(account) == "marked_for_suspension"
    assert unmark(world, account) == Stands(account.id, Standing.PAST_DUE)
    for day in range(1, SPARED_FOR.days):
        world.clock.set(datetime(2026, 11, 1 + day, 9, tzinfo=UTC))
        daily_run(world, f"2026-11-{1 + day:02d}")
        assert world.standing(account) == "past_due", day
    world.clock.set(datetime(2026, 11, 8, 9, tzinfo=UTC))
    daily_run(world, "2026-11-08")
    assert world.standing(account) == "marked_for_suspension", "the week is over, and nothing was paid"


def test_payment_of_another_invoice_keeps_the_unmarking(world: World, account: Account) -> None:
    overdue(world, account)
    payment = world.add_due_payment(account)
    daily_run(world, "2026-11-01")
    unmark(world, account)
    world.charge(payment)
    assert world.captured_amounts(payment) == [5_00]
    assert world.standing(account) == "past_due"


def test_new_decline_marks_the_account_again(world: World, account: Account) -> None:
    world.add_primary_card(account, story=AlwaysDeclines(decline_code="insufficient_funds"))
    overdue(world, account)
    daily_run(world, "2026-11-01")
    unmark(world, account)
    world.charge(world.add_due_payment(account))
    assert world.standing(account) == "marked_for_suspension"


def test_unmarking_ends_when_the_standing_changes(world: World, account: Account) -> None:
    old = overdue(world, account)
    daily_run(world, "2026-11-01")
    unmark(world, account, date(2027, 1, 1))
    with world.engine.begin() as connection:
        connection.execute(text("UPDATE payments SET next_attempt_at = :now"), {"now": world.clock.now()})
    world.charge(old)
    assert world.standing(account) == "good"
    overdue(world, account)
    world.clock.set(datetime(2026, 11, 2, 9, tzinfo=UTC))
    daily_run(world, "2026-11-02")
    assert world.standing(account) == "marked_for_suspension"


def test_unmarked_account_without_overdue_payments_is_good(world: World, account: Account) -> None:
    mark(world, account)
    assert unmark(world, account) == Stands(account.id, Standing.GOOD)
    event = billing_events_of(world, type="standing_changed")[-1]
    assert event.reason == "unmarked by operator:anna until 2026-11-08: promised to pay"
    assert event.data == {"spared_until": "2026-11-08"}


@pytest.mark.parametrize(
    ("days", "why"), [(0, "isn't after today"), (LONGEST_SPARED.days + 1, "more than 90 days away")]
)
def test_unmarking_with_invalid_length_is_refused(world: World, account: Account, days: int, why: str) -> None:
    mark(world, account)
    refused = unmark(world, account, world.clock.now().date() + timedelta(days=days))
    assert isinstance(refused, Refused)
    assert why in refused.reason
    assert world.standing(account) == "marked_for_suspension"


def test_unmarking_without_mark_account_or_reason_is_refused(world: World, account: Account) -> None:
    nobody = Account(uuid4(), uuid4(), "none", "global")
    for refused in (
        unmark(world, account),
        mark(world, account, reason=""),
        mark(world, nobody),
        unmark(world, nobody),
    ):
        assert isinstance(refused, Refused)
    assert world.standing(account) == "good"


def test_daily_run_and_operator_wait_for_each_other(world: World, account: Account) -> None:
    """Both lock the account first: the second sees the change of the first."""
    overdue(world, account)
    with world.engine.begin() as connection:
        row = lock_account(connection, account.id)
        cause = Cause("scheduler", world.clock.now(), "daily run")
        update_standing(connection, row, world.policy, date(2026, 11, 1), cause)
    refused = mark(world, account)
    assert isinstance(refused, Refused)


def test_closing_an_overdue_payment_restores_the_standing(world: World, account: Account) -> None:
    payment = overdue(world, account)
    daily_run(world, "2026-11-01")
    assert world.standing(account) == "marked_for_suspension"
    with world.engine.begin() as connection:
        request_close(
            connection,
            world.policy,
            payment,
            PaymentState.UNCOLLECTIBLE,
            Cause(ANNA, world.clock.now(), "bankrupt"),
        )
    assert world.payment(payment).state == "uncollectible"
    assert world.standing(account) == "good"
