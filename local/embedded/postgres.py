"""PostgreSQL for the guard: creates the data folder and describes the server."""

import os
import secrets as random_secrets
import shutil
import signal
from pathlib import Path

from local.embedded.binaries import major_version
from local.embedded.places import make_data_folder
from local.embedded.plan import DATABASE, LOOPBACK, EmbeddedError
from local.embedded.process import ParentWatch, Server, Spawner, run_to_end

SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "max_connections": "200",  # workers, web and tests together; the default of 100 is soon reached
    "shared_buffers": "128MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "password_encryption": "scram-sha-256",
    "log_line_prefix": "%m [%p] ",
    # No personal data: DETAIL shows the failing row, STATEMENT its values.
    "log_error_verbosity": "terse",
    "log_min_error_statement": "panic",
    "cluster_name": "duecourse",  # shown by ps
}
NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
STOP = (
    (signal.SIGINT, 20.0),  # fast: clients are cut off, a checkpoint is written
    (signal.SIGQUIT, 8.0),  # immediate: it kills what hangs after 5 s; the next start recovers
)


class Postgres:
    """One data folder and its server program."""

    name = "PostgreSQL"

    def __init__(self, program: str, home: Path, log: Path, *, durable: bool) -> None:
        self._program = program
        self._data = home / "postgres"
        self._log = log
        self._durable = durable

    def prepare(self, spawner: Spawner, watch: ParentWatch, password: str, *, is_new_password: bool) -> None:
        """Create the data folder if there is none. Raises EmbeddedError if it belongs to another release."""
        version_file = self._data / "PG_VERSION"
        program_major = major_version(self._program)
        if not self._data.exists():
            self._init(spawner, watch, password, program_major)
            return
        make_data_folder(self._data, spawner.identity)  # check its owner
        data_major = version_file.read_text().strip() if version_file.exists() else "an unknown release"
        if data_major != str(program_major):
            raise EmbeddedError(
                f"The data in {self._data} was created by PostgreSQL {data_major}, and the server found is "
                f"PostgreSQL {program_major} ({self._program}). To keep it, run PostgreSQL {data_major} on it "
                f"and set DATABASE_URL, or migrate it with pg_dump. To start with an empty database: "
                f"mv {self._data} {self._data}-{data_major.split()[-1]}"
            )
        self._forget_dead_postmaster()
        if is_new_password:  # the file with the secrets was lost, but the data wasn't
            role = f"ALTER ROLE {DATABASE} PASSWORD '{password}';"
            self._single_user(spawner, watch, self._data, role, {} if self._durable else NOT_DURABLE)

    def server(self, port: int) -> Server:
        settings = SETTINGS | {"port": str(port)} | ({} if self._durable else NOT_DURABLE)
        flags = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        argv = (self._program, "-D", str(self._data), *flags)
        # A postmaster that loses the guard stops at once: no process is left to kill one that hangs.
        return Server(self.name, port, argv, self._log, lambda: self._is_ready(port), STOP, signal.SIGQUIT)

    def url(self, port: int, password: str) -> str:
        return f"postgresql://{DATABASE}:{password}@{LOOPBACK}:{port}/{DATABASE}"

    def _init(self, spawner: Spawner, watch: ParentWatch, password: str, major: int) -> None:
        for leftover in self._data.parent.glob("postgres.new-*"):  # a start that was killed in the middle
            shutil.rmtree(leftover)
        fresh = self._data.with_name(f"postgres.new-{random_secrets.token_hex(4)}")
        make_data_folder(fresh, spawner.identity)
        password_file = fresh.with_name(f"{fresh.name}.password")
        password_file.touch(mode=0o600)
        password_file.write_text(password)
        if spawner.identity is not None:
            shutil.chown(password_file, spawner.identity.uid, spawner.identity.gid)
        initdb = str(Path(self._program).with_name("initdb"))
        try:
            argv = [initdb, "-D", str(fresh), f"--username={DATABASE}", f"--pwfile={password_file}"]
            argv += ["--encoding=UTF8", "--locale=C", "--auth=scram-sha-256", "--no-instructions"]
            if major >= 17:  # compares by code point as locale C does, and knows the case of every letter
                argv += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
            argv += ["--no-sync", *(["--data-checksums"] if self._durable else [])]
            run_to_end(spawner.spawn(argv, self._log, signal.SIGKILL), watch, "initdb", self._log)
        finally:
            password_file.unlink()
        self._single_user(spawner, watch, fresh, f"CREATE DATABASE {DATABASE};", NOT_DURABLE)
        if self._durable:  # sync everything once, here, which is faster than at each step
            argv = [initdb, "-D", str(fresh), "--sync-only"]
            run_to_end(spawner.spawn(argv, self._log, signal.SIGKILL), watch, "initdb --sync-only", self._log)
        fresh.rename(self._data)  # a folder with that name is always complete
        parent = os.open(self._data.parent, os.O_RDONLY)
        os.fsync(parent)  # the name is on the disk before the first commit is
        os.close(parent)

    def _forget_dead_postmaster(self) -> None:
        """Remove a postmaster.pid whose process id now belongs to a zombie or another program.

        PostgreSQL would refuse to start: in containers the first process may not reap zombies, and process ids
        repeat after each start. Our lock proves that no server of an earlier run lives, and a postmaster that was
        started by hand is recognised by its name.
        """
        pid_file = self._data / "postmaster.pid"
        try:
            pid = int(pid_file.read_text().splitlines()[0])
            command_line = Path(f"/proc/{pid}/cmdline").read_bytes()  # a zombie's is empty
        except (OSError, ValueError, IndexError):
            return  # no such file, process or /proc: PostgreSQL decides
        if b"postgres" not in command_line:
            pid_file.unlink()

    def _single_user(
        self, spawner: Spawner, watch: ParentWatch, data: Path, statement: str, settings: dict[str, str]
    ) -> None:
        options = {"exit_on_error": "true", "log_min_error_statement": "panic"} | settings  # it may hold a password
        flags = [part for key, value in options.items() for part in ("-c", f"{key}={value}")]
        argv = [self._program, "--single", "-D", str(data), *flags, "postgres"]
        process = spawner.spawn(argv, self._log, signal.SIGKILL, stdin=f"{statement}\n".encode())
        run_to_end(process, watch, "postgres --single", self._log)

    def _is_ready(self, port: int) -> bool:
        """Check postmaster.pid as pg_ctl does: the eighth line is the status, the fourth the port."""
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) >= 8 and lines[3] == str(port) and lines[7].strip() == "ready"
