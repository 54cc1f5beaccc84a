"""Start the simulator inside a test: `with running_simulator(clock=…) as sim: …`."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import uvicorn

from shared.clock import BusinessClock, SystemClock
from simulator.api.app import build_simulator, server_config
from simulator.api.call import CONFIRMATION_LIMIT
from simulator.client import SimulatorClient
from simulator.faults.hooks import FaultHooks
from simulator.settings import Settings
from simulator.webhooks.events import Webhook

__all__ = ["Webhook", "running_simulator"]

START_TIMEOUT_S = 10.0


@contextmanager
def running_simulator(
    *,
    clock: BusinessClock | None = None,
    data_dir: Path | None = None,
    webhooks: Sequence[Webhook] = (),
    port: int = 0,
    confirmation_limit: int = CONFIRMATION_LIMIT,
    faults: FaultHooks | None = None,
    rate_limit_per_s: float | None = None,
) -> Iterator[SimulatorClient]:
    """Run a simulator in a thread of this process on a free port; yields its client (`.url` for the SDK).

    Without `data_dir` its data are in a temporary folder that is removed at the end. `faults` are hooks in this
    process (subclass NoFaults); rules are scripted by the client's `add_faults` and `clear_faults`.
    """
    with ExitStack() as stack:
        folder = data_dir or Path(stack.enter_context(TemporaryDirectory(prefix="simulator-")))
        settings = Settings(
            port=port,
            data=folder,
            webhooks=tuple(webhooks),
            confirmation_limit=confirmation_limit,
            rate_limit_per_s=rate_limit_per_s,
        )
        thread = _ServerThread(settings, clock or SystemClock(), faults)
        stack.callback(thread.stop)
        yield stack.enter_context(SimulatorClient(thread.start_and_wait()))


class _ServerThread(threading.Thread):
    """Runs the whole simulator: SQLite's connection belongs to the thread that opened it."""

    def __init__(self, settings: Settings, clock: BusinessClock, faults: FaultHooks | None) -> None:
        super().__init__(name="simulator", daemon=True)
        self._settings = settings
        self._clock = clock
        self._faults = faults
        self._server: uvicorn.Server | None = None
        self._broke: BaseException | None = None

    def run(self) -> None:
        try:
            simulator = build_simulator(self._settings, self._clock, self._faults)
            try:
                self._server = uvicorn.Server(
                    server_config(simulator.app, self._settings.host, self._settings.port)
                )
                self._server.run()
            finally:
                simulator.close()
        except BaseException as error:  # raised in the test's thread, which can fail the test
            self._broke = error

    def start_and_wait(self) -> str:
        self.start()
        deadline = time.monotonic() + START_TIMEOUT_S
        while not (self._server and self._server.started):
            if self._broke is not None:
                raise RuntimeError("the simulator did not start") from self._broke
            if time.monotonic() > deadline or not self.is_alive():
                raise TimeoutError(f"the simulator did not start within {START_TIMEOUT_S} s")
            time.sleep(0.005)
        host, port = self._server.servers[0].sockets[0].getsockname()[:2]
        return f"http://{host}:{port}"

    def stop(self) -> None:
        if self._server:
            self._server.should_exit = True
        self.join(START_TIMEOUT_S)
