"""A TCP proxy to Redis that a test can cut, restore and make hang, or replace by a fake server."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit, urlunsplit

HOST = "127.0.0.1"
CHUNK = 65_536


class Line:
    """A TCP proxy to the real Redis. `url` is the address that goes through it."""

    def __init__(self, redis_url: str) -> None:
        parts = urlsplit(redis_url)
        self._far_end = (parts.hostname or HOST, parts.port or 6379)
        self._open: list[socket.socket] = []
        self._flows = threading.Event()
        self._flows.set()
        self._listener = self._listen(0)
        port = self._port = int(self._listener.getsockname()[1])
        secret = f":{parts.password}@" if parts.password else ""
        self.url = urlunsplit(parts._replace(netloc=f"{secret}{HOST}:{port}"))

    def cut(self) -> None:
        """Close the listener and every connection."""
        # shutdown wakes the thread that waits in accept; close alone leaves the port listening for it.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._open.clear()

    def repair(self) -> None:
        self._flows.set()
        self._listener = self._listen(self._port)

    def hang(self) -> None:
        """Accept connections and forward nothing."""
        self._flows.clear()

    def _listen(self, port: int) -> socket.socket:
        listener = socket.create_server((HOST, port))
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return listener

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(self._far_end)
                self._open += [near, far]
                for source, target in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=(source, target), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK):
                self._flows.wait()
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def answering(line: bytes) -> Iterator[str]:
    """The URL of a server that gives each command the same answer."""
    listener = socket.create_server((HOST, 0))

    def talk(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while commands := connection.recv(CHUNK):
                starts = commands.count(b"\r\n*") + 1  # a pipeline is several commands at once
                connection.sendall(line * starts)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=talk, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"redis://{HOST}:{listener.getsockname()[1]}/0"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
