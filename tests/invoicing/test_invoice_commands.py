"""`duecourse invoices run` against a real database: its dry run matches what is then issued."""

import json
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, text
from typer.testing import CliRunner, Result

from cli.invoice_commands import app
from shared.messaging.broker import make_broker, waiting_messages
from shared.messaging.jobs import RUNS
from tests import seed
from tests.invoicing.month_start import MonthStart, add_mixed_accounts, issued, one, rows

WHY = ("--reason", "a test")


@pytest.fixture
def world(engine: Engine, database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> MonthStart:
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("DUECOURSE_CLOCK", "virtual")
    monkeypatch.setenv("DUECOURSE_BILLING_FILE", str(Path(__file__).parents[2] / "billing.toml"))
    monkeypatch.setenv("COLUMNS", "200")
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO business_clock VALUES (true, '2026-11-01T00:00:05Z')"))
        add_mixed_accounts(connection, 35)
        add_mixed_accounts(connection, 14, "japan")
    return MonthStart(engine)


def type_in(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["run", *arguments])


def answer(*arguments: str, exit_code: int = 0) -> Any:
    result = type_in(*arguments, "--json")
    assert result.exit_code == exit_code, result.output
    return json.loads(result.stdout)


def everything(engine: Engine) -> list[dict[str, Any]]:
    """The row count of each table, and the value of each sequence."""
    tables = rows(
        engine, "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    )
    return [one(engine, f"SELECT '{row['relname']}' AS name, count(*) FROM {row['relname']}") for row in tables]


def test_dry_run_matches_the_issued_invoices(world: MonthStart) -> None:
    before = everything(world.engine)
    previews = answer("--period", "2026-10", "--dry-run")["previews"]
    assert everything(world.engine) == before
    assert [preview["coverage"] for preview in previews] == ["global", "japan"]
    for preview in previews:
        run_id = world.run(coverage=preview["coverage"])
        assert world.counts(run_id) == preview["counts"]
        by_kind = rows(
            world.engine,
            """
            SELECT s.kind, p.state, count(*) AS invoices, sum(p.amount_minor) AS total_minor
            FROM payments p JOIN payment_settings s ON s.id = p.settings_id
            WHERE p.coverage = :coverage GROUP BY 1, 2 ORDER BY 1, 2
            """,
            coverage=preview["coverage"],
        )
        assert [{name: row[name] for name in by_kind[0]} for row in preview["sums"]] == by_kind
        largest = sorted(
            (
                (row["total_minor"], name)
                for name, row in issued(world.engine, coverage=preview["coverage"]).items()
            ),
            key=lambda pair: (-pair[0], pair[1]),
        )[:10]
        assert [(row["total_minor"], row["account_external_id"]) for row in preview["largest"]] == largest


def test_dry_run_prints_a_readable_summary(world: MonthStart) -> None:
    result = type_in("--period", "2026-10", "--coverage", "global", "--dry-run")
    assert result.exit_code == 0, result.output
    for words in (
        "25 invoices",
        "bank_transfer",
        "carried_forward",
        "The largest",
        "is on trial",
        "Nothing was written",
    ):
        assert words in result.stdout
    assert "japan" not in result.stdout


def test_dry_run_of_the_current_month_warns_that_it_is_not_over(world: MonthStart) -> None:
    result = type_in("--period", "2026-11", "--dry-run")
    assert result.exit_code == 0
    assert "The month ends at 2026-12-01 00:00 Asia/Tokyo" in result.stdout


def test_run_command_stores_the_run_with_its_reason_and_enqueues_it(world: MonthStart, redis_url: str) -> None:
    (run,) = answer("--period", "2026-10", "--coverage", "global", *WHY)["runs"]
    assert (run["state"], run["is_new"]) == ("ready", True)
    stored = one(world.engine, "SELECT * FROM runs")
    assert (str(stored["id"]), stored["job"], stored["reason"]) == (run["run_id"], "monthly-invoices", "a test")
    assert stored["requested_by"].startswith("operator:")
    assert stored["scheduled_for_at"] == datetime(2026, 11, 1, tzinfo=UTC)
    assert one(world.engine, "SELECT type, reason FROM billing_events") == {
        "type": "run_scheduled",
        "reason": "a test",
    }
    assert waiting_messages(make_broker(redis_url), RUNS) == 1


def test_repeated_run_command_issues_nothing(world: MonthStart) -> None:
    first = answer("--period", "2026-10", *WHY)["runs"]
    for run in first:
        world.deliver(UUID(run["run_id"]))
    numbers = rows(world.engine, "SELECT number FROM invoices ORDER BY 1")
    again = type_in("--period", "2026-10", *WHY)
    assert again.exit_code == 0
    assert "already requested by" in again.stdout
    assert "finished at 2026-11-01 09:00 Asia/Tokyo" in again.stdout
    assert "25 invoices over USD" in again.stdout
    for run in answer("--period", "2026-10", *WHY)["runs"]:
        assert (run["is_new"], run["state"]) == (False, "finished")
        world.deliver(UUID(run["run_id"]))
    assert rows(world.engine, "SELECT number FROM invoices ORDER BY 1") == numbers
    assert one(world.engine, "SELECT count(*) FROM runs")["count"] == 2


def test_rerun_invoices_fixed_accounts(world: MonthStart) -> None:
    with world.engine.begin() as connection:
        seed.add_fee(connection, seed.add_account(connection, "euro"), 500, currency="EUR")
    (run,) = answer("--period", "2026-10", "--coverage", "global", *WHY)["runs"]
    world.deliver(UUID(run["run_id"]))
    with world.engine.begin() as connection:
        connection.execute(text("UPDATE fees SET currency = 'USD' WHERE currency = 'EUR'"))
    answer("--period", "2026-10", "--coverage", "global", *WHY)
    world.deliver(UUID(run["run_id"]))
    assert "euro" not in issued(world.engine)
    answer("--period", "2026-10", "--coverage", "global", "--again", *WHY)
    world.deliver(UUID(run["run_id"]))
    assert issued(world.engine)["euro"]["total_minor"] == 500


def test_wait_ends_when_a_worker_has_finished(world: MonthStart) -> None:
    def work() -> None:
        while not (found := rows(world.engine, "SELECT id FROM runs")):
            stopped.wait(0.02)
        world.deliver(found[0]["id"])

    stopped = threading.Event()
    worker = threading.Thread(target=work)
    worker.start()
    (run,) = answer("--period", "2026-10", "--coverage", "global", "--wait", *WHY)["runs"]
    worker.join()
    assert (run["state"], run["counts"]["invoices"]) == ("finished", 25)


def test_wait_without_a_worker_ends_and_says_what_to_start(world: MonthStart) -> None:
    result = type_in("--period", "2026-10", "--coverage", "global", "--wait", "--patience", "0", *WHY)
    assert result.exit_code == 1
    assert "worker-batch" in result.stdout
    assert one(world.engine, "SELECT state FROM runs")["state"] == "ready"


def test_late_run_awaits_confirmation(world: MonthStart) -> None:
    with world.engine.begin() as connection:
        seed.add_run(connection, state="awaiting_confirmation")
    result = type_in("--period", "2026-10", "--coverage", "global", "--no-wait", *WHY)
    assert result.exit_code == 1
    assert "runs confirm" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--period", "2026-11", *WHY], "not over yet"),
        (["--period", "2026-10"], "--reason"),
        (["--period", "2026-10", "--reason", " "], "--reason"),
        (["--period", "2026-13", *WHY], "write a month like 2026-10"),
        (["--period", "2026-10", "--coverage", "jpan", *WHY], "billing.toml has: global, japan"),
    ],
)
def test_invalid_arguments_are_refused_before_anything_is_written(
    world: MonthStart, arguments: list[str], words: str
) -> None:
    before = everything(world.engine)
    result = type_in(*arguments)
    assert result.exit_code == 1
    assert words in result.stderr
    assert everything(world.engine) == before


def test_coverage_with_an_unfinished_month_blocks_the_command(world: MonthStart) -> None:
    with world.engine.begin() as connection:
        connection.execute(text("UPDATE business_clock SET now_at = '2026-10-31T16:00:00Z'"))
    assert type_in("--period", "2026-10", *WHY).exit_code == 1
    assert rows(world.engine, "SELECT * FROM runs") == []
    assert type_in("--period", "2026-10", "--coverage", "japan", *WHY).exit_code == 0
