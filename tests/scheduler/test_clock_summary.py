"""`duecourse clock advance` says what happened meanwhile."""

from datetime import timedelta

from sqlalchemy import update

from cli.clock_commands import what_happened
from shared.db.billing_events import BillingEvent, record_event
from shared.db.tables.system import runs
from shared.domain.event_types import EventType
from simulator.issuer.stories import AlwaysDeclines
from tests.seed import add_run
from tests.world import World


def test_summary_counts_runs_invoices_charges_and_declines_of_that_time_only(world: World) -> None:
    before = world.clock.now()
    world.clock.set(before + timedelta(days=1))
    for name, coverage, amount in (("A-1", "global", 12_34), ("A-2", "japan", 3_000), ("A-3", "global", 1_00)):
        account = world.account(name, coverage)
        world.add_primary_card(account)
        world.charge(world.add_due_payment(account, amount))
    declining = world.account("A-4")
    world.add_primary_card(declining, story=AlwaysDeclines(decline_code="insufficient_funds"))
    world.charge(world.add_due_payment(declining))
    with world.engine.begin() as connection:
        run = add_run(connection)
        connection.execute(update(runs).where(runs.c.id == run).values(started_at=world.clock.now()))
        record_event(
            connection, BillingEvent(type=EventType.INVOICE_ISSUED, at=world.clock.now(), actor="scheduler")
        )
    after = world.clock.now()
    assert what_happened(world.engine, before, after) == (
        "1 run, 1 invoice issued, 3 charged (JPY 3,000, USD 13.34), 1 declined"
    )
    assert what_happened(world.engine, after, after + timedelta(days=9)) == (
        "0 runs, 0 invoices issued, 0 charged, 0 declined"
    )
