"""`duecourse users …`: how the first admin comes to be, and what is written down of it."""

import os
import pty
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from sqlalchemy import text

from cli.users_commands import PASSWORD_VARIABLE
from shared.operations.passwords import is_password
from shared.operations.sessions import begin_session, find_session
from shared.operations.users import find_user
from tests.cli.terminal import REPOSITORY, Terminal
from tests.world import World

PASSWORD = "correct horse battery"


@pytest.fixture
def giving(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A terminal in whose environment a new password waits."""
    monkeypatch.setenv(PASSWORD_VARIABLE, PASSWORD)
    return terminal


def test_first_admin_is_added_with_a_hashed_password(world: World, giving: Terminal) -> None:
    result = giving("users", "add", "Ada", "--role", "admin")
    assert (result.exit_code, result.stdout) == (0, "ada may sign in as admin\n")
    with world.engine.connect() as connection:
        row = find_user(connection, "ada")
        assert row is not None
        assert row.role == "admin"
        assert row.password_hash.startswith("$argon2id$")
        assert is_password(PASSWORD, row.password_hash)
        entry = connection.execute(text("SELECT action, subject, actor FROM audit_log")).one()
        assert (entry.action, entry.subject) == ("person.add", "ada")
        assert entry.actor.startswith("operator:")
    assert PASSWORD not in result.output


def test_duplicate_name_and_bad_password_are_rejected(
    world: World, giving: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert giving("users", "add", "ada").exit_code == 0
    again = giving("users", "add", "ADA")
    assert again.exit_code == 1
    assert "'ada' exists already" in again.stderr
    for password, why in (("short", "at least 12"), ("a" * 300, "at most 256"), ("aaaaaaaaaaaaaa", "different")):
        monkeypatch.setenv(PASSWORD_VARIABLE, password)
        refused = giving("users", "add", "otto")
        assert refused.exit_code == 1
        assert why in refused.stderr
    with world.engine.connect() as connection:
        assert find_user(connection, "otto") is None


def test_name_that_could_be_markup_or_a_path_is_rejected(giving: Terminal) -> None:
    for name in ("<b>ada</b>", "../ada", "ada smith", "", "a" * 65, "Ädà"):
        assert giving("users", "add", name).exit_code == 1


def test_lock_and_new_password_end_all_sessions(world: World, giving: Terminal) -> None:
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
    assert not holds(signed_in()), "a locked user has no session"
    assert giving("users", "lock", "ada", "--undo").exit_code == 0
    assert holds(signed_in())


def test_unknown_user_and_empty_list_are_reported(terminal: Terminal, giving: Terminal) -> None:
    unknown = giving("users", "lock", "nobody")
    assert unknown.exit_code == 1
    assert "there is no user 'nobody'" in unknown.stderr
    assert "Add the first admin" in giving("users", "list").stdout
    giving("users", "add", "ada", "--by-proxy")
    assert "ada" in giving("users", "list").stdout


def test_without_a_terminal_the_password_variable_is_named(terminal: Terminal, tmp_path: Path) -> None:
    result = terminal("users", "add", "ada")
    assert result.exit_code == 2
    assert PASSWORD_VARIABLE in result.stderr


def typed(words: list[str], answers: list[tuple[str, str]]) -> tuple[int, str]:
    """Run `duecourse users …` on a terminal; answer each prompt as it appears; return exit code and screen."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "cli", "users", *words],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    os.close(theirs)
    screen, waiting = "", list(answers)
    while True:
        try:
            read = os.read(ours, 4096)
        except OSError:  # Linux: the other end is closed
            break
        if not read:
            break
        screen += read.decode("utf-8", "replace")
        if waiting and waiting[0][0] in screen:
            while termios.tcgetattr(ours)[3] & termios.ECHO and process.poll() is None:
                os.sched_yield()  # what is typed before the echo is off would be discarded
            os.write(ours, waiting.pop(0)[1].encode() + b"\n")
    os.close(ours)
    return process.wait(60), screen


@pytest.mark.parametrize(
    ("words", "password", "why"),
    [
        (["add", "ada"], "short", "at least 12"),
        (["add", "ada"], "aaaaaaaaaaaaaa", "different"),
        (["add", "anastasia"], "Anastasia123", "the user's name"),
        (["password", "ada"], "short", "at least 12"),
    ],
)
def test_a_bad_password_is_refused_before_it_is_asked_again(
    terminal: Terminal, words: list[str], password: str, why: str
) -> None:
    code, screen = typed(words, [("New password", password), ("Repeat", password)])
    assert code == 1
    assert why in screen
    assert "Repeat" not in screen


def test_a_bad_name_is_refused_before_a_password_is_asked(terminal: Terminal) -> None:
    code, screen = typed(["add", "ada smith"], [("New password", PASSWORD), ("Repeat", PASSWORD)])
    assert code == 1
    assert "New password" not in screen


def test_a_password_typed_twice_adds_the_user(world: World, terminal: Terminal) -> None:
    code, screen = typed(["add", "ada"], [("New password", PASSWORD), ("Repeat", PASSWORD)])
    assert (code, PASSWORD in screen) == (0, False)
    with world.engine.connect() as connection:
        row = find_user(connection, "ada")
    assert row is not None
    assert is_password(PASSWORD, row.password_hash)
