"""`duecourse clock`, `runs` and `retries`."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine
from typer import Typer
from typer.testing import CliRunner, Result

from cli import clock_commands, runs_commands
from cli.clock_commands import parse_duration, parse_moment
from shared.domain.states import RunState
from shared.messaging.broker import make_broker, waiting_messages
from shared.messaging.jobs import DAILY_RETRIES, RUNS
from shared.policy import Policy
from shared.scheduling.virtual_clock import ClockError, read_clock, set_clock
from tests.scheduler.conftest import all_runs, events_of_type
from tests.seed import add_run

ROOT = Path(__file__).resolve().parents[2]
NOON = datetime(2026, 11, 4, 12, tzinfo=UTC)

Type = Callable[..., Result]


@pytest.fixture
def type_(database_url: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Type:
    """Type a command, in a folder where nothing runs, against the test's servers."""
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "DUECOURSE_CLOCK": "virtual",
        "DUECOURSE_BILLING_FILE": str(ROOT / "billing.toml"),
    }.items():
        monkeypatch.setenv(name, value)

    def run(app: Typer, *words: str) -> Result:
        return CliRunner().invoke(app, list(words))

    return run


@pytest.fixture
def noon(engine: Engine, policy: Policy) -> None:
    with engine.begin() as connection:
        set_clock(connection, NOON, policy)


def test_clock_is_set_once_and_then_only_forward(type_: Type, engine: Engine) -> None:
    assert "clock set" in type_(clock_commands.app, "show").stderr
    assert type_(clock_commands.app, "set", "2026-10-31T09:00:00+09:00").stdout == "2026-10-31T00:00:00Z\n"
    assert type_(clock_commands.app, "show").stdout == "2026-10-31T00:00:00Z\n"
    back = type_(clock_commands.app, "set", "2026-10-30T00:00:00Z")
    assert back.exit_code == 1
    assert "only moves forward" in back.stderr
    assert type_(clock_commands.app, "advance", "1d12h", "--no-wait").stdout == "2026-11-01T12:00:00Z\n"
    assert type_(clock_commands.app, "set", "2026-11-02T00:00:00Z", "--no-wait").stdout == "2026-11-02T00:00:00Z\n"
    with engine.connect() as connection:
        assert read_clock(connection) == datetime(2026, 11, 2, tzinfo=UTC)


