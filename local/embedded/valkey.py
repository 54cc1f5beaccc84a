"""Valkey (or Redis) for the guard: describes the server."""

import signal
import socket
from pathlib import Path

from local.embedded.places import make_data_folder
from local.embedded.plan import LOOPBACK
from local.embedded.process import Server, Spawner

STOP = ((signal.SIGTERM, 10.0),)  # it flushes its append-only file and exits


class Valkey:
    """One data folder and its server program."""

    name = "Valkey"

    def __init__(self, program: str, home: Path, log: Path, password: str, *, durable: bool) -> None:
        self._program = program
        self._data = home / "valkey"
        self._log = log
        self._password = password
        self._durable = durable

    def prepare(self, spawner: Spawner) -> None:
        make_data_folder(self._data, spawner.identity)

    def server(self, port: int) -> Server:
        settings = {
            "bind": LOOPBACK,
            "port": str(port),
            "dir": f'"{self._data}"',
            "requirepass": self._password,
            "appendonly": "yes" if self._durable else "no",
            "appendfsync": "everysec",
            "save": '""',  # the append-only file is enough
            "maxmemory-policy": "noeviction",  # a message is never dropped silently
            "daemonize": "no",
        }
        config = "".join(f"{key} {value}\n" for key, value in settings.items())
        # The configuration is passed on standard input, so that the password is neither in ps nor on disk.
        return Server(
            self.name,
            port,
            (self._program, "-"),
            self._log,
            lambda: self._is_ready(port),
            STOP,
            signal.SIGTERM,
            stdin=config.encode(),
            hint=f"If it can't read its data: it only holds messages, which the sweep enqueues again. Run "
            f"mv {self._data} {self._data}-old",
        )

    def url(self, port: int) -> str:
        return f"redis://:{self._password}@{LOOPBACK}:{port}/0"

    def _is_ready(self, port: int) -> bool:
        """Return True once PING is answered; while the append-only file is being read the answer is LOADING."""
        try:
            with socket.create_connection((LOOPBACK, port), timeout=1.0) as connection:
                connection.sendall(f"AUTH {self._password}\r\nPING\r\n".encode())
                answer = b""
                while answer.count(b"\r\n") < 2:
                    if not (chunk := connection.recv(4096)):
                        return False
                    answer += chunk
        except OSError:
            return False
        return answer == b"+OK\r\n+PONG\r\n"
