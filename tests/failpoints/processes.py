"""Real processes that may be killed: their exits are recorded, and some are restarted."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from shared.settings import Settings
from tests.web.serving import wait_until

ROOT = Path(__file__).resolve().parents[2]
#: What a loaded machine may take for anything (s); only what is broken takes it all.
PATIENCE_S = 60.0
KILLED = -signal.SIGKILL


@dataclass
class Restarted:
    """One process, in a session of its own, so that we end its children with it. Its output is a file."""

    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    pass_fds: Sequence[int] = ()
    process: "subprocess.Popen[bytes]" = field(init=False)

    def start(self) -> "Restarted":
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=ROOT,
                env=self.environment,
                stdout=log,
                stderr=log,
                pass_fds=self.pass_fds,
                start_new_session=True,
            )
        return self

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def environment_of(**settings: str) -> dict[str, str]:
    """This machine's environment without any setting of ours, and with these."""
    ours = {str(one.validation_alias) for one in Settings.model_fields.values()}
    return {name: value for name, value in os.environ.items() if name not in ours} | settings


@contextmanager
def restarted_web(
    environment: Mapping[str, str], armed: Mapping[str, str], log: Path
) -> Iterator[tuple[str, list[int]]]:
    """`python -m web`, armed in its first life only and started again when it dies; yields its URL and its ends.

    It inherits its socket, so that in between nobody is refused.
    """
    ends: list[int] = []
    stopping = threading.Event()
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
        fds = (listening.fileno(),)
        command = [sys.executable, "-m", "web"]
        own = {**environment, "DUECOURSE_WEB_FD": str(fds[0])}
        lives = [Restarted(command, {**own, **armed}, log, fds).start()]

        def keep() -> None:
            while True:
                code = lives[-1].process.wait()
                if stopping.is_set():
                    return
                ends.append(code)
                lives.append(Restarted(command, own, log, fds).start())

        keeper = threading.Thread(target=keep, name="keeper")
        keeper.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        try:
            wait_until(lambda: _answers(f"{url}/healthz"), PATIENCE_S)
            yield url, ends
        finally:
            stopping.set()
            while keeper.is_alive():
                lives[-1].kill()
                keeper.join(0.1)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5.0, trust_env=False).is_success
    except httpx.HTTPError:
        return False
