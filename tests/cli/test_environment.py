"""Where commands find the servers, and what `env` tells a shell."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from cli.environment import connect_settings
from local.stack import StackError, _check, prepared_stack
from shared.settings import SettingsError
from tests.cli.terminal import REPOSITORY, Terminal

UP = {
    "DATABASE_URL": "postgresql://duecourse:it's; secret@127.0.0.1:5/duecourse",
    "REDIS_URL": "redis://:p@127.0.0.1:6/0",
    "STRIPE_API_KEYS": '{"global": "sk_test_sim_global"}',
    "DUECOURSE_CLOCK": "virtual",
}


def announce(folder: Path, pid: int) -> None:
    (folder / ".duecourse").mkdir()
    (folder / ".duecourse" / "up.json").write_text(json.dumps({"environment": UP, "pid": pid}))


def a_dead_pid() -> int:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


def test_a_running_up_says_where_the_servers_are(bare: Terminal, tmp_path: Path) -> None:
    announce(tmp_path, os.getpid())
    before = dict(os.environ)
    settings = connect_settings()
    assert settings.database_url.get_secret_value() == UP["DATABASE_URL"]
    assert settings.clock == "virtual"
    assert settings.stripe_api_keys["global"].get_secret_value() == "sk_test_sim_global"
    assert dict(os.environ) == before


def test_an_up_that_was_killed_says_nothing(bare: Terminal, tmp_path: Path) -> None:
    announce(tmp_path, a_dead_pid())
    with pytest.raises(SettingsError, match=r"DATABASE_URL and REDIS_URL not set.*Start `duecourse up`"):
        connect_settings()
    result = bare("env")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "nothing runs in" in result.stderr


def test_the_environment_goes_before_a_running_up(bare: Terminal, tmp_path: Path) -> None:
    announce(tmp_path, os.getpid())
    bare.set(REDIS_URL="redis://elsewhere:1/0")
    settings = connect_settings()
    assert settings.redis_url.get_secret_value() == "redis://elsewhere:1/0"
    assert settings.database_url.get_secret_value() == UP["DATABASE_URL"]


def test_keys_of_a_simulator_never_meet_another_database(bare: Terminal, tmp_path: Path) -> None:
    announce(tmp_path, os.getpid())
    bare.set(DATABASE_URL="postgresql://real@books:5432/real", REDIS_URL="redis://real:6379/0")
    settings = connect_settings()
    assert settings.stripe_api_keys == {}
    assert settings.clock == "system"


def test_a_shell_gets_each_value_whole(bare: Terminal, tmp_path: Path) -> None:
    announce(tmp_path, os.getpid())
    printed = bare("env").stdout
    shell = subprocess.run(
        ["sh", "-c", f'{printed}\nprintf "%s|%s" "$DATABASE_URL" "$STRIPE_API_KEYS"'],
        capture_output=True,
        text=True,
    )
    assert shell.stdout == f"{UP['DATABASE_URL']}|{UP['STRIPE_API_KEYS']}"
    assert all(line.startswith(("#", "export ")) for line in printed.splitlines())
    assert shlex.split(printed.splitlines()[2])[0] == "export"


def test_a_shell_with_the_variables_of_an_up_starts_no_other(
    bare: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    announce(tmp_path, os.getpid())
    names = "import json, os; print(json.dumps(dict(os.environ)))"
    shell = subprocess.run(
        ["sh", "-c", f'{bare("env").stdout}\nexec "$0" -c "$1"', sys.executable, names],
        capture_output=True,
        text=True,
        check=True,
    )
    for name, value in json.loads(shell.stdout).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DUECOURSE_BILLING_FILE", str(REPOSITORY / "billing.toml"))
    data = tmp_path / "data"
    with pytest.raises(StackError) as refused, prepared_stack(data):
        pytest.fail("it would use the servers that ended with that `up`, and no simulator")
    unset = str(refused.value).partition("unset ")[2].splitlines()[0].split()
    assert set(UP) <= set(unset)
    assert not data.exists()
    for name in unset:
        monkeypatch.delenv(name)
    _check(os.environ)  # nothing is left that it would refuse


def test_env_as_json(bare: Terminal, tmp_path: Path) -> None:
    announce(tmp_path, os.getpid())
    assert bare.json("env") == UP
