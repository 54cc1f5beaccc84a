"""`attempts end`: an unknown attempt whose PaymentIntent Stripe doesn't know, with the right key only."""

from sqlalchemy import select, text, update

from shared.db.tables.operators import audit_log
from shared.db.tables.payments import payment_attempts, payment_intents
from shared.payments.claim import Claimed, claim_charge
from tests.cli.terminal import Terminal
from tests.cli.test_payment_commands import lose_answers
from tests.world import World


def test_attempt_is_ended_only_if_stripe_knows_its_customer_and_not_its_payment_intent(
    world: World, terminal: Terminal
) -> None:
    anna = world.account("A-1")
    world.add_primary_card(anna)
    owed = world.add_due_payment(anna)
    confirm = world.runtime.gateways["global"].confirm_payment_intent
    lose_answers(world)
    world.charge(owed)
    world.runtime.gateways["global"].confirm_payment_intent = confirm  # type: ignore[method-assign]
    end = ("attempts", "end", str(owed), "--reason")
    assert "Stripe has it, succeeded" in terminal(*end, "no", "--yes").stdout

    with world.engine.begin() as connection:  # as after test data were deleted at Stripe
        connection.execute(update(payment_intents).values(stripe_payment_intent_id="pi_gone"))
    world.machine.advance(minutes=20)
    world.settle(world.attempts(owed)[0].id)
    assert [attempt.state for attempt in world.attempts(owed)] == ["unknown"], "a look-up never ends it"
    with world.engine.begin() as connection:
        customer = connection.scalar(select(payment_intents.c.stripe_customer_id))
        connection.execute(text("UPDATE payment_intents SET stripe_customer_id = 'cus_other'"))
        connection.execute(text("UPDATE payment_attempts SET stripe_payment_method_id = 'pm_other'"))
    wrong_key = terminal(*end, "gone", "--yes")
    assert (wrong_key.exit_code, "the key is probably another account's" in wrong_key.stdout) == (1, True)
    with world.engine.begin() as connection:
        connection.execute(update(payment_intents).values(stripe_customer_id=customer))

    assert "Nothing is changed yet" in terminal(*end, "gone").stdout
    assert terminal(*end, " ", "--yes").exit_code == 1
    assert [attempt.state for attempt in world.attempts(owed)] == ["unknown"]
    ended = terminal(*end, "test data were deleted", "--yes")
    assert ended.exit_code == 0, ended.output
    assert [attempt.state for attempt in world.attempts(owed)] == ["not_sent"]
    world.enqueued.extend(world.due_jobs())
    world.do_enqueued()
    row = world.payment(owed)
    assert (row.state, row.held_until is not None, len(world.attempts(owed))) == ("due", True, 1)
    assert "test data were deleted" in row.state_reason
    with world.engine.connect() as connection:
        outcomes = connection.scalars(
            select(audit_log.c.outcome).where(audit_log.c.action == "payment.end_attempt")
        ).all()
    assert sorted(outcomes) == ["done", "refused", "refused", "refused"]


def test_payment_is_charged_once_under_another_payment_intent_after_its_attempt_was_ended(
    world: World, terminal: Terminal
) -> None:
    anna = world.account("A-1")
    world.add_primary_card(anna)
    owed = world.add_due_payment(anna)
    with world.engine.begin() as connection:  # its worker is gone, and so is its PaymentIntent
        assert isinstance(claim_charge(connection, world.runtime, owed), Claimed)
        connection.execute(update(payment_intents).values(stripe_payment_intent_id="pi_gone"))
        connection.execute(update(payment_attempts).values(confirm_allowed_at=world.machine()))
    world.machine.advance(minutes=20)
    world.settle(world.attempts(owed)[0].id)
    assert [attempt.state for attempt in world.attempts(owed)] == ["unknown"]

    assert terminal("attempts", "end", str(owed), "--reason", "it is gone", "--yes").exit_code == 0
    charged = terminal("payment", "charge", str(owed), "--reason", "collect it", "--yes")
    assert charged.exit_code == 0, charged.output
    for _ in range(2):
        world.enqueued.extend(world.due_jobs())
        world.do_enqueued()
    assert [(intent.ordinal, intent.closed_reason) for intent in world.intents(owed)] == [
        (1, "abandoned"),
        (2, "succeeded"),
    ]
    assert (world.payment(owed).state, world.captured_amounts(owed)) == ("paid", [5_00])
