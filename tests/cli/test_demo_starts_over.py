"""A second demo deletes what users made in the first one only when told to, or after a question."""

from pathlib import Path

import pytest
import typer
from sqlalchemy import inspect, text

from local.demo.command import DemoError, _start_over
from tests.world import World


def add_user(world: World) -> None:
    with world.engine.begin() as connection:
        connection.execute(
            text("INSERT INTO users (name, role, password_hash, added_by) VALUES ('anna', 'viewer', 'x', 'x')")
        )


def has_tables(world: World) -> bool:
    return inspect(world.engine).has_table("accounts")


def test_data_of_the_demo_alone_are_replaced_without_a_question(world: World, tmp_path: Path) -> None:
    world.account("demo-000001")
    (tmp_path / "simulator").mkdir()
    _start_over(tmp_path, world.engine, replaces=False)
    assert not has_tables(world)
    assert list(tmp_path.iterdir()) == []


def test_what_users_made_is_named_and_kept_without_a_terminal(world: World, tmp_path: Path) -> None:
    add_user(world)
    with pytest.raises(DemoError, match=r"\(users: 1\).*--replace"):
        _start_over(tmp_path, world.engine, replaces=False)
    assert has_tables(world)
    _start_over(tmp_path, world.engine, replaces=True)
    assert not has_tables(world)


@pytest.mark.parametrize("answer", [True, False])
def test_terminal_is_asked(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bool) -> None:
    add_user(world)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr(typer, "confirm", lambda question: "users: 1" in question and answer)
    if answer:
        _start_over(tmp_path, world.engine, replaces=False)
    else:
        with pytest.raises(DemoError, match="nothing is deleted"):
            _start_over(tmp_path, world.engine, replaces=False)
    assert has_tables(world) is not answer


def test_other_accounts_are_never_deleted(world: World, tmp_path: Path) -> None:
    world.account("A-1")
    with pytest.raises(DemoError, match="accounts that aren't the demo's"):
        _start_over(tmp_path, world.engine, replaces=True)
    assert has_tables(world)
