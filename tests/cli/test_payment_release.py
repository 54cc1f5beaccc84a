"""`payment release`: a hold is released after a preview, by the function that the dashboard uses."""

from uuid import UUID

from sqlalchemy import select

from shared.db.session import in_transaction
from shared.db.tables.operators import audit_log
from shared.payments.refunds_and_disputes import record_dispute
from tests.cli.terminal import Terminal
from tests.cli.test_payment_commands import hold, messages, shown
from tests.reconciliation.records import UNBOOK, Night
from tests.world import World


def audited(world: World) -> list[tuple[str, str | None, dict[str, str]]]:
    columns = (audit_log.c.outcome, audit_log.c.reason, audit_log.c.snapshot)
    with world.engine.connect() as connection:
        rows = connection.execute(
            select(*columns).where(audit_log.c.action == "payment.release").order_by(audit_log.c.id)
        )
        return [(row.outcome, row.reason, row.snapshot) for row in rows]


def held(world: World) -> UUID:
    account = world.account("A-1")
    world.add_primary_card(account)
    payment = world.add_due_payment(account)
    hold(world, payment)
    return payment


def test_hold_is_shown_then_released_and_the_payment_is_charged_once(
    world: World, terminal: Terminal, redis_url: str
) -> None:
    payment = held(world)
    world.charge(payment)
    assert f"`duecourse payment release {payment} --reason …` only releases it" in shown(terminal, payment)

    refused = terminal("payment", "release", str(payment), "--reason", "it was our fault", answer="n\n")
    assert refused.exit_code == 1
    assert "USD 5.00, due, held until an operator releases it: looks like a fault of ours" in refused.stderr
    assert "Once released, it is charged at once." in refused.stderr
    assert (world.billing_events(payment), audited(world), messages(redis_url, "batch")) == ([], [], 0)
    assert terminal("payment", "release", str(payment), "--reason", " ", "--yes").exit_code == 1

    released = terminal("payment", "release", str(payment), "--reason", "it was our fault", "--yes")
    assert released.exit_code == 0, released.output
    assert world.payment(payment).held_until is None
    assert messages(redis_url, "batch") == 1
    assert world.billing_events(payment)[-1] == ("hold_released", "it was our fault")
    assert [(outcome, reason) for outcome, reason, _ in audited(world)] == [
        ("refused", None),
        ("done", "it was our fault"),
    ]
    assert audited(world)[-1][2]["reason"] == "looks like a fault of ours"
    world.charge(payment)
    assert world.captured_amounts(payment) == [5_00]

    again = terminal("payment", "release", str(payment), "--reason", "again", "--yes")
    assert (again.exit_code, "it isn't held" in again.stderr) == (1, True)


def test_hold_because_of_a_dispute_is_released(world: World, terminal: Terminal) -> None:
    account = world.account("A-1")
    world.add_primary_card(account)
    payment = world.add_due_payment(account)
    world.charge(payment)
    charge = world.attempts(payment)[-1].stripe_charge_id
    Night(world, account, "").plant(*UNBOOK, payment=payment)  # its success was lost
    dispute = world.runtime.gateways["global"].retrieve_dispute(
        world.simulator.dispute_charge("global", charge or "")
    )
    in_transaction(
        world.engine,
        lambda connection: record_dispute(connection, "global", dispute, "stripe", world.clock.now()),
    )
    preview = terminal("payment", "release", str(payment), "--reason", "the bank withdrew it", answer="n\n")
    assert "its charge is disputed (fraudulent): an operator decides" in " ".join(preview.stderr.split())
    done = terminal("payment", "release", str(payment), "--reason", "the bank withdrew it", "--yes")
    assert done.exit_code == 0, done.output
    assert world.payment(payment).held_until is None


def test_payment_that_waits_for_a_card_still_waits_after_its_release(world: World, terminal: Terminal) -> None:
    account = world.account("A-1")
    payment = world.add_due_payment(account)
    world.charge(payment)
    assert world.payment(payment).state == "needs_payment_method"
    hold(world, payment)
    done = terminal("payment", "release", str(payment), "--reason", "he called", "--yes")
    assert "it waits again for what it waited for before" in " ".join(done.stderr.split())
    assert world.payment(payment).state == "needs_payment_method"
