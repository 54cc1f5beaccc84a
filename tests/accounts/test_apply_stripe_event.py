"""An event is applied once and never forgotten: outages delay it, errors are stored and end with an operator."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select

from shared.db.tables.system import billing_events, stripe_events
from shared.gateway.port import Answer, CardSnapshot, GatewayRefusedError, Outcome
from shared.operations.stripe_event_processing import MAX_ERRORS
from shared.runtime import Runtime
from simulator.faults.rules import FaultRule
from tests.accounts.conftest import CardWorld, payment_with_a_lost_answer
from tests.reconciliation.records import Night
from tests.web.serving import wait_until
from tests.web.stripe_webhooks import SECRET
from workers.use_cases.apply_stripe_event import apply_stripe_event
from workers.use_cases.reconcile_charges import reconcile_charges


def test_applied_event_is_not_applied_again(here: CardWorld) -> None:
    job = here.tell("evt_1", "payment_intent.succeeded", "pi_of_another_system")
    assert here.apply(job) == "not ours: no payment has this PaymentIntent"
    row = here.event(job)
    assert (row.state, row.applied_at, row.try_again_at) == ("applied", here.world.machine.now, None)
    here.world.machine.advance(hours=1)
    here.apply(job)
    assert here.event(job) == row
    with here.world.engine.connect() as connection:
        assert connection.scalar(select(func.count()).where(billing_events.c.type == "stripe_event_applied")) == 1


def test_ignored_or_missing_event_is_skipped(here: CardWorld) -> None:
    job = here.tell("evt_1", "invoice.created", "in_1")
    assert here.apply(job) is None
    assert here.event(job).state == "ignored"
    apply_stripe_event(here.world.runtime, "global", "evt_nowhere")


def test_event_claimed_by_another_worker_is_skipped(here: CardWorld) -> None:
    job = here.tell("evt_1", "payment_intent.succeeded", "pi_1")
    claim_until(here, here.world.machine.now + timedelta(seconds=20))
    assert here.apply(job) is None
    here.world.machine.advance(seconds=21)
    assert here.apply(job) is not None


def test_slow_worker_does_not_apply_an_event_twice(here: CardWorld) -> None:
    world = here.world
    anna = world.account("A-1")
    world.register_card(anna)
    (job,) = [job for job in here.arrived() if here.event(job).type == "setup_intent.succeeded"]

    class Slow:
        """The real gateway; while it answers, another worker takes over and finishes."""

        def __getattr__(self, name: str) -> object:
            return getattr(world.runtime.gateways["global"], name)

        def retrieve_card(self, payment_method: str) -> CardSnapshot:
            card = world.runtime.gateways["global"].retrieve_card(payment_method)
            world.machine.advance(seconds=30)
            assert here.apply(job) == "registered the primary card; 0 made due"
            return card

    slow = replace(world.runtime, gateways={"global": Slow()})  # type: ignore[dict-item]
    here.apply(job, slow)
    with world.engine.connect() as connection:
        assert connection.scalar(select(func.count()).where(billing_events.c.type == "stripe_event_applied")) == 1
    assert here.settings(anna).card_revision == 1


def test_outage_delays_an_event_with_growing_backoff_until_it_is_applied(here: CardWorld, cut_off: Runtime) -> None:
    anna = here.world.account("A-1")
    owed = here.world.add_due_payment(anna)
    here.world.register_card(anna)
    (job,) = [job for job in here.arrived() if here.event(job).type == "setup_intent.succeeded"]
    waits = []
    for _ in range(30):
        here.apply(job, cut_off)
        row = here.event(job)
        assert row.state == "received"
        waits.append((row.try_again_at - here.world.machine.now).total_seconds())
        here.world.machine.now = row.try_again_at
    assert waits[:9] == [5, 10, 20, 40, 80, 160, 320, 600, 600]
    assert set(waits[9:]) == {600}
    assert here.apply(job) == "registered the primary card; 1 made due"
    here.live()
    assert here.world.captured_amounts(owed) == [500]


def test_object_that_stripe_does_not_know_is_trouble_with_the_key(here: CardWorld) -> None:
    for job in (
        here.tell("evt_1", "setup_intent.succeeded", "seti_gone"),
        here.tell("evt_2", "payment_method.updated", "pm_gone"),
    ):
        here.apply(job)
        row = here.event(job)
        assert row.state == "trouble"
        assert "STRIPE_API_KEYS[global] a key of the right Stripe account?" in row.trouble


def test_swapped_keys_take_no_card_out_of_use_and_lose_no_registration(here: CardWorld) -> None:
    """While a coverage has another account's key, Stripe answers 404 for its cards and SetupIntents."""
    world = here.world
    anna, bert = world.account("A-1"), world.account("A-2")
    card = world.register_card(anna)
    here.live()
    owed = here.waiting(bert)
    world.simulator.automatically_update("global", card.payment_method, exp_month=1, exp_year=2035)
    world.register_card(bert)
    gateways = world.runtime.gateways
    swapped = replace(world.runtime, gateways={**gateways, "global": gateways["japan"]})
    jobs = here.arrived()
    for job in jobs:
        here.apply(job, swapped)
    assert {here.event(job).state for job in jobs} == {"trouble"}
    assert here.primary(anna) == card.payment_method, "the card that Stripe does not know with this key"
    world.machine.advance(hours=1)
    for job in jobs:
        here.apply(job)
    here.live()
    assert here.primary(anna) == card.payment_method
    assert world.captured_amounts(owed) == [5_00]


