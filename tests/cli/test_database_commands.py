"""`db upgrade` and `db check` on real databases."""

import threading
from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy import create_engine, inspect

import migrations
from cli.environment import connect_settings
from shared.db import upgrade as database_upgrade
from shared.db.columns import metadata
from tests.cli.terminal import Terminal
from tests.conftest import sqlalchemy_url, upgrade
from tests.servers import Servers

HEAD = "0008"


@pytest.fixture
def empty(servers: Servers, bare: Terminal) -> Iterator[str]:
    with servers.fresh_database() as url:
        bare.set(DATABASE_URL=url, REDIS_URL="redis://127.0.0.1:1/0")
        yield url


def test_upgrade_creates_only_the_schema_from_any_folder(bare: Terminal, empty: str) -> None:
    result = bare("db", "check")
    assert result.exit_code == 1
    assert f"the schema is empty, this release needs {HEAD}: run `duecourse db upgrade`" in result.stderr
    assert bare("db", "upgrade").stdout == f"schema empty → {HEAD}\n"
    assert bare("db", "upgrade").stdout == f"schema {HEAD}: nothing to do\n"
    assert bare("db", "check").stdout == f"schema {HEAD}: up to date\n"
    tables = inspect(create_engine(sqlalchemy_url(empty))).get_table_names()
    assert set(tables) == {*metadata.tables, "alembic_version"}


def test_several_processes_upgrade_at_once(bare: Terminal, empty: str) -> None:
    results: list[tuple[str | None, str]] = []
    settings = connect_settings()
    threads = [
        threading.Thread(target=lambda: results.append(database_upgrade.upgrade_database(settings, print)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results, key=str) == [(HEAD, HEAD)] * 3 + [(None, HEAD)]


def test_upgrade_waits_for_a_locked_table_then_reports_it(
    bare: Terminal, empty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    upgrade(empty, "0001")
    monkeypatch.setattr(database_upgrade, "TRIES", 2)
    monkeypatch.setattr(database_upgrade, "PAUSE_S", 0.01)
    with psycopg.connect(empty) as other_session:
        other_session.execute("LOCK TABLE receipts")
        result = bare("db", "upgrade")
    assert result.exit_code == 1
    assert "nothing is half done, trying again (1 of 2)" in result.stderr
    assert "stop long queries" in result.stderr
    assert bare("db", "upgrade").stdout == f"schema 0001 → {HEAD}\n"


def test_schema_of_a_later_release_is_rejected(bare: Terminal, empty: str) -> None:
    bare("db", "upgrade")
    with psycopg.connect(empty) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    result = bare("db", "upgrade")
    assert result.exit_code == 1
    assert "schema 9999, which this release doesn't know" in result.stderr


def test_commands_report_an_unmigrated_database(bare: Terminal, empty: str) -> None:
    result = bare("payment", "show", "x")
    assert result.exit_code == 1
    assert "billing.toml does not exist" in result.stderr
    bare.set(DUECOURSE_BILLING_FILE=f"{migrations.__path__[0]}/../billing.toml")
    result = bare("payment", "show", "x")
    assert result.exit_code == 1
    assert "run `duecourse db upgrade`" in result.stderr
