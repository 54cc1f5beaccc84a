"""Findings: listed with a description, resolved by a named user, reopened only by new facts."""

import json
import re
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import typer
from click.testing import Result
from sqlalchemy import text
from typer.testing import CliRunner

from cli import findings_commands, reconcile_commands
from shared.db.billing_events import Cause
from shared.db.session import in_transaction
from shared.explain.descriptions import FINDING_DESCRIPTIONS
from shared.payments.receipts import Finding, write_finding
from shared.reconciliation.classify import Kind
from shared.settings import Settings
from tests.cli.terminal import variables_of
from tests.reconciliation.records import UNBOOK, Night

SHARED = Path(__file__).resolve().parents[2] / "shared"

app = typer.Typer()
app.command("reconcile")(reconcile_commands.reconcile_command)
app.add_typer(findings_commands.app, name="findings")


class Terminal:
    """Run the two commands against the world of `night`."""

    def __call__(self, *words: str) -> Result:
        return CliRunner().invoke(app, list(words), catch_exceptions=False)

    def json(self, *words: str) -> Any:
        return json.loads(self(*words, "--json").stdout)


@pytest.fixture
def terminal(night: Night, database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    for field in Settings.model_fields.values():
        monkeypatch.delenv(str(field.validation_alias), raising=False)
    for name, value in variables_of(night.world, database_url, redis_url).items():
        monkeypatch.setenv(name, value)
    return Terminal()


def reconcile(terminal: Terminal, *more: str) -> Result:
    return terminal("reconcile", "--from", "2026-11-01", "--to", "2026-11-01", *more)


def test_reconcile_reports_no_differences(night: Night, terminal: Terminal) -> None:
    night.charged_payment()
    result = reconcile(terminal)
    assert result.exit_code == 0, result.output
    assert "Our records and the processor's charges agree." in result.stdout
    (japan,) = terminal.json("reconcile", "--from", "2026-11-01", "--to", "2026-11-01", "--coverage", "japan")
    assert (japan["coverage"], japan["is_clean"], japan["unfinished"]) == ("japan", True, None)


def test_reconcile_fixes_in_the_name_of_its_user(night: Night, terminal: Terminal) -> None:
    payment = night.charged_payment()
    night.plant(*UNBOOK, payment=payment)
    result = reconcile(terminal, "--coverage", "global")
    assert result.exit_code == 0, result.output
    assert night.world.payment(payment).state == "paid"
    with night.world.engine.connect() as connection:
        latest = (
            "SELECT actor FROM billing_events WHERE payment_id = :id AND type = 'payment_moved' ORDER BY id DESC"
        )
        actor = connection.execute(text(latest), {"id": payment}).scalars().first()
        assert connection.scalar(text("SELECT count(*) FROM listed_charges")) == 0
    assert str(actor).startswith("operator:")


def test_finding_is_listed_with_its_description_and_resolved_by_name(night: Night, terminal: Terminal) -> None:
    charge = night.create_unknown_charge(None)
    result = reconcile(terminal)
    assert result.exit_code == 1
    assert "found: charge_without_payment" in result.stdout
    listed = terminal("findings", "list").stdout
    assert charge in listed
    assert "received USD 5.00" in listed
    assert FINDING_DESCRIPTIONS["charge_without_payment"].meaning[:40] in listed
    (finding,) = terminal.json("findings", "list")
    assert terminal("findings", "resolve", finding["id"], "--reason", " ").exit_code == 1
    done = terminal("findings", "resolve", finding["id"], "--reason", "a test charge of ours; paid back")
    assert done.exit_code == 0, done.output
    assert terminal.json("findings", "list") == []
    (resolved,) = terminal.json("findings", "list", "--all")
    assert resolved["resolution"] == "a test charge of ours; paid back"
    assert resolved["resolved_by"].startswith("operator:")
    again = terminal("findings", "resolve", finding["id"], "--reason", "twice")
    assert again.exit_code == 1
    with night.world.engine.connect() as connection:
        types = connection.scalars(
            text("SELECT type FROM billing_events WHERE data ->> 'subject' = :subject ORDER BY id"),
            {"subject": charge},
        ).all()
    assert types == ["finding_opened", "finding_resolved"]
    assert reconcile(terminal).exit_code == 1, "it is counted still"
    assert terminal.json("findings", "list") == [], "and not shown again"


def test_unknown_finding_is_rejected(night: Night, terminal: Terminal) -> None:
    assert night.findings() == []
    result = terminal("findings", "resolve", str(uuid4()), "--reason", "why not")
    assert result.exit_code == 1
    assert "there is no finding" in result.output


def test_future_days_are_rejected(terminal: Terminal) -> None:
    assert terminal("reconcile", "--from", "2027-01-01", "--to", "2027-01-02").exit_code == 1
    assert terminal("reconcile", "--from", "2026-10-02", "--to", "2026-10-01").exit_code == 1


def test_reconcile_stays_unfinished_during_an_outage(
    night: Night, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert night.findings() == []
    monkeypatch.setenv("STRIPE_API_BASE", "http://127.0.0.1:9")
    result = reconcile(terminal, "--coverage", "global")
    assert result.exit_code == 1
    assert "not finished" in result.output
    assert "agree" not in result.stdout.replace("agrees", "")


def test_resolved_finding_reopens_only_with_new_facts(night: Night) -> None:
    def write(received_minor: int) -> None:
        found = Finding("amount_differs", "global", "ch_1", {"received_minor": received_minor, "currency": "USD"})
        cause = Cause("reconciliation", night.world.clock.now(), "a test")
        in_transaction(night.world.engine, lambda connection: write_finding(connection, found, cause))

    def resolve(who: str) -> None:
        night.plant("UPDATE findings SET resolved_at = now(), resolved_by = :who, resolution = 'x'", who=who)

    write(5)
    write(5)
    resolve("operator:anna")
    write(5)
    assert night.findings() == []
    write(6)
    (finding,) = night.findings()
    assert (finding.details["received_minor"], finding.resolved_by) == (6, None)
    write(7)  # new facts while it is open: the operator reads the latest
    assert [one.details["received_minor"] for one in night.findings()] == [7]
    resolve("reconciliation")
    write(7)
    assert len(night.findings()) == 1, "what was fixed automatically and found again is open again"
    with night.world.engine.connect() as connection:
        told = connection.scalars(
            text("SELECT type FROM billing_events WHERE type LIKE 'finding%' ORDER BY id")
        ).all()
    assert told == ["finding_opened", "finding_reopened", "finding_changed", "finding_reopened"]


#: Who canceled a PaymentIntent decides between two kinds.
CANCELED = ("canceled_by_a_person", "canceled_for_unknown_reason")


def test_every_finding_kind_has_a_description_and_an_action() -> None:
    written = {str(kind) for kind in Kind}
    for source in sorted(SHARED.rglob("*.py")):
        code = source.read_text()
        written |= set(re.findall(r'open_finding\(\s*connection,\s*"(\w+)"', code))
        written |= set(re.findall(r'"(\w+)" if is_by_a_user else "(\w+)"', code) and CANCELED)
        written |= set(re.findall(r'^(?:\w+_)?FINDING = "(\w+)"', code, re.MULTILINE))
    assert written == FINDING_DESCRIPTIONS.keys()
    assert "account_not_invoiced" in written
    assert "paid_after_its_end" in written
    assert all(description.meaning and description.what_to_do for description in FINDING_DESCRIPTIONS.values())