def test_event_without_an_object_sends_no_request(here: CardWorld, cut_off: Runtime) -> None:
    job = here.tell("evt_1", "setup_intent.succeeded", "x")
    with here.world.engine.begin() as connection:
        connection.execute(stripe_events.update().values(stripe_object_id=None))
    assert here.apply(job, cut_off) == "the event names no object"


def test_event_that_raises_twenty_times_is_left_to_an_operator(here: CardWorld) -> None:
    job = here.tell("evt_1", "setup_intent.succeeded", "seti_1")
    keyless = replace(here.world.runtime, gateways={})
    for tries in range(1, MAX_ERRORS + 1):
        with pytest.raises(LookupError, match="STRIPE_API_KEYS"):
            here.apply(job, keyless)
        row = here.event(job)
        assert (row.state, row.tries) == ("trouble", tries)
        assert row.trouble.startswith("LookupError: STRIPE_API_KEYS has no key for 'global'")
        if tries < MAX_ERRORS:
            here.world.machine.now = row.try_again_at
    assert row.try_again_at == datetime(9999, 12, 31, tzinfo=UTC)
    here.world.machine.advance(days=365)
    here.apply(job, keyless)
    assert here.event(job) == row
    with here.world.engine.connect() as connection:
        noted = connection.execute(
            select(billing_events).where(billing_events.c.type == "stripe_event_in_trouble")
        ).all()
    assert len(noted) == MAX_ERRORS


def test_event_is_applied_once_its_error_is_fixed(here: CardWorld) -> None:
    here.world.register_card(here.world.account("A-1"))
    (job,) = [job for job in here.arrived() if here.event(job).type == "setup_intent.succeeded"]
    with pytest.raises(LookupError):
        here.apply(job, replace(here.world.runtime, gateways={}))
    here.world.machine.now = here.event(job).try_again_at
    assert here.apply(job) is not None
    assert (here.event(job).state, here.event(job).trouble) == ("applied", None)


def test_outage_does_not_count_as_an_error(here: CardWorld, cut_off: Runtime) -> None:
    job = here.tell("evt_1", "setup_intent.succeeded", "seti_gone")
    for _ in range(MAX_ERRORS + 5):
        here.apply(job, cut_off)
        here.world.machine.now = here.event(job).try_again_at
    with pytest.raises(LookupError):
        here.apply(job, replace(here.world.runtime, gateways={}))
    assert here.event(job).try_again_at == here.world.machine.now + timedelta(seconds=5)


@pytest.mark.parametrize("fault", ["unauthorized", "forbidden"])
def test_refused_key_is_trouble_at_once_and_the_event_is_applied_once_the_key_is_right(
    here: CardWorld, fault: str
) -> None:
    anna = here.world.account("A-1")
    here.world.register_card(anna)
    (job,) = [job for job in here.arrived() if here.event(job).type == "setup_intent.succeeded"]
    tries = MAX_ERRORS + 5
    here.world.simulator.add_faults([FaultRule(fault, operation="other", count=tries)])
    for _ in range(tries):
        here.apply(job)
        row = here.event(job)
        assert row.state == "trouble"
        assert row.trouble.startswith("GatewayRefusedError: ")
        assert row.try_again_at <= here.world.machine.now + timedelta(minutes=10), "a fixed key is noticed soon"
        here.world.machine.now = row.try_again_at
    assert len(troubles(here)) == 1, "one billing event while the reason stays the same"
    assert here.apply(job) == "registered the primary card; 0 made due"
    assert (here.event(job).state, here.event(job).trouble) == ("applied", None)


def test_refused_request_is_trouble_and_left_to_an_operator(here: CardWorld) -> None:
    anna = here.world.account("A-1")
    here.world.register_card(anna)
    (job,) = [job for job in here.arrived() if here.event(job).type == "setup_intent.succeeded"]

    class Refuses:
        """A gateway whose reads are answered with HTTP 400, as after a change of the API that we don't know."""

        def __getattr__(self, name: str) -> object:
            raise GatewayRefusedError("InvalidRequestError: no such parameter", http_status=400)

    refuses = replace(here.world.runtime, gateways={"global": Refuses()})  # type: ignore[dict-item]
    for _ in range(MAX_ERRORS):
        here.apply(job, refuses)
        assert here.event(job).state == "trouble"
        here.world.machine.now = min(here.event(job).try_again_at, here.world.machine.now + timedelta(hours=1))
    assert here.event(job).try_again_at == datetime(9999, 12, 31, tzinfo=UTC)


