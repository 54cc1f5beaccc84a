"""`cards blocked` and `cards unblock`: a block that was set in error can be lifted, shown first and audited."""

from datetime import date
from typing import Any, cast

import pytest
from sqlalchemy import select, update

from shared.db.tables.operators import audit_log
from shared.db.tables.payments import payments
from shared.db.tables.system import billing_events
from shared.domain.calendar import UNTIL_RELEASED
from simulator.issuer.stories import AlwaysDeclines, DeclinesThenPays
from tests.cli.terminal import Terminal
from tests.world import World
from workers.use_cases.charge_payment import charge_payment


def test_block_is_shown_then_lifted_with_a_reason_and_the_card_can_pay(world: World, terminal: Terminal) -> None:
    anna = world.account("A-1")
    world.add_primary_card(anna, story=DeclinesThenPays(times=1, decline_code="fraudulent"))
    owed = world.add_due_payment(anna)
    charge_payment(world.runtime, owed)
    (shown,) = terminal.json("cards", "blocked")  # type: ignore[misc]
    blocked: Any = shown
    assert (blocked["coverage"], blocked["accounts"]) == ("global", ["A-1"])
    card = ("cards", "unblock", "global", blocked["fingerprint"])

    preview = terminal(*card, "--reason", "the bank confirmed it")
    assert "account A-1" in preview.stdout
    assert "Charged at once: 1 unpaid payment, USD 5.00." in preview.stdout
    assert "Nothing is changed yet" in preview.stdout
    refused = terminal(*card, "--reason", " ", "--yes")
    assert (refused.exit_code, "not lifted" in refused.stderr) == (1, True)
    assert len(terminal.json("cards", "blocked")) == 1  # type: ignore[arg-type]

    lifted = terminal(*card, "--reason", "the bank confirmed it", "--yes")
    assert lifted.exit_code == 0, lifted.output
    assert terminal.json("cards", "blocked") == []
    assert terminal(*card, "--reason", "again", "--yes").exit_code == 1
    with world.engine.connect() as connection:
        events = connection.execute(
            select(billing_events.c.reason, billing_events.c.before).where(
                billing_events.c.type == "card_block_lifted"
            )
        ).all()
        audited = connection.execute(
            select(audit_log.c.outcome, audit_log.c.snapshot).where(audit_log.c.action == "card.unblock")
        ).all()
    assert [(event.reason, event.before["reason"]) for event in events] == [
        ("the bank confirmed it", blocked["reason"])
    ]
    assert sorted(row.outcome for row in audited) == ["done", "refused", "refused"]
    assert world.captured_amounts(owed) == []

    world.enqueued.extend(world.due_jobs())
    world.do_enqueued()
    assert (world.payment(owed).state, world.captured_amounts(owed)) == ("paid", [5_00])


def test_payment_that_waits_for_another_reason_of_the_card_is_not_charged(world: World, terminal: Terminal) -> None:
    card = world.simulator.make_card("global", AlwaysDeclines(decline_code="expired_card"))
    anna, bob = world.account("A-1"), world.account("A-2")
    for account in (anna, bob):
        world.add_primary_card(account, card.token)
    expired = world.add_due_payment(anna)
    charge_payment(world.runtime, expired)
    world.simulator.set_story("global", card.token, DeclinesThenPays(times=1, decline_code="fraudulent"))
    blocking = world.add_due_payment(bob)
    charge_payment(world.runtime, blocking)
    parked = world.add_due_payment(bob, due_on=date(2026, 12, 1))
    charge_payment(world.runtime, parked)
    assert world.payment(parked).state_reason.startswith("the card network forbids")

    (blocked,) = cast("Any", terminal.json("cards", "blocked"))
    done = terminal("cards", "unblock", "global", blocked["fingerprint"], "--reason", "the bank erred", "--yes")
    assert "2 payments." in done.stdout
    for _ in range(2):
        world.enqueued.extend(world.due_jobs())
        world.do_enqueued()
    assert [world.payment(payment).state for payment in (expired, blocking, parked)] == [
        "needs_payment_method", "paid", "paid"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "spared", [{"held_until": UNTIL_RELEASED}, {"pending_close_as": "void"}, {"kind": "order"}], ids=str
)
def test_payment_that_an_operator_holds_or_closes_is_not_charged(
    world: World, terminal: Terminal, spared: dict[str, Any]
) -> None:
    anna = world.account("A-1")
    world.add_primary_card(anna, story=DeclinesThenPays(times=1, decline_code="fraudulent"))
    owed = world.add_due_payment(anna)
    charge_payment(world.runtime, owed)
    with world.engine.begin() as connection:
        connection.execute(update(payments).where(payments.c.id == owed).values(**spared))
    before = world.payment(owed)
    (blocked,) = cast("Any", terminal.json("cards", "blocked"))
    done = terminal("cards", "unblock", "global", blocked["fingerprint"], "--reason", "the bank erred", "--yes")
    assert "No payment waits for this." in done.stdout
    assert world.payment(owed) == before
