"""`payment show` explains, `payment charge` asks only where asking can't hurt."""

import json
from datetime import date, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text, update

from cli.attempt_commands import show_age
from shared.db.tables.payments import payments
from shared.domain.calendar import UNTIL_RELEASED
from shared.gateway.port import Answer, Outcome
from simulator.issuer.stories import AlwaysDeclines, DeclinesThenPays, NeedsAuthentication
from tests.cli.terminal import Terminal
from tests.seed import add_fee, add_run
from tests.world import World
from workers.use_cases.generate_invoices import generate_invoices


def shown(terminal: Terminal, wanted: object) -> str:
    result = terminal("payment", "show", str(wanted))
    assert result.exit_code == 0, result.output
    return " ".join(result.stdout.split())


def hold(world: World, payment: UUID) -> None:
    with world.engine.begin() as connection:
        connection.execute(
            update(payments)
            .where(payments.c.id == payment)
            .values(held_until=UNTIL_RELEASED, state_reason="looks like a fault of ours")
        )


def messages(redis_url: str, queue: str = "interactive") -> int:
    import redis

    with redis.Redis.from_url(redis_url) as client:
        return int(client.llen(f"duecourse:{queue}"))


def lose_answers(world: World) -> None:
    """The processor takes the money, and we never hear of it."""
    gateway = world.runtime.gateways["global"]
    confirm = gateway.confirm_payment_intent

    def confirm_in_vain(*arguments: str) -> Answer:
        confirm(*arguments)
        return Answer(Outcome.UNKNOWN, "no_answer: timeout")

    gateway.confirm_payment_intent = confirm_in_vain


def test_show_explains_a_decline_with_codes_and_next_step(world: World, terminal: Terminal) -> None:
    account = world.account("J-1", "japan")
    world.add_primary_card(account, story=AlwaysDeclines(decline_code="insufficient_funds"))
    payment = world.add_due_payment(account, 500)
    world.charge(payment)
    told = shown(terminal, payment)
    (attempt,) = world.attempts(payment)
    assert "JPY 500" in told
    assert "retry_scheduled since 2026-11-01 18:00 JST (09:00 UTC)" in told
    assert f"At 2026-11-02 09:00 JST (00:00 UTC) visa ending in {last4(world)} is charged" in told
    assert "The card's funds are insufficient (insufficient_funds, advice try_again_later): the same card" in told
    for word in (
        attempt.stripe_request_id,
        attempt.stripe_charge_id,
        "HTTP 402",
        "decline_code insufficient_funds",
    ):
        assert word in told
    assert "1 attempt, 1 decline" in told
    assert "the account is marked for suspension on 2026-11-15 if unpaid or after 6 more declines" in told


def last4(world: World) -> str:
    with world.engine.connect() as connection:
        return str(connection.scalar(text("SELECT last4 FROM cards")))


def test_show_explains_a_skipped_attempt(world: World, terminal: Terminal) -> None:
    payment = world.add_due_payment(world.account("A-1"))
    world.charge(payment)
    told = shown(terminal, payment)
    assert "Not attempted: no card is registered → needs_payment_method" in told
    assert "Waits for the customer to register or update a card: no card is registered" in told
    assert "Owner: customer" in told


def test_next_step_names_the_end_of_the_network_budget(world: World, terminal: Terminal) -> None:
    card = world.simulator.make_card(
        "global", AlwaysDeclines(decline_code="insufficient_funds"), brand="mastercard"
    )
    for number in range(11):
        account = world.account(f"A-{number}")
        world.add_primary_card(account, card.token, brand="mastercard")
        payment = world.add_due_payment(account)
        world.charge(payment)
    told = shown(terminal, payment)
    assert "At 2026-11-02 09:00 UTC mastercard" in told
    assert "the network allows 10" in told


def test_show_says_that_an_unknown_attempt_is_looked_up(world: World, terminal: Terminal) -> None:
    account = world.account("A-1")
    world.add_primary_card(account)
    payment = world.add_due_payment(account)
    lose_answers(world)
    world.charge(payment)
    told = shown(terminal, payment)
    assert "The outcome of attempt 1, started 2026-11-01 09:00 UTC, is unknown. It is looked up" in told
    assert "Attempt 1 → unknown" in told


def test_show_lists_both_results_of_a_settled_attempt(world: World, terminal: Terminal) -> None:
    account = world.account("A-1")
    world.add_primary_card(account)
    payment = world.add_due_payment(account)
    lose_answers(world)
    world.charge(payment)
    world.machine.advance(minutes=10)
    world.settle(world.attempts(payment)[0].id)
    told = shown(terminal, payment)
    assert "Attempt 1 → succeeded" in told
    assert "unknown, by worker: no_answer: timeout" in told
    assert "succeeded, by settlement" in told
    assert "None: paid 2026-11-01 09:00 UTC. It is never charged again." in told


