"""`db upgrade` and `db check` on real databases."""

import threading
from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy import create_engine, inspect

from cli import database_commands
from shared.db.columns import metadata
from tests.cli.terminal import Terminal
from tests.conftest import sqlalchemy_url, upgrade
from tests.servers import Servers

HEAD = "0007"


@pytest.fixture
def empty(servers: Servers, bare: Terminal) -> Iterator[str]:
    with servers.fresh_database() as url:
        bare.set(DATABASE_URL=url, REDIS_URL="redis://127.0.0.1:1/0")
        yield url


def test_an_empty_database_gets_the_schema_from_any_folder_and_nothing_else(bare: Terminal, empty: str) -> None:
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
    settings = database_commands.connect_settings()
    threads = [
        threading.Thread(target=lambda: results.append(database_commands.upgrade_database(settings)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results, key=str) == [(HEAD, HEAD)] * 3 + [(None, HEAD)]


def test_a_locked_table_is_waited_for_and_then_named(
    bare: Terminal, empty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    upgrade(empty, "0001")
    monkeypatch.setattr(database_commands, "TRIES", 2)
    monkeypatch.setattr(database_commands, "PAUSE_S", 0.01)
    with psycopg.connect(empty) as somebody:
        somebody.execute("LOCK TABLE receipts")
        result = bare("db", "upgrade")
    assert result.exit_code == 1
    assert "nothing is half done, trying again (1 of 2)" in result.stderr
    assert "stop long queries" in result.stderr
    assert bare("db", "upgrade").stdout == f"schema 0001 → {HEAD}\n"


def test_a_later_releases_schema_is_left_alone(bare: Terminal, empty: str) -> None:
    bare("db", "upgrade")
    with psycopg.connect(empty) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    result = bare("db", "upgrade")
    assert result.exit_code == 1
    assert "schema 9999, which this release doesn't know" in result.stderr


def test_commands_on_an_unmigrated_database_say_so(bare: Terminal, empty: str) -> None:
    result = bare("payment", "show", "x")
    assert result.exit_code == 1
    assert "billing.toml does not exist" in result.stderr
    bare.set(DUECOURSE_BILLING_FILE=f"{database_commands.migrations.__path__[0]}/../billing.toml")
    result = bare("payment", "show", "x")
    assert result.exit_code == 1
    assert "run `duecourse db upgrade`" in result.stderr
