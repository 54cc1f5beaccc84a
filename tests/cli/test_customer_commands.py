"""`customers forget`: an account whose Stripe customer was deleted gets another one, and pays with its card."""

import httpx
import pytest
from sqlalchemy import select

from shared.db.tables.operators import audit_log
from simulator.issuer.stories import DeclinesThenPays
from tests.cli.terminal import Terminal
from tests.world import World, api_key


@pytest.mark.parametrize("was_charged_before", [False, True], ids=["first charge", "after a decline"])
def test_account_pays_with_another_customer_after_its_own_was_deleted_at_stripe(
    world: World, terminal: Terminal, was_charged_before: bool
) -> None:
    anna = world.account("A-1")
    world.add_primary_card(anna, story=DeclinesThenPays(times=1, decline_code="insufficient_funds"))
    owed = world.add_due_payment(anna)
    if was_charged_before:
        world.charge(owed)
    deleted = world.customer_id(anna)
    forget = ("customers", "forget", "A-1", "--coverage", "global", "--reason")
    refused = terminal(*forget, "he requested it", "--yes")
    assert (refused.exit_code, "Stripe still has the customer" in refused.stderr) == (1, True)
    httpx.delete(f"{world.simulator.url}/v1/customers/{deleted}", auth=(api_key("global"), "")).raise_for_status()
    if not was_charged_before:
        world.charge(owed)

    shown = terminal(*forget, "deleted by mistake")
    assert "It was deleted at Stripe. Nothing is changed yet" in " ".join(shown.stdout.split())
    assert world.customer_id(anna) == deleted
    assert terminal(*forget, " ", "--yes").exit_code == 1
    done = terminal(*forget, "deleted by mistake", "--yes")
    assert done.exit_code == 0, done.output
    assert terminal("customers", "create", "--coverage", "global").exit_code == 0
    assert world.customer_id(anna) not in (None, deleted)
    with world.engine.connect() as connection:
        outcomes = connection.scalars(select(audit_log.c.outcome).where(audit_log.c.action == "customer.forget"))
        assert sorted(outcomes) == ["done", "refused", "refused"]

    world.add_primary_card(anna)
    terminal("payment", "charge", str(owed), "--reason", "he has a new card", "--yes")
    for _ in range(2):
        world.enqueued.extend(world.due_jobs())
        world.do_enqueued()
    assert (world.payment(owed).state, world.captured_amounts(owed)) == ("paid", [5_00])
