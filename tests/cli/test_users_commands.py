"""`duecourse users …`: how the first admin comes to be, and what is written down of it."""

from pathlib import Path

import pytest
from sqlalchemy import text

from cli.users_commands import PASSWORD_VARIABLE
from shared.operations.passwords import is_password
from shared.operations.sessions import begin_session, find_session
from shared.operations.users import find_user
from tests.cli.terminal import Terminal
from tests.world import World

PASSWORD = "correct horse battery"


@pytest.fixture
def giving(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A terminal in whose environment a new password waits."""
    monkeypatch.setenv(PASSWORD_VARIABLE, PASSWORD)
    return terminal


def test_the_first_admin_is_added_and_the_password_is_kept_as_a_hash_only(world: World, giving: Terminal) -> None:
    result = giving("users", "add", "Ada", "--role", "admin")
    assert (result.exit_code, result.stdout) == (0, "ada may sign in as admin\n")
    with world.engine.connect() as connection:
        row = find_user(connection, "ada")
        assert row is not None
        assert row.role == "admin"
        assert row.password_hash.startswith("$argon2id$")
        assert is_password(PASSWORD, row.password_hash)
        booked = connection.execute(text("SELECT action, subject, actor FROM audit_log")).one()
        assert (booked.action, booked.subject) == ("person.add", "ada")
        assert booked.actor.startswith("operator:")
    assert PASSWORD not in result.output


def test_a_name_is_given_once_and_a_bad_password_adds_nobody(
    world: World, giving: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert giving("users", "add", "ada").exit_code == 0
    again = giving("users", "add", "ADA")
    assert again.exit_code == 1
    assert "there is a 'ada' already" in again.stderr
    for password, why in (("short", "at least 12"), ("a" * 300, "at most 256"), ("aaaaaaaaaaaaaa", "different")):
        monkeypatch.setenv(PASSWORD_VARIABLE, password)
        refused = giving("users", "add", "otto")
        assert refused.exit_code == 1
        assert why in refused.stderr
    with world.engine.connect() as connection:
        assert find_user(connection, "otto") is None


def test_a_name_that_could_be_markup_or_a_path_is_refused(giving: Terminal) -> None:
    for name in ("<b>ada</b>", "../ada", "ada smith", "", "a" * 65, "Ädà"):
        assert giving("users", "add", name).exit_code == 1


def test_locking_and_a_new_password_end_every_session(world: World, giving: Terminal) -> None:
    giving("users", "add", "ada")

    def signed_in() -> str:
        with world.engine.begin() as connection:
            row = find_user(connection, "ada")
            assert row is not None
            return begin_session(connection, row.id, None, None, world.machine())

    def holds(token: str) -> bool:
        with world.engine.connect() as connection:
            return find_session(connection, token, world.machine()) is not None

    first = signed_in()
    assert holds(first)
    assert giving("users", "password", "ada").exit_code == 0
    assert not holds(first)
    second = signed_in()
    assert giving("users", "lock", "ada").exit_code == 0
    assert not holds(second)
    assert not holds(signed_in()), "whoever is locked out has no session"
    assert giving("users", "lock", "ada", "--undo").exit_code == 0
    assert holds(signed_in())


def test_nobody_to_change_and_nobody_to_ask_are_said(terminal: Terminal, giving: Terminal) -> None:
    unknown = giving("users", "lock", "nobody")
    assert unknown.exit_code == 1
    assert "there is no 'nobody'" in unknown.stderr
    assert "Add the first admin" in giving("users", "list").stdout
    giving("users", "add", "ada", "--by-proxy")
    assert "ada" in giving("users", "list").stdout


def test_without_a_terminal_it_says_where_the_password_goes(terminal: Terminal, tmp_path: Path) -> None:
    result = terminal("users", "add", "ada")
    assert result.exit_code == 2
    assert PASSWORD_VARIABLE in result.stderr
