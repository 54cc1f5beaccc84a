"""Run an application in a real uvicorn on a free local port."""

import socket
import threading
import time
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp


class running:  # noqa: N801  # reads as a sentence
    """`with running(app) as url: …`"""

    def __init__(self, app: ASGIApp) -> None:
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        self._listener = listener
        self._server = uvicorn.Server(
            uvicorn.Config(app, log_level="warning", access_log=False, proxy_headers=False)
        )
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listener]})

    def __enter__(self) -> str:
        self._thread.start()
        wait_until(lambda: self._server.started, within_s=10)
        host, port = self._listener.getsockname()
        return f"http://{host}:{port}"

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(10)


def wait_until(is_so: Callable[[], bool], within_s: float = 5.0) -> None:
    deadline = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.01)
