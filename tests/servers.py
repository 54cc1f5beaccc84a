"""PostgreSQL and Valkey for the tests: one pair per session, a fresh database per test (about 50 ms).

    @pytest.fixture(scope="session")
    def servers() -> Iterator[Servers]:
        with test_servers() as running:
            yield running

    @pytest.fixture(scope="session")
    def migrated(servers: Servers) -> str:
        return servers.make_template(lambda url: upgrade(url))

    @pytest.fixture
    def database_url(servers: Servers, migrated: str) -> Iterator[str]:
        with servers.fresh_database(migrated) as url:
            yield url

    @pytest.fixture
    def redis_url(servers: Servers) -> str:
        return servers.fresh_redis()

Where DATABASE_URL is set, databases named duecourse_test_<random> are made on that server and dropped again;
its user needs CREATEDB, and the database in the URL is only connected to. Where REDIS_URL is set, its
database number 15 is used and emptied, no other; if keys lie there that aren't the tests', they refuse. Two
test runs at once need two Redis servers. What isn't set runs embedded with `durable=False` in a folder that is
removed at the end.
"""

import contextlib
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import redis
from psycopg import sql

from local import embedded

# The last of the 16 that every Redis has: the least likely to be anybody's. Each of pytest-xdist's workers (gw0,
# gw1, …) has one of its own.
TESTS_REDIS_DB = 15 - int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
MARKER = "duecourse:tests"  # says that what lies in that database is ours to delete
LEFTOVER_AGE_S = 3600.0  # folders of killed runs are removed after this
MEMORY = Path("/dev/shm")  # noqa: S108  # Linux's file system in memory
MEMORY_NEEDED = 4 << 30  # bytes; thousands of small databases come and go, some hundred megabytes at a time


@dataclass
class Servers:
    """A running pair. `database_url` is for administration; tests take fresh databases."""

    database_url: str
    redis_url: str
    _is_own_redis: bool
    _names: list[str] = field(default_factory=list)
    _is_redis_looked_at: bool = False

    def make_template(self, migrate: Callable[[str], object]) -> str:
        """Make a database, run `migrate(url)` on it once, and return its name for `fresh_database`."""
        name = self._create(None)
        migrate(self.url_of(name))
        with self._admin() as connection:  # PostgreSQL copies only a database that nobody is connected to
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
        return name

    @contextlib.contextmanager
    def fresh_database(self, template: str | None = None) -> Iterator[str]:
        """The URL of a database of this test's own, a copy of the template; dropped with its connections."""
        name = self._create(template)
        try:
            yield self.url_of(name)
        finally:
            self._drop(name)

    def fresh_redis(self) -> str:
        """The URL of an empty Redis database. It is the same one each time: one test at a time."""
        client = redis.Redis.from_url(self.redis_url)
        try:
            if not self._is_own_redis and not self._is_redis_looked_at:
                _refuse_foreign_keys(client)
                self._is_redis_looked_at = True  # tests flush it too, and the marker with it
            client.flushdb()
            if not self._is_own_redis:
                client.set(MARKER, "1")
        finally:
            client.close()
        return self.redis_url

    def url_of(self, name: str) -> str:
        """The URL of a database on this server."""
        return urlunsplit(urlsplit(self.database_url)._replace(path=f"/{name}"))

    def close(self) -> None:
        """Drop what is left of our databases (templates too), and empty our Redis database."""
        for name in list(self._names):
            self._drop(name)
        if not self._is_own_redis:
            self.fresh_redis()
            with redis.Redis.from_url(self.redis_url) as client:
                client.delete(MARKER)

    def _create(self, template: str | None) -> str:
        name = f"duecourse_test_{secrets.token_hex(6)}"
        with self._admin() as connection:
            connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY").format(  # half the time of WAL_LOG
                    sql.Identifier(name), sql.Identifier(template or "template0")
                )
            )
        self._names.append(name)
        return name

    def _drop(self, name: str) -> None:
        with self._admin() as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
        self._names.remove(name)

    def _admin(self) -> psycopg.Connection[tuple[object, ...]]:
        plain = self.database_url.replace("postgresql+psycopg://", "postgresql://", 1)
        return psycopg.connect(plain, autocommit=True)


def work_in_memory() -> None:
    """Put temporary folders of this process and its children into memory, where there is room and nobody said else.

    Tests make and drop a database each: on a disk that costs a third of the time of all tests.
    """
    if "TMPDIR" in os.environ or not os.access(MEMORY, os.W_OK | os.X_OK):
        return
    if shutil.disk_usage(MEMORY).free >= MEMORY_NEEDED:
        os.environ["TMPDIR"] = str(MEMORY)
        tempfile.tempdir = None  # read again


@contextlib.contextmanager
def test_servers() -> Iterator[Servers]:
    """The servers of one test session; see the module's text."""
    work_in_memory()
    _remove_leftovers()
    folder = Path(tempfile.mkdtemp(prefix="duecourse-tests-"))
    folder.chmod(0o755)  # as root the servers run as another user, who must enter
    try:
        with embedded.resolve(folder, os.environ, durable=False) as urls:
            is_own_redis = not os.environ.get("REDIS_URL")
            redis_url = urls.redis_url if is_own_redis else _with_db(urls.redis_url, TESTS_REDIS_DB)
            running = Servers(urls.database_url, redis_url, is_own_redis)
            running.fresh_redis()  # refuse at once where another program's keys lie
            try:
                yield running
            finally:
                running.close()
    finally:
        embedded.erase(folder)
        shutil.rmtree(folder)


test_servers.__test__ = False  # type: ignore[attr-defined]  # its name begins like a test's


def _with_db(url: str, number: int) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{number}"))


def _refuse_foreign_keys(client: "redis.Redis") -> None:
    if client.dbsize() and not client.exists(MARKER):
        raise RuntimeError(
            f"Database {TESTS_REDIS_DB} at REDIS_URL holds keys not written by tests, which would delete them. "
            f"Point REDIS_URL at another server for the tests, or unset it to use the embedded one. "
            f"If they were left by tests that were killed: redis-cli -n {TESTS_REDIS_DB} flushdb"
        )


def _remove_leftovers() -> None:
    """Folders of runs that were killed: old, and nobody's servers run there."""
    for folder in Path(tempfile.gettempdir()).glob("duecourse-tests-*"):
        with contextlib.suppress(OSError, embedded.EmbeddedError):
            if folder.stat().st_uid == os.geteuid() and time.time() - folder.stat().st_mtime > LEFTOVER_AGE_S:
                embedded.erase(folder)
                shutil.rmtree(folder)
