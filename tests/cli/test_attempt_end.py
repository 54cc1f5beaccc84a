"""`attempts end`: an unknown attempt whose PaymentIntent Stripe doesn't know, with the right key only."""

from sqlalchemy import select, text, update

from shared.db.tables.operators import audit_log
from shared.db.tables.payments import payment_intents
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