def test_machine_clock_cannot_be_moved_and_the_error_says_how_to_get_a_virtual_one(
    type_: Type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DUECOURSE_CLOCK", "system")
    for words in (("set", "2026-10-31T00:00:00Z"), ("advance", "1d")):
        refused = type_(clock_commands.app, *words)
        assert refused.exit_code == 1
        assert "DUECOURSE_CLOCK=virtual" in refused.stderr
    assert type_(clock_commands.app, "show").exit_code == 0


def test_live_key_with_a_virtual_clock_is_refused(type_: Type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRIPE_API_KEYS", '{"global": "sk_live_1"}')
    refused = type_(clock_commands.app, "advance", "1d")
    assert refused.exit_code == 1
    assert "live" in refused.stderr
    assert "sk_live_1" not in refused.output


def test_clock_command_without_a_scheduler_says_what_to_start(
    type_: Type, noon: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.scheduling.virtual_clock.WAIT_FOR_LEADER_S", 0.0)
    refused = type_(clock_commands.app, "advance", "1d")
    assert refused.exit_code == 1
    assert "duecourse up" in refused.stderr


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("1d", timedelta(days=1)),
        ("2w", timedelta(weeks=2)),
        ("1d12h", timedelta(hours=36)),
        ("90m", timedelta(hours=1.5)),
    ],
)
def test_durations_are_parsed(text: str, duration: timedelta) -> None:
    assert parse_duration(text) == duration


@pytest.mark.parametrize("text", ["", "1", "d", "-1d", "1.5d", "1d 2h", "1y", "0d", "99999999999d"])
def test_invalid_duration_is_rejected(text: str) -> None:
    with pytest.raises(ClockError):
        parse_duration(text)


@pytest.mark.parametrize("text", ["", "tomorrow", "2026-10-31T00:00:00", "2026-13-01T00:00:00Z"])
def test_invalid_instant_is_rejected(text: str) -> None:
    with pytest.raises(ClockError):
        parse_moment(text)


def test_runs_are_listed_as_a_table_and_as_json(type_: Type, engine: Engine) -> None:
    assert "none is due yet" in type_(runs_commands.app, "list").stdout
    with engine.begin() as connection:
        run_id = add_run(connection, state=RunState.AWAITING_CONFIRMATION)
        add_run(connection, "2026-11-04", "japan", DAILY_RETRIES)
    listed = type_(runs_commands.app, "list").stdout
    for word in (str(run_id), "monthly-invoices", "2026-10", "awaiting confirmation", "japan", "runs confirm"):
        assert word in listed
    found = json.loads(type_(runs_commands.app, "list", "--json", "--job", "monthly-invoices").stdout)
    assert [(run["id"], run["state"]) for run in found] == [(str(run_id), "awaiting_confirmation")]


@pytest.mark.parametrize("by_name", [True, False])
def test_late_run_is_released_by_a_named_user_and_enqueued(
    type_: Type, engine: Engine, noon: None, redis_url: str, by_name: bool
) -> None:
    with engine.begin() as connection:
        run_id = add_run(connection, state=RunState.AWAITING_CONFIRMATION)
    name = (
        ["--job", "monthly-invoices", "--period", "2026-10", "--coverage", "global"] if by_name else [str(run_id)]
    )
    assert "reason" in type_(runs_commands.app, "confirm", *name, "--reason", " ").stderr
    released = type_(runs_commands.app, "confirm", *name, "--reason", "we moved house")
    assert released.exit_code == 0, released.stderr
    assert all_runs(engine) == [("monthly-invoices", "2026-10", "global", "ready")]
    (event,) = events_of_type(engine, "run_confirmed")
    assert event.actor.startswith("operator:")
    assert (event.reason, event.at, event.run_id) == ("we moved house", NOON, run_id)
    assert waiting_messages(make_broker(redis_url), RUNS) == 1
    again = type_(runs_commands.app, "confirm", *name, "--reason", "once more")
    assert again.exit_code == 1
    assert "needs no confirmation" in again.stderr


def test_unreleasable_run_is_refused_with_a_reason(type_: Type, noon: None) -> None:
    for words, said in (
        (("00000000-0000-0000-0000-000000000000",), "runs list"),
        (("--job", "monthly-invoices", "--period", "2026-10", "--coverage", "global"), "runs list"),
        (("--job", "monthly-invoices"), "--period"),
    ):
        refused = type_(runs_commands.app, "confirm", *words, "--reason", "why not")
        assert refused.exit_code == 1
        assert said in refused.stderr


def test_daily_retries_can_be_requested_once_by_hand(
    type_: Type, engine: Engine, noon: None, redis_url: str
) -> None:
    words = ("run", "--date", "2026-11-03", "--coverage", "japan", "--reason", "the scheduler was off")
    assert "requested;" in type_(runs_commands.retries_app, *words).stdout
    assert all_runs(engine) == [(DAILY_RETRIES, "2026-11-03", "japan", "ready")]
    (event,) = events_of_type(engine, "run_scheduled")
    assert event.actor.startswith("operator:")
    assert event.reason == "the scheduler was off"
    assert "exists already" in type_(runs_commands.retries_app, *words).stdout
    assert len(all_runs(engine)) == 1
    assert waiting_messages(make_broker(redis_url), RUNS) == 1


@pytest.mark.parametrize(
    ("date", "coverage", "said"),
    [
        ("2026-11-05", "global", "by itself"),
        ("4 November", "global", "no period"),
        ("2026-02-30", "global", "no period"),
        ("2026-11-04", "mars", "global, japan"),
    ],
)
def test_invalid_or_future_day_is_rejected(
    type_: Type, engine: Engine, noon: None, date: str, coverage: str, said: str
) -> None:
    refused = type_(runs_commands.retries_app, "run", "--date", date, "--coverage", coverage, "--reason", "x")
    assert refused.exit_code == 1
    assert said in " ".join(refused.stderr.split())
    assert all_runs(engine) == []
