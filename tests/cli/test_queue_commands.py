"""`duecourse queues …` as it is typed, and what `doctor` says of queues and processes."""

import json
from typing import Any

import pytest
import typer
from click.testing import Result
from sqlalchemy import select
from typer.testing import CliRunner

from cli import queue_commands
from shared.db.tables.operators import audit_log, queue_pauses
from shared.operations.heartbeats import WEB, WORKER, Heartbeats
from tests.cli.terminal import Terminal
from tests.world import World

app = typer.Typer()
app.add_typer(queue_commands.app, name="queues")


def queues(*words: str) -> Result:
    return CliRunner().invoke(app, ["queues", *words], catch_exceptions=False)


def paused(world: World) -> list[str]:
    with world.engine.connect() as connection:
        return list(connection.scalars(select(queue_pauses.c.queue)))


def test_queue_is_paused_and_resumed_with_a_reason(world: World, terminal: Terminal) -> None:
    result = queues("pause", "batch", "--reason", "issuer is away")
    assert result.exit_code == 0, result.output
    assert "batch is paused" in result.stdout
    assert paused(world) == ["batch"]
    again = queues("pause", "batch", "--reason", "me too")
    assert again.exit_code == 1
    assert "issuer is away" in " ".join(again.output.split())
    listed: Any = json.loads(queues("list", "--json").stdout)
    assert [one["paused_because"] for one in listed if one["queue"] == one["lane"] == "batch"] == ["issuer is away"]
    assert "issuer is away" in queues("list").stdout
    assert queues("resume", "batch", "--reason", "it is back").exit_code == 0
    assert queues("resume", "batch", "--reason", "it is back").exit_code == 1
    assert paused(world) == []
    with world.engine.connect() as connection:
        told = connection.execute(
            select(audit_log.c.action, audit_log.c.subject, audit_log.c.reason, audit_log.c.outcome).order_by(
                audit_log.c.id
            )
        )
        assert [tuple(line) for line in told] == [
            ("lane.pause", "batch", "issuer is away", "done"),
            ("lane.pause", "batch", "me too", "refused"),
            ("lane.resume", "batch", "it is back", "done"),
            ("lane.resume", "batch", "it is back", "refused"),
        ]


@pytest.mark.parametrize(
    ("words", "says"),
    [(("pause", "mail", "--reason", "x"), "no queue 'mail'"), (("pause", "batch", "--reason", " "), "is empty")],
)
def test_unknown_queue_and_empty_reason_are_rejected(
    world: World, terminal: Terminal, words: tuple[str, ...], says: str
) -> None:
    result = queues(*words)
    assert result.exit_code == 1
    assert says in " ".join(result.output.split())
    assert paused(world) == []


def test_queues_are_listed_while_redis_is_down(world: World, terminal: Terminal) -> None:
    terminal.set(REDIS_URL="redis://127.0.0.1:1/0")
    result = queues("list")
    assert result.exit_code == 0
    assert "nothing is lost" in " ".join(result.output.split())
    assert "settlement" in result.stdout


def test_doctor_reports_paused_queues_and_heartbeats(world: World, terminal: Terminal) -> None:
    queues("pause", "reconciliation", "--reason", "records are being fixed")
    for kind in (WEB, WORKER, WORKER):
        Heartbeats(lambda: world.engine, kind).send()
    told: Any = terminal.json("doctor")
    says = {finding["subject"]: finding["says"] for finding in told["findings"]}
    assert says["processes"] == "1 web, 2 worker"
    assert "records are being fixed" in says["queue reconciliation"]
