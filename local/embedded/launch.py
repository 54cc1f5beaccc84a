"""The owner's side: starts a guard, waits for its answer, and stops it at the end."""

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from local.child_processes import private_log
from local.embedded.binaries import find_postgres, find_valkey
from local.embedded.plan import EmbeddedError, Folder, Plan, Urls, not_ours

START_TIMEOUT_S = 120.0  # a start takes a second; recovery after a crash in the middle of a bulk load takes longer
STOP_TIMEOUT_S = 45.0  # above the guard's own bounds (28 s), after which it kills


@contextlib.contextmanager
def servers(
    folder: Path,
    *,
    durable: bool = True,
    want_postgres: bool = True,
    want_valkey: bool = True,
    start_timeout_s: float = START_TIMEOUT_S,
) -> Iterator[Urls]:
    """Run PostgreSQL and Valkey on the data in `folder` (created if needed) as long as the block lasts.

    They stop when the block ends, and when this process ends in any other way, kill -9 included.
    `durable=False` is for tests only: a power failure may then destroy the data.
    Raises EmbeddedError: no program found, folder in use (names the pid), data of another release, no start.
    """
    plan = Plan(
        folder=str(folder.resolve()),
        owner_pid=os.getpid(),
        durable=durable,
        start_timeout_s=start_timeout_s,
        postgres=find_postgres() if want_postgres else None,
        valkey=find_valkey() if want_valkey else None,
    )
    _make_folder(folder)
    guard = _spawn_guard(Folder(folder.resolve()))
    try:
        yield _start(guard, plan)
    finally:
        _stop(guard)


@contextlib.contextmanager
def resolve(folder: Path, environ: Mapping[str, str], *, durable: bool = True) -> Iterator[Urls]:
    """Yield DATABASE_URL and REDIS_URL if set, else the URLs of embedded servers. Raises EmbeddedError."""
    given = Urls(environ.get("DATABASE_URL", ""), environ.get("REDIS_URL", ""))
    if given.database_url and given.redis_url:
        yield given
        return
    wanted = {"want_postgres": not given.database_url, "want_valkey": not given.redis_url}
    with servers(folder, durable=durable, **wanted) as ours:
        yield Urls(given.database_url or ours.database_url, given.redis_url or ours.redis_url)


def running_urls(folder: Path) -> Urls | None:
    """Return the URLs of the servers that another process runs on this folder, or None.

    Raises EmbeddedError if they are another user's.
    """
    names = Folder(folder)
    try:
        state = json.loads(names.state.read_text())
        if not _is_locked(names.lock):
            return None  # left behind by a guard that was killed
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise EmbeddedError(
            f"The servers of {folder} belong to another user: {error}. Run this command as that user."
        ) from error
    return Urls(state["database_url"], state["redis_url"])


def erase(folder: Path) -> None:
    """Remove the servers' data (also if it is kept elsewhere), secrets and logs. The folder is kept.

    Raises EmbeddedError while servers run on it.
    """
    names = Folder(folder)
    if not folder.is_dir():
        return
    if names.lock.exists() and _is_locked(names.lock):
        raise EmbeddedError(f"Servers run on {folder}. Stop Duecourse first.")
    if names.elsewhere.exists():
        shutil.rmtree(names.elsewhere.read_text().strip(), ignore_errors=True)
    # By exact names: a postgres-15 beside them is data that a user moved away to keep.
    for data in (folder / "postgres", *folder.glob("postgres.new-*"), folder / "valkey"):
        if data.exists():
            shutil.rmtree(data)
    for file in (
        names.elsewhere,
        names.secrets,
        names.state,
        names.log("postgres"),
        names.log("valkey"),
        names.log("guard"),
        names.lock,
    ):
        file.unlink(missing_ok=True)


def _make_folder(folder: Path) -> None:
    try:
        if not folder.exists():
            folder.mkdir(parents=True)
            folder.chmod(0o755)  # the servers' user must enter it; private files inside have their own modes
        (folder / "logs").mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise EmbeddedError(f"Can't create {folder}: {error}") from error
    names = Folder(folder)
    for path in (folder, folder / "logs", names.log("guard"), names.lock, names.secrets):
        if path.exists() and not os.access(path, os.R_OK | os.W_OK):
            raise not_ours(path, folder)


def _spawn_guard(folder: Folder) -> "subprocess.Popen[bytes]":
    package = Path(__file__).resolve().parent
    environ = {**os.environ, "PYTHONPATH": str(package.parents[1])}
    argv = [
        sys.executable,
        "-S",
        "-P",
        "-m",
        "local.embedded.guard",
        str(folder.path),
    ]  # -S: starts without site-packages
    with private_log(folder.log("guard")) as log:
        return subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environ,
            cwd="/",
            start_new_session=True,
        )


def _start(guard: "subprocess.Popen[bytes]", plan: Plan) -> Urls:
    assert guard.stdin is not None  # noqa: S101  # for mypy: both are pipes
    assert guard.stdout is not None  # noqa: S101
    with contextlib.suppress(BrokenPipeError):
        guard.stdin.write(plan.to_json().encode() + b"\n")
        guard.stdin.flush()
    line = guard.stdout.readline()
    if not line:
        log = Folder(Path(plan.folder)).log("guard")
        raise EmbeddedError(f"The servers' guard ended without an answer (exit {guard.wait()}). See {log}")
    answer = json.loads(line)
    if "error" in answer:
        raise EmbeddedError(answer["error"])
    return Urls(**answer)


def _stop(guard: "subprocess.Popen[bytes]") -> None:
    """Close the pipe, which makes the guard stop the servers, and wait for its end."""
    for pipe in (guard.stdin, guard.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
    try:
        guard.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        guard.kill()  # the kernel then signals the servers to stop
        guard.wait()


def _is_locked(lock: Path) -> bool:
    with lock.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False
