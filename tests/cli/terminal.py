"""A person's terminal: the commands as they are typed, against the world of a test."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
from click.testing import Result
from sqlalchemy import text
from typer.testing import CliRunner

from cli import (
    attempt_commands,
    card_commands,
    customer_commands,
    database_commands,
    doctor,
    environment,
    payment_commands,
    stripe_account_commands,
    users_commands,
    verify_commands,
)
from tests.world import World, api_key

REPOSITORY = Path(__file__).resolve().parents[2]

app = typer.Typer()
app.add_typer(payment_commands.app, name="payment")
app.add_typer(attempt_commands.app, name="attempts")
app.add_typer(card_commands.app, name="cards")
app.add_typer(customer_commands.app, name="customers")
app.add_typer(database_commands.app, name="db")
app.add_typer(stripe_account_commands.app, name="stripe-accounts")
app.add_typer(users_commands.app, name="users")
app.command("verify")(verify_commands.verify_command)
app.command("doctor")(doctor.doctor)
app.command("env")(environment.env)


@dataclass
class Terminal:
    """Types commands in an empty folder."""

    monkeypatch: pytest.MonkeyPatch

    def __call__(self, *words: str, answer: str | None = None) -> Result:
        return CliRunner().invoke(app, list(words), input=answer, catch_exceptions=False)

    def json(self, *words: str) -> object:
        return json.loads(self(*words, "--json").stdout)

    def set(self, **variables: str) -> None:
        for name, value in variables.items():
            self.monkeypatch.setenv(name, value)


def variables_of(world: World, database_url: str, redis_url: str) -> Mapping[str, str]:
    """What an environment has to say for commands to work on this world. The clock is virtual, where it stands."""
    with world.engine.begin() as connection:
        connection.execute(text("DELETE FROM business_clock"))
        connection.execute(text("INSERT INTO business_clock (now_at) VALUES (:now)"), {"now": world.clock.now()})
    return {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "STRIPE_API_BASE": world.simulator.url,
        "STRIPE_API_KEYS": json.dumps({coverage: api_key(coverage) for coverage in world.policy.coverages}),
        "STRIPE_WEBHOOK_SECRETS": json.dumps({coverage: ["whsec_secret"] for coverage in world.policy.coverages}),
        "STRIPE_REQUESTS_PER_S": "10000",
        "DUECOURSE_CLOCK": "virtual",
        "DUECOURSE_BILLING_FILE": str(REPOSITORY / "billing.toml"),
    }