def test_payment_is_found_by_invoice_number_and_by_account(world: World, terminal: Terminal) -> None:
    account = world.account("A-1")
    world.add_primary_card(account)
    with world.engine.begin() as connection:
        add_fee(connection, account, 29_85)
        run_id = add_run(connection)
    for _ in range(2):
        generate_invoices(world.runtime, run_id)
    by_number = shown(terminal, "g-2026-000001")
    assert "Invoice G-2026-000001 issued: 1 line, USD 29.85" in by_number
    assert "Due now: as soon as a worker is free, visa ending in 4242 is charged." in by_number
    assert shown(terminal, "A-1") == by_number
    world.add_due_payment(account, 1_00)
    assert "G-2026-000001" in shown(terminal, "A-1")
    assert terminal("payment", "show", "nobody").exit_code == 1
    assert "no payment id, invoice number or account matches" in terminal("payment", "show", "nobody").stderr


def test_account_without_open_payments_shows_the_latest_in_full(world: World, terminal: Terminal) -> None:
    account = world.account("A-1")
    world.add_primary_card(account, story=DeclinesThenPays(times=1, decline_code="do_not_honor"))
    first = world.add_due_payment(account, 1_00, due_on=date(2026, 10, 1))
    latest = world.add_due_payment(account, 1_00, due_on=date(2026, 11, 1), trigger="operator")
    world.charge(latest)
    assert "One of them in full" in shown(terminal, "A-1"), "both are open: they are listed"
    world.clock.set(world.payment(latest).next_attempt_at)
    for payment in (first, latest):
        world.charge(payment)
        assert world.payment(payment).state == "paid"
    told = shown(terminal, "A-1")
    before, after = told.split("Earlier payments")
    assert f"payment {latest}" in before
    assert "Attempt 1 → declined" in before
    assert "The issuer declined and gave no reason (do_not_honor, advice try_again_later)" in before
    assert str(first) not in before
    assert str(first) in after


def test_show_as_json_is_the_same_explanation(world: World, terminal: Terminal) -> None:
    account = world.account("A-1")
    world.add_primary_card(account)
    payment = world.add_due_payment(account)
    world.charge(payment)
    told: Any = terminal.json("payment", "show", str(payment))
    assert told[0]["state"] == "paid"
    assert told[0]["timeline"][0]["number"] == 1
    assert told[0]["next_step"]["owner"] == "nobody"


def test_charge_asks_for_confirmation_and_no_changes_nothing(
    world: World, terminal: Terminal, redis_url: str
) -> None:
    account = world.account("A-1")
    world.add_primary_card(account)
    payment = world.add_due_payment(account, 29_85, next_attempt_at=world.clock.now() + timedelta(days=3))
    result = terminal("payment", "charge", str(payment), "--reason", "she called", answer="n\n")
    assert result.exit_code == 1
    assert "Charges USD 29.85 to visa ending in 4242." in result.stderr
    assert world.billing_events(payment) == []
    assert messages(redis_url) == 0


def test_charge_stores_actor_and_reason(world: World, terminal: Terminal, redis_url: str) -> None:
    account = world.account("A-1")
    world.add_primary_card(account)
    payment = world.add_due_payment(account, 29_85, next_attempt_at=world.clock.now() + timedelta(days=3))
    hold(world, payment)
    result = terminal("payment", "charge", str(payment), "--reason", "she called", answer="y\n")
    assert result.exit_code == 0, result.output
    assert "it is held; the charge releases the hold: looks like a fault of ours" in result.stderr
    row = world.payment(payment)
    assert (row.state, row.lane, row.trigger, row.held_until) == ("due", "interactive", "operator", None)
    assert row.requested_by.startswith("operator:")
    assert messages(redis_url) == 1
    assert [kind for kind, _ in world.billing_events(payment)] == ["hold_released", "payment_rescheduled"]
    assert [reason for _, reason in world.billing_events(payment)] == ["she called", "she called"]
    world.charge(payment)
    assert world.captured_amounts(payment) == [29_85]


def refusal(terminal: Terminal, payment: UUID) -> str:
    result = terminal("payment", "charge", str(payment), "--reason", "she called", "--yes")
    assert result.exit_code == 1, result.output
    return " ".join(result.stderr.split())


def test_charge_is_refused_while_an_attempt_is_unknown(world: World, terminal: Terminal, redis_url: str) -> None:
    account = world.account("A-1")
    world.add_primary_card(account)
    payment = world.add_due_payment(account)
    lose_answers(world)
    world.charge(payment)
    said = refusal(terminal, payment)
    assert "attempt 1, started at 2026-11-01 09:00:00 UTC, has an unknown outcome" in said
    assert "a second charge could collect the money twice" in said
    assert messages(redis_url) == 0
    world.charge(payment)
    assert world.captured_amounts(payment) == [5_00]


def test_charge_of_a_paid_payment_is_refused(world: World, terminal: Terminal) -> None:
    account = world.account("A-1")
    world.add_primary_card(account)
    payment = world.add_due_payment(account)
    world.charge(payment)
    assert "it was paid at 2026-11-01 09:00 UTC" in refusal(terminal, payment)
    assert world.payment(payment).state == "paid"


