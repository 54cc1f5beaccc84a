"""Where the servers are: from the environment, else from a running `duecourse up` of this folder.

`up` keeps `.duecourse/up.json` while it runs: `{"environment": {NAME: value, …}, "pid": …}`, mode 0600. Nothing of
it is mixed with another database: keys of a simulator must never meet the database of a real Stripe account.
"""

import json
import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.console import plain_errors, print_error
from local import embedded
from shared.settings import ENV_NAMES, Settings, SettingsError, load_settings

#: Where `up` and the embedded servers keep what they have, in the folder that they were started in.
FOLDER = Path(".duecourse")


@dataclass(frozen=True)
class RunningUp:
    """What a living `up` gave its processes."""

    environment: Mapping[str, str]
    pid: int | None
    source: str


def find_running(folder: Path = FOLDER) -> RunningUp | None:
    """Return what a running `up` (or, failing that, a pair of embedded servers) of this folder says, or None.

    Raises SettingsError if it is another user's.
    """
    try:
        return _read_up(folder) or _read_servers(folder)
    except PermissionError as error:
        raise SettingsError(f"{error.filename} is another user's: run this as the user who runs `up`") from None
    except embedded.EmbeddedError as error:
        raise SettingsError(str(error)) from None


def environment_in_force(environ: Mapping[str, str] = os.environ, folder: Path = FOLDER) -> dict[str, str]:
    """Return `environ`, with what it leaves open taken from the running `up` of this folder.

    Where `environ` names another database than `up` has, nothing is taken.
    """
    given = {name: value for name, value in environ.items() if value}
    if given.get("DATABASE_URL") and given.get("REDIS_URL") and given.get("STRIPE_API_KEYS"):
        return given
    running = find_running(folder)
    if running is None:
        return given
    ours = given.get("DATABASE_URL")
    if ours and ours != running.environment.get("DATABASE_URL"):
        return given
    return {**running.environment, **given}


def connect_settings(folder: Path = FOLDER) -> Settings:
    """Return the settings of a command: of the environment, else of the running `up`. Opens no connection.

    SettingsError says what to do.
    """
    found = environment_in_force(os.environ, folder)
    missing = [name for name in ("DATABASE_URL", "REDIS_URL") if name not in found]
    if missing:
        raise SettingsError(
            f"{' and '.join(missing)} not set, and no `duecourse up` runs in {Path.cwd()}. Start `duecourse up` "
            "here in another terminal, change to the folder where it runs, or set the variables."
        )
    with _environ(found):
        return load_settings()


def env(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of shell assignments.")] = False,
) -> None:
    """Print what a running `duecourse up` of this folder has in force, for a shell: eval "$(duecourse env)".

    It holds passwords. With nothing running, nothing is printed and the exit code is 1.
    """
    with plain_errors():
        running = find_running()
    if running is None:
        print_error(
            f"nothing runs in {Path.cwd()}: start `duecourse up` here, or change to the folder where it runs"
        )
        raise typer.Exit(1)
    if as_json:
        print(json.dumps(dict(sorted(running.environment.items())), indent=1))
        return
    print(f"# {running.source}" + (f", pid {running.pid}" if running.pid else ""))
    print(
        '# eval "$(duecourse env)", then: psql "$DATABASE_URL"; redis-cli -u "$REDIS_URL"; curl "$STRIPE_API_BASE"'
    )
    for name, value in sorted(running.environment.items()):
        print(f"export {name}={shlex.quote(value)}")
    print(f"export {ENV_NAMES}={shlex.quote(' '.join(sorted(running.environment)))}")


def _read_up(folder: Path) -> RunningUp | None:
    path = folder / "up.json"
    try:
        said: dict[str, Any] = json.loads(path.read_text("utf-8"))
        pid, environment = int(said["pid"]), said["environment"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        raise SettingsError(f"{path} can't be read; stop `duecourse up`, remove the file and start again") from None
    if not _is_alive(pid):
        return None  # left behind by an `up` that was killed
    return RunningUp(
        {str(name): str(value) for name, value in environment.items()}, pid, f"`up` in {folder.resolve()}"
    )


def _read_servers(folder: Path) -> RunningUp | None:
    urls = embedded.running_urls(folder)
    if urls is None:
        return None
    return RunningUp(urls.as_environ(), None, f"embedded servers of {folder.resolve()}")


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextmanager
def _environ(values: Mapping[str, str]) -> Iterator[None]:
    """Settings read `os.environ`; it is as it was afterwards."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
