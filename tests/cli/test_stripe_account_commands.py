"""Each coverage's Stripe account is pinned at first use; a key of another account is refused."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, cast

import pytest
from dramatiq.brokers.stub import StubBroker
from sqlalchemy import insert, select

from shared.db.tables.operators import audit_log
from shared.db.tables.system import stripe_accounts
from shared.gateway.port import GatewayUnavailableError, ProcessorGateway
from shared.operations.stripe_accounts import OtherAccount, check_accounts, compare_accounts
from shared.runtime import build_runtime
from shared.settings import load_settings
from tests.cli.terminal import Terminal
from tests.scheduler.test_sweep import add_attempt
from tests.seed import add_payment
from tests.world import World
from workers.stripe_account_check import StripeAccountCheck


def pins(world: World) -> dict[str, str]:
    with world.engine.connect() as connection:
        return dict(
            connection.execute(select(stripe_accounts.c.coverage, stripe_accounts.c.stripe_account_id)).all()  # type: ignore[arg-type]  # rows of two columns
        )


def swap_keys(world: World) -> None:
    gateways = world.runtime.gateways
    world.runtime = replace(world.runtime, gateways={"global": gateways["japan"], "japan": gateways["global"]})


def start_worker(world: World) -> None:
    """What Dramatiq does in each process before it takes messages."""
    StripeAccountCheck(lambda: world.runtime).after_process_boot(StubBroker())


def in_use(world: World, coverage: str, account: str) -> None:
    with world.engine.begin() as connection:
        connection.execute(
            insert(stripe_accounts).values(
                coverage=coverage, stripe_account_id=account, pinned_at=world.machine(), pinned_by="first use"
            )
        )


class Silent:
    """Stripe doesn't answer."""

    def check_key(self) -> str:
        raise GatewayUnavailableError("no answer")


def test_first_start_pins_and_later_starts_compare(world: World) -> None:
    for _ in range(2):
        start_worker(world)
        assert pins(world) == {"global": "acct_sim_global", "japan": "acct_sim_japan"}


def test_worker_with_swapped_keys_does_not_start_and_names_both_accounts(world: World) -> None:
    start_worker(world)
    swap_keys(world)
    with pytest.raises(SystemExit) as refused:
        start_worker(world)
    said = str(refused.value)
    for words in ("global belongs to acct_sim_japan, not to acct_sim_global", "stripe-accounts change"):
        assert words in said
    assert pins(world)["global"] == "acct_sim_global"
    assert world.simulator.requests("/v1/payment_intents") == []


def test_worker_starts_while_stripe_is_down(world: World) -> None:
    start_worker(world)
    gateway = cast("ProcessorGateway", Silent())
    world.runtime = replace(world.runtime, gateways={"global": gateway, "japan": gateway})
    start_worker(world)
    assert check_accounts(world.engine, world.runtime.gateways, world.machine) == []


def test_worker_that_started_with_swapped_keys_during_an_outage_sends_nothing(
    world: World, terminal: Terminal
) -> None:
    in_use(world, "global", "acct_former")
    anna = world.account("A-1")
    world.add_primary_card(anna)
    payment = world.add_due_payment(anna)
    of_worker = build_runtime(load_settings())
    world.runtime = replace(world.runtime, gateways=of_worker.gateways)
    world.charge(payment)
    (attempt,) = world.attempts(payment)
    assert (attempt.state, world.payment(payment).state) == ("not_sent", "due")
    assert "belongs to acct_sim_global, not to acct_former" in attempt.outcome_reason
    assert world.simulator.requests("/v1/payment_intents") == []
    assert terminal("stripe-accounts", "change", "global", "--reason", "we moved", "--yes").exit_code == 0
    world.machine.advance(minutes=1)
    world.charge(payment)
    assert world.captured_amounts(payment) == [5_00]


def test_two_processes_that_pin_at_once_agree(world: World) -> None:
    with ThreadPoolExecutor(8) as processes:
        found = list(
            processes.map(
                lambda account: compare_accounts(world.engine, "global", account, world.machine()),
                ["acct_sim_global", "acct_sim_japan"] * 4,
            )
        )
    pinned = pins(world)["global"]
    other = "acct_sim_japan" if pinned == "acct_sim_global" else "acct_sim_global"
    assert [one for one in found if one] == [OtherAccount("global", pinned, other)] * 4


def test_doctor_shows_both_accounts_and_fails(world: World, terminal: Terminal) -> None:
    in_use(world, "global", "acct_former")
    found = {one["subject"]: one for one in cast("Any", terminal.json("doctor"))["findings"]}
    assert found["Stripe, global"]["verdict"] == "problem"
    for account in ("acct_sim_global", "acct_former"):
        assert account in found["Stripe, global"]["says"]
    assert "to be pinned" in found["Stripe, japan"]["says"]
    assert terminal("doctor").exit_code == 1


def test_account_is_changed_with_a_reason_and_audited(world: World, terminal: Terminal) -> None:
    in_use(world, "global", "acct_former")
    change = ("stripe-accounts", "change", "global", "--reason")
    preview = terminal(*change, "we moved")
    assert (preview.exit_code, "Nothing is changed yet" in preview.stdout) == (0, True), preview.output
    assert "global uses acct_former; its key belongs to acct_sim_global" in " ".join(preview.stdout.split())
    assert pins(world) == {"global": "acct_former"}
    assert terminal(*change, " ", "--yes").exit_code == 1
    changed = terminal(*change, "we moved", "--yes")
    assert changed.exit_code == 0, changed.output
    assert pins(world) == {"global": "acct_sim_global"}
    start_worker(world)
    assert "uses acct_sim_global already" in terminal(*change, "again", "--yes").stderr
    with world.engine.connect() as connection:
        audited = connection.execute(
            select(audit_log.c.outcome, audit_log.c.snapshot["pinned"].as_string())
            .where(audit_log.c.action == "stripe_account.change")
            .order_by(audit_log.c.id)
        ).all()
    assert [tuple(row) for row in audited] == [
        ("refused", "acct_former"), ("done", "acct_former"), ("refused", "acct_sim_global")
    ]  # fmt: skip


def test_account_is_not_changed_while_an_attempt_has_no_outcome(world: World, terminal: Terminal) -> None:
    in_use(world, "global", "acct_former")
    account = world.account("A-1")
    world.add_primary_card(account)
    with world.engine.begin() as connection:
        payment = add_payment(connection, account, 1)
        add_attempt(connection, account, payment, "unknown")
    refused = terminal("stripe-accounts", "change", "global", "--reason", "we moved", "--yes")
    assert refused.exit_code == 1
    assert "attempts of global without an outcome: 1" in " ".join(refused.stderr.split())
    assert pins(world) == {"global": "acct_former"}
