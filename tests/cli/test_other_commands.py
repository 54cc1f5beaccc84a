"""`audit`, `customers create` and `doctor` as they are typed."""

import time
from pathlib import Path
from typing import Any

import pytest
import redis
from sqlalchemy import select, text

from scheduler.leadership import Leadership
from shared.db.tables.accounts import payment_settings
from tests.cli.terminal import Terminal
from tests.seed import add_account
from tests.verify.records import make_records
from tests.world import World


def test_verify_exits_0_if_all_checks_hold_else_1(world: World, terminal: Terminal) -> None:
    records = make_records(world)
    result = terminal("verify")
    assert result.exit_code == 0, result.output
    assert "all 37 checks hold" in result.stdout
    assert "1 charges at the processor, USD 29.85; in our records USD 29.85" in result.stdout
    records.plant("UPDATE payments SET state_reason = NULL WHERE id = :without_card")
    result = terminal("verify", "--no-processor")
    assert result.exit_code == 1
    assert f"payment {records.without_card} is needs_payment_method without a reason" in " ".join(
        result.stdout.split()
    )
    assert "to do: check it with" in result.stdout
    assert terminal("verify", "--coverage", "japan").exit_code == 0
    assert terminal("verify", "--to", "2026-10-31").exit_code == 0
    assert "there is no coverage 'mars'" in terminal("verify", "--coverage", "mars").stderr


def test_verify_as_json_names_ids(world: World, terminal: Terminal) -> None:
    records = make_records(world)
    records.plant("UPDATE payments SET state_reason = NULL WHERE id = :without_card")
    told: Any = terminal.json("verify")
    assert told["is_clean"] is False
    (broken,) = (check for check in told["checks"] if not check["holds"])
    assert broken["name"] == "waiting-names-its-reason"
    assert broken["breaks"][0]["ids"]["payment_id"] == str(records.without_card)


def customers(world: World) -> dict[str, str | None]:
    with world.engine.connect() as connection:
        rows = connection.execute(
            select(payment_settings.c.id, payment_settings.c.kind, payment_settings.c.stripe_customer_id)
        )
        return {f"{row.kind} {row.id}": row.stripe_customer_id for row in rows}


def test_customers_are_created_once_for_accounts_that_pay_by_card(world: World, terminal: Terminal) -> None:
    with world.engine.begin() as connection:
        for number in range(20):
            add_account(connection, f"A-{number}", kind="bank_transfer" if number % 5 == 0 else "card")
        add_account(connection, "J-1", "japan")
    result = terminal("customers", "create", "--coverage", "global")
    assert result.exit_code == 0, result.output
    assert "global: 16 customers created, 0 not created" in result.stdout
    made = customers(world)
    assert sum(1 for kind, customer in made.items() if kind.startswith("card") and customer) == 16
    assert len({customer for customer in made.values() if customer}) == 16
    assert "global: 0 customers created" in terminal("customers", "create", "--coverage", "global").stdout
    assert customers(world) == made
    posts = [snapshot for snapshot in world.simulator.requests("customers") if snapshot.method == "POST"]
    assert len(posts) == 16
    assert all((snapshot.idempotency_key or "").startswith("duecourse-customer-") for snapshot in posts)


def test_lost_customer_id_is_recovered_by_the_idempotency_key(world: World, terminal: Terminal) -> None:
    with world.engine.begin() as connection:
        add_account(connection, "A-1")
    terminal("customers", "create", "--coverage", "global")
    before = customers(world)
    with world.engine.begin() as connection:
        connection.execute(text("UPDATE payment_settings SET stripe_customer_id = NULL"))
    terminal("customers", "create", "--coverage", "global")
    assert customers(world) == before


