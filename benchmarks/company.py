"""A running company for benchmarks: the whole stack on a fresh folder and virtual time, and its people's cards."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import psutil
from sqlalchemy import Engine, create_engine, text

from local.stack import Stack, prepared_stack, running_stack
from local.supervisor import Supervisor
from shared.scheduling.virtual_clock import set_clock
from shared.settings import with_driver
from simulator.client import SimulatorClient

PROJECT = Path(__file__).resolve().parent.parent


@dataclass
class Company:
    """The stack while it runs, with what benchmarks ask of it."""

    stack: Stack
    supervisor: Supervisor
    engine: Engine

    def simulator(self) -> SimulatorClient:
        assert self.stack.simulator_url is not None
        return SimulatorClient(self.stack.simulator_url, timeout_s=60)

    def duecourse(self, *arguments: str) -> str:
        """Run one of our commands, as a person would; its output. Stops the benchmark if it exits with an error."""
        done = subprocess.run(
            [sys.executable, "-m", "cli", *arguments],
            env={**os.environ, **self.stack.environment},
            cwd=PROJECT,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"duecourse {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def scalar(self, sql: str, **parameters: object) -> int:
        with self.engine.connect() as connection:
            return int(connection.scalar(text(sql), parameters) or 0)

    def register_cards(self, threads: int = 16) -> int:
        """Register a card of its own for every settings row of kind card that has none; returns how many."""
        with self.engine.connect() as connection:
            rows = connection.execute(
                text(
                    "SELECT id, coverage, stripe_customer_id FROM payment_settings "
                    "WHERE kind = 'card' AND primary_card_id IS NULL AND stripe_customer_id IS NOT NULL"
                )
            ).all()
        with self.simulator() as simulator, ThreadPoolExecutor(threads) as pool:
            list(
                pool.map(
                    lambda row: simulator.register_card(
                        row.coverage,
                        row.stripe_customer_id,
                        simulator.make_card(row.coverage).token,  # budgets are counted per card
                        {"duecourse_settings_id": str(row.id), "duecourse_intent": "replace"},
                    ),
                    rows,
                )
            )
        return len(rows)

    def kill(self, name: str) -> None:
        """Kill -9 one process of the Procfile, with all its children, at once."""
        pid = self.supervisor.pid_of(name)
        if pid is not None:
            os.killpg(pid, signal.SIGKILL)

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds so far by process, children included; the servers too."""
        used = {}
        names = [process.name for process in self.stack.processes if not process.is_release]
        for name in names:
            used[name] = _cpu_of(self.supervisor.pid_of(name))
        for process in psutil.process_iter(["name", "ppid"]):
            if process.info["name"] in ("postgres", "valkey-server"):
                used[process.info["name"]] = used.get(process.info["name"], 0.0) + _cpu_of(process.pid, alone=True)
        return used


@contextmanager
def running_company(start: datetime, overrides: Mapping[str, str] | None = None) -> Iterator[Company]:
    """Start everything on a fresh folder, the virtual clock at `start`."""
    with tempfile.TemporaryDirectory(prefix="duecourse-") as folder:
        Path(folder).chmod(0o755)
        data = Path(folder) / ".duecourse"
        fixed = {
            "DUECOURSE_CLOCK": "virtual",
            "DUECOURSE_BILLING_FILE": str(PROJECT / "billing.toml"),
            "DUECOURSE_LOG_LEVEL": "WARNING",
        }
        with prepared_stack(data, overrides={**fixed, **(overrides or {})}) as stack:
            engine = create_engine(with_driver(stack.environment["DATABASE_URL"]), pool_size=20)
            with running_stack(stack, data) as supervisor:
                with engine.begin() as connection:
                    set_clock(connection, start, stack.policy)
                yield Company(stack, supervisor, engine)
            engine.dispose()


def wait_for_events(company: Company, count: int, timeout_s: float = 600) -> None:
    """Wait until `count` card registrations have been applied."""
    import time

    deadline = time.monotonic() + timeout_s
    while company.scalar("SELECT count(*) FROM card_registrations") < count:
        if time.monotonic() > deadline:
            raise SystemExit("the card registrations were not applied in time")
        time.sleep(0.05)


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the values lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(share * len(ordered)) - 1))]


def _cpu_of(pid: int | None, *, alone: bool = False) -> float:
    if pid is None:
        return 0.0
    try:
        process = psutil.Process(pid)
        family = [process] if alone else [process, *process.children(recursive=True)]
        return sum(sum(member.cpu_times()[:2]) for member in family)
    except psutil.NoSuchProcess:
        return 0.0