def test_charge_of_a_blocked_card_is_refused_and_stored(world: World, terminal: Terminal) -> None:
    account = world.account("A-1")
    world.add_primary_card(account, story=AlwaysDeclines(decline_code="stolen_card"))
    payment = world.add_due_payment(account)
    world.charge(payment)
    said = refusal(terminal, payment)
    assert "the card network forbids charging visa ending in" in said
    assert "again (the card was reported stolen (stolen_card" in said
    assert world.billing_events(payment)[-1][0] == "charge_not_attempted"
    assert ": she called" in shown(terminal, payment)


def test_charge_over_the_network_budget_is_refused_with_its_end(world: World, terminal: Terminal) -> None:
    card = world.simulator.make_card(
        "global", AlwaysDeclines(decline_code="insufficient_funds"), brand="mastercard"
    )
    account = world.account("A-1")
    world.add_primary_card(account, card.token, brand="mastercard")
    for _ in range(10):
        payment = world.add_due_payment(account, trigger="operator")
        world.charge(payment)
    assert "it may be charged again from 2026-11-02 09:00 UTC" in refusal(terminal, payment)


def test_charge_without_a_card_or_by_transfer_is_refused(world: World, terminal: Terminal) -> None:
    assert "no card is registered" in refusal(terminal, world.add_due_payment(world.account("A-1")))
    by_transfer = world.account("A-2", kind="bank_transfer")
    assert "pays by bank transfer" in refusal(terminal, world.add_due_payment(by_transfer))


@pytest.mark.parametrize(
    ("story", "warning"),
    [
        (AlwaysDeclines(decline_code="expired_card"), "the card has not changed since the last attempt"),
        (NeedsAuthentication(), "the bank required the customer's confirmation"),
    ],
)
def test_charge_that_will_likely_decline_warns_but_proceeds(
    world: World, terminal: Terminal, story: Any, warning: str
) -> None:
    account = world.account("A-1")
    world.add_primary_card(account, story=story)
    payment = world.add_due_payment(account)
    world.charge(payment)
    result = terminal("payment", "charge", str(payment), "--reason", "she called", "--yes")
    assert warning in result.stderr
    assert result.exit_code == 0
    assert world.payment(payment).state == "due"


def test_reason_is_required(world: World, terminal: Terminal) -> None:
    payment = world.add_due_payment(world.account("A-1"))
    assert terminal("payment", "charge", str(payment)).exit_code == 2
    assert "a reason is required" in terminal("payment", "charge", str(payment), "--reason", " ").stderr


def test_wait_shows_the_outcome(world: World, terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    account = world.account("A-1")
    world.add_primary_card(account, story=DeclinesThenPays(times=1, decline_code="insufficient_funds"))
    payment = world.add_due_payment(account)
    world.charge(payment)
    monkeypatch.setattr("cli.payment_commands.time.sleep", lambda _s: world.charge(payment))  # the worker's turn
    result = terminal("payment", "charge", str(payment), "--reason", "she called", "--yes", "--wait")
    assert result.exit_code == 0, result.output
    assert "Attempt 2 → succeeded" in result.stdout
    assert world.captured_amounts(payment) == [5_00]


def test_unknown_attempts_are_listed_and_looked_up(world: World, terminal: Terminal) -> None:
    assert "No unknown attempts" in terminal("attempts", "unknown").stdout
    account = world.account("A-77")
    world.add_primary_card(account)
    payment = world.add_due_payment(account, 12_34)
    lose_answers(world)
    world.charge(payment)
    listed = terminal("attempts", "unknown").stdout
    assert "A-77" in listed
    assert "USD 12.34" in listed
    (told,) = json.loads(terminal("attempts", "unknown", "--json").stdout)
    assert (told["payment_id"], told["amount_minor"]) == (str(payment), 12_34)
    assert 0 <= told["age_s"] < 600
    assert terminal("attempts", "look-up", str(payment), "--reason", " ").exit_code == 1
    look_up = terminal("attempts", "look-up", str(payment), "--reason", "customer calls")
    assert look_up.exit_code == 0, look_up.output
    world.machine.advance(minutes=2)  # the command's clock is the real one
    world.settle(world.attempts(payment)[0].id)
    assert (world.payment(payment).state, world.captured_amounts(payment)) == ("paid", [12_34])
    again = terminal("attempts", "look-up", str(payment), "--reason", "customer calls")
    assert again.exit_code == 1
    assert "no attempt has an unknown outcome" in " ".join(again.output.split())


@pytest.mark.parametrize(
    ("age", "shown_as"),
    [
        (timedelta(0), "0 s"),
        (timedelta(seconds=59), "59 s"),
        (timedelta(minutes=12, seconds=5), "12 min 5 s"),
        (timedelta(days=3, hours=4, minutes=9), "3 d 4 h"),
        (timedelta(days=2), "2 d"),
    ],
)
def test_ages_show_their_two_largest_units(age: timedelta, shown_as: str) -> None:
    assert show_age(age) == shown_as
