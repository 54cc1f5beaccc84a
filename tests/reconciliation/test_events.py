"""Events that Stripe stopped delivering: the night lists them and stores them as their webhooks would have."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from shared.gateway import stripe_gateway
from shared.gateway.stripe_event_types import HANDLED_EVENT_TYPES
from shared.reconciliation import runner
from tests.reconciliation.records import NIGHT, Night
from tests.reconciliation.test_nights import die, killed
from tests.seed import Account
from tests.world import World
from workers.use_cases.apply_stripe_event import apply_stripe_event

STORED = (
    "SELECT coverage, stripe_event_id, type, state FROM stripe_events ORDER BY stripe_created_at, stripe_event_id"
)


def stored(night: Night) -> list[Any]:
    with night.world.engine.connect() as connection:
        return list(connection.execute(text(STORED)))


def apply_stored(night: Night) -> None:
    for event in stored(night):
        apply_stripe_event(night.world.runtime, event.coverage, event.stripe_event_id)


def has_primary_card(world: World, account: Account) -> bool:
    query = text("SELECT primary_card_id FROM payment_settings WHERE id = :settings")
    with world.engine.connect() as connection:
        return connection.scalar(query, {"settings": account.settings_id}) is not None


def test_card_whose_event_was_never_delivered_is_registered_in_the_night_and_charged(night: Night) -> None:
    """No webhook reaches this world: each event is one that Stripe stopped sending."""
    world = night.world
    berta = world.account("B-1")
    owed = world.add_due_payment(berta)
    world.charge(owed)
    assert world.payment(owed).state == "needs_payment_method"
    world.register_card(berta)
    counts = night.reconcile()
    events = stored(night)
    assert {event.type for event in events} <= HANDLED_EVENT_TYPES
    assert {event.state for event in events} == {"received"}
    assert counts["events_that_were_missing"] == counts["events"] == len(events) > 0
    apply_stored(night)
    assert has_primary_card(world, berta)
    world.charge(owed)
    assert (world.payment(owed).state, world.captured_amounts(owed)) == ("paid", [5_00])


def test_pages_are_read_to_their_end_and_a_killed_run_stores_each_event_once(
    night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(7):
        night.world.register_card(night.world.account(f"P-{number}"))
    monkeypatch.setattr(stripe_gateway, "PAGE", 3)
    run_id = night.add_run()
    with monkeypatch.context() as patched:
        patched.setattr(runner, "delete_listed_charges", die)  # with the last page
        killed(night, run_id)
    assert night.run(run_id).cursor["phase"] == "events"
    before = len(stored(night))
    counts = night.resume(run_id)
    registrations = [event for event in stored(night) if event.type == "setup_intent.succeeded"]
    assert len(registrations) == 8
    assert 0 < before < len(stored(night)) == counts["events"] == counts["events_that_were_missing"]


def test_next_night_continues_where_the_last_one_ended(night: Night) -> None:
    world = night.world
    night.reconcile()
    first = stored(night)
    world.clock.set(NIGHT + timedelta(days=3))
    world.register_card(world.account("B-1"))  # the scheduler is down for nine days
    late = NIGHT + timedelta(days=9)
    world.clock.set(late)
    run_id = night.add_run(late)
    counts = night.resume(run_id)
    assert night.run(run_id).cursor["events_from"] == NIGHT.isoformat()
    new = stored(night)[len(first) :]
    assert "setup_intent.succeeded" in [event.type for event in new]
    assert counts["events_that_were_missing"] == len(new)
    assert night.findings() == []


def test_event_that_was_delivered_is_not_stored_again(night: Night) -> None:
    night.reconcile()
    apply_stored(night)
    before = stored(night)
    counts = night.reconcile(night.next_night())
    assert stored(night) == before
    assert counts["events"] > 0
    assert counts.get("events_that_were_missing", 0) == 0


def test_gap_of_more_than_thirty_days_is_told_to_an_operator(night: Night) -> None:
    night.reconcile()
    late = NIGHT + timedelta(days=31)
    night.world.clock.set(late)
    counts = night.reconcile(late)
    assert counts["found"] == {"stripe_events_not_listed": 1}
    (finding,) = night.findings()
    assert finding.details["events_from"] == NIGHT.isoformat()
    assert finding.details["events_until"] == (late - timedelta(days=30) + timedelta(hours=1)).isoformat()
    assert night.reconcile(night.next_night(late))["found"] == {}, "told once"


def test_new_installation_on_an_account_that_was_in_use_is_told_to_an_operator(night: Night) -> None:
    """Its customers are older than the events that Stripe still lists."""
    late = NIGHT + timedelta(days=31)
    assert night.reconcile(late)["found"] == {"stripe_events_not_listed": 1}
    (finding,) = night.findings()
    assert finding.details["events_from"] is None


def test_new_installation_on_a_new_account_lacks_nothing(night: Night) -> None:
    assert night.reconcile(NIGHT + timedelta(days=29))["found"] == {}
    assert stored(night), "thirty days are listed"


def test_upgrade_lists_thirty_days_although_earlier_runs_compared_charges(night: Night) -> None:
    run_id = night.add_run()
    night.resume(run_id)
    forget_events(night, run_id)
    week = NIGHT + timedelta(days=7)
    counts = night.reconcile(week)
    assert counts["events_that_were_missing"] == len(stored(night)) > 0


def test_processor_lists_events_of_thirty_days_and_takes_all_our_types_at_once(night: Night) -> None:
    assert len(HANDLED_EVENT_TYPES) <= 20, "Stripe's limit of `types` in one list"
    world, first = night.world, night.world.clock.now()
    gateway = world.runtime.gateways["global"]
    world.clock.set(first + timedelta(days=30, seconds=1))
    world.register_card(world.account("B-1"))
    listed = gateway.event_page(HANDLED_EVENT_TYPES, first, first + timedelta(days=60), None).items
    assert {event.created_at for event in listed} == {world.clock.now().replace(microsecond=0)}
    assert {event.type for event in listed} == {"setup_intent.succeeded", "payment_method.attached"}


def forget_events(night: Night, run_id: UUID) -> None:
    """As the release before, which listed no events, left a run behind."""
    night.plant("UPDATE runs SET cursor = cursor - 'events_from' WHERE id = :run", run=run_id)
    night.plant("DELETE FROM stripe_events")