def test_refused_retrieval_of_a_payment_intent_is_trouble(here: CardWorld) -> None:
    owed = payment_with_a_lost_answer(here, here.world.account("A-1"))
    here.world.machine.advance(hours=1)  # the lease is over, so the event isn't an echo
    jobs = here.arrived()
    here.world.simulator.add_faults([FaultRule("unauthorized", operation="retrieve")])
    (job,) = [job for job in jobs if here.event(job).type == "payment_intent.succeeded"]
    here.apply(job)
    assert here.event(job).state == "trouble"
    here.world.machine.now = here.event(job).try_again_at
    here.apply(job)
    assert here.world.payment(owed).state == "paid"


def test_error_is_stored_without_secrets(here: CardWorld) -> None:
    class Broken(dict):  # type: ignore[type-arg]  # stands for any defect that speaks too much
        def __contains__(self, key: object) -> bool:
            raise RuntimeError("key sk_live_abc123 of anna@example.org")

    job = here.tell("evt_1", "setup_intent.succeeded", "seti_1")
    with pytest.raises(RuntimeError):
        here.apply(job, replace(here.world.runtime, gateways=Broken()))
    assert here.event(job).trouble == "RuntimeError: key [redacted] of [redacted]"


def test_older_worker_keeps_an_event_of_a_newer_web_process(here: CardWorld) -> None:
    job = here.tell("evt_1", "setup_intent.succeeded", "seti_1")
    with here.world.engine.begin() as connection:
        connection.execute(stripe_events.update().values(type="setup_intent.of_tomorrow"))
    with pytest.raises(LookupError, match="newer than this worker"):
        here.apply(job)
    assert here.event(job).state == "trouble"


def test_webhook_settles_an_attempt_with_a_lost_answer(here: CardWorld) -> None:
    world = here.world
    owed = payment_with_a_lost_answer(here, world.account("A-1"))
    assert world.payment(owed).state != "paid"
    here.live()
    assert world.payment(owed).state == "paid"
    assert world.captured_amounts(owed) == [500]
    assert [attempt.state for attempt in world.attempts(owed)] == ["declined", "succeeded"]
    with world.engine.connect() as connection:
        told = connection.execute(
            select(billing_events).where(
                billing_events.c.type == "stripe_event_applied", billing_events.c.payment_id == owed
            )
        ).all()
    assert "retrieved the PaymentIntent: succeeded" in [row.reason for row in told]


def test_money_of_an_abandoned_payment_intent_is_booked_by_its_event(here: CardWorld) -> None:
    """An orphan whose cancellation was never answered, confirmed by a person in Stripe's dashboard."""
    world = here.world
    anna = world.account("A-1")
    card = world.add_primary_card(anna)
    owed = world.add_due_payment(anna)
    night = Night(world, anna, card.payment_method)
    orphan = night.create_unknown_intent(owed)
    gateway = world.runtime.gateways["global"]
    gateway.cancel_payment_intent = lambda *_: Answer(Outcome.UNKNOWN, "no_answer: timeout")  # type: ignore[method-assign]
    reconcile_charges(world.runtime, night.add_run())
    (row,) = world.intents(owed)
    assert (row.stripe_payment_intent_id, row.closed_reason) == (orphan.stripe_id, "abandoned")
    charge = gateway.confirm_payment_intent(orphan.stripe_id, card.payment_method, "by-hand").charge_id
    here.live()
    assert world.captured_amounts(owed) == [5_00], "and not once more by us"
    assert (world.payment(owed).state, night.receipts(owed)) == ("paid", [charge])


def test_simulator_delivers_webhooks_to_the_receiver(here: CardWorld) -> None:
    world = here.world
    anna = world.account("A-1")
    world.simulator.add_webhook_endpoint("global", f"{here.web_url}/webhooks/stripe/global", SECRET["global"])
    world.register_card(anna)

    def is_stored() -> bool:
        with world.engine.connect() as connection:
            return "setup_intent.succeeded" in set(connection.scalars(select(stripe_events.c.type)))

    wait_until(is_stored)


def troubles(here: CardWorld) -> list[str]:
    with here.world.engine.connect() as connection:
        return list(
            connection.scalars(
                select(billing_events.c.reason).where(billing_events.c.type == "stripe_event_in_trouble")
            )
        )


def claim_until(here: CardWorld, at: datetime) -> None:
    with here.world.engine.begin() as connection:
        connection.execute(stripe_events.update().values(try_again_at=at, tries=1))