def test_customer_creation_stops_after_repeated_errors(
    world: World, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    with world.engine.begin() as connection:
        for number in range(60):
            add_account(connection, f"A-{number}")
    terminal.set(STRIPE_API_BASE="http://127.0.0.1:1")
    result = terminal("customers", "create", "--coverage", "global", "--threads", "4")
    assert result.exit_code == 1
    assert "Run the command again" in result.stderr
    assert set(customers(world).values()) == {None}
    terminal.set(STRIPE_API_BASE=world.simulator.url)
    assert "60 customers created" in terminal("customers", "create", "--coverage", "global").stdout


def findings(terminal: Terminal) -> dict[str, dict[str, str]]:
    told: Any = terminal.json("doctor")
    return {finding["subject"]: finding for finding in told["findings"]}


def problems(terminal: Terminal) -> dict[str, str]:
    return {name: one["says"] for name, one in findings(terminal).items() if one["verdict"] == "problem"}


def test_doctor_names_missing_settings(bare: Terminal) -> None:
    found = problems(bare)
    assert set(found) == {"DATABASE_URL", "REDIS_URL", "STRIPE_API_KEYS", "STRIPE_WEBHOOK_SECRETS", "billing.toml"}
    result = bare("doctor")
    assert result.exit_code == 1
    assert "start `duecourse up`" in result.stdout


def test_doctor_checks_every_part(world: World, terminal: Terminal, database_url: str) -> None:
    found = problems(terminal)
    assert set(found) - {"durability", "Redis AOF"} == {"scheduler", "workers"}  # tests' servers forgo durability
    leader = Leadership(database_url)
    assert leader.is_ours()
    assert "scheduler" not in problems(terminal)
    leader.release()
    snapshot = findings(terminal)
    assert snapshot["Stripe, japan"]["says"].startswith("test key works, account acct_sim_japan")
    assert snapshot["schema"]["verdict"] == "ok"
    assert snapshot["machine clocks"]["verdict"] == "ok"


def test_doctor_counts_only_moving_heartbeats_as_workers(
    terminal: Terminal, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with redis.Redis.from_url(redis_url) as client:
        now_ms = int(time.time() * 1000)
        client.zadd("duecourse:__heartbeats__", {"who-rang-a-moment-ago": now_ms, "worker": now_ms})
        assert problems(terminal)["workers"].startswith("no worker polls")
        beat = {"worker": now_ms + 100}
        monkeypatch.setattr("cli.doctor.time.sleep", lambda _s: client.zadd("duecourse:__heartbeats__", beat))
        assert findings(terminal)["workers"]["says"] == "1 poll the queues"


def test_doctor_never_prints_a_secret(world: World, terminal: Terminal) -> None:
    terminal.set(STRIPE_API_KEYS='{"global": "sk_test_51SECRET", "mars": "sk_test_51SECRET"}')
    result = terminal("doctor")
    for secret in ("51SECRET", "whsec_secret"):
        assert secret not in result.output
    assert "add japan to STRIPE_API_KEYS" in result.stdout
    assert "names mars, not in billing.toml" in result.stdout


@pytest.mark.parametrize(
    ("variable", "value", "subject", "says"),
    [
        ("DATABASE_URL", "mysql://x", "DATABASE_URL", "must look like postgresql://"),
        ("DATABASE_URL", "postgresql+psycopg://nobody@h/x", "DATABASE_URL", "5432/name, without +psycopg"),
        ("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/x", "PostgreSQL", "refused"),
        ("REDIS_URL", "redis://127.0.0.1:1/0", "Redis", "refused"),
        ("STRIPE_API_KEYS", "sk_test_1", "STRIPE_API_KEYS", "is not JSON"),
        ("STRIPE_WEBHOOK_SECRETS", "{}", "webhook secrets, global", "none"),
        ("STRIPE_API_BASE", "http://127.0.0.1:1", "Stripe, global", "APIConnectionError"),
        ("PORT", "0", "PORT", "greater than or equal to 1"),
        ("DUECOURSE_CLOCK", "sundial", "DUECOURSE_CLOCK", "'system' or 'virtual'"),
        ("DUECOURSE_BILLING_FILE", "nowhere.toml", "billing.toml", "does not exist"),
        ("STRIPE_API_KEYS", '{"global": "sk_live_1"}', "settings", "refused with a live Stripe key"),
    ],
)
def test_doctor_names_each_problem(terminal: Terminal, variable: str, value: str, subject: str, says: str) -> None:
    terminal.set(**{variable: value})
    assert says in problems(terminal)[subject]


def test_live_key_is_not_sent_to_another_host(terminal: Terminal, world: World) -> None:
    terminal.set(STRIPE_API_KEYS='{"global": "sk_live_1", "japan": "sk_live_1"}', DUECOURSE_CLOCK="system")
    before = len(world.simulator.requests("account"))
    assert "another host than Stripe's" in problems(terminal)["settings"]
    assert len(world.simulator.requests("account")) == before


def test_doctor_names_an_unmigrated_database_and_an_unset_clock(
    world: World, terminal: Terminal, tmp_path: Path
) -> None:
    with world.engine.begin() as connection:
        connection.execute(text("DELETE FROM business_clock"))
    assert problems(terminal)["virtual clock"] == "is not set"
    with world.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    assert problems(terminal)["schema"] == "0001, this release needs 0008"
    assert not (tmp_path / ".duecourse").exists()
