"""The company of a chaos run: own servers, all processes of the Procfile, customers, virtual time."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from rich.console import Console
from sqlalchemy import Connection, Engine, Row, create_engine, text
from sqlalchemy.pool import NullPool

from local import embedded
from local.demo.customers import Customer
from local.demo.two_months import set_up_company
from local.stack import GRACE_S, PROJECT, READY_WITHIN_S, Stack, announced, prepared_stack
from local.supervisor import Process, Supervisor
from shared.domain.calendar import Period
from shared.domain.states import SettingsKind
from shared.runtime import Runtime, build_runtime
from shared.settings import Settings, load_settings
from simulator.client import SimulatorClient
from simulator.issuer.stories import (
    AlwaysDeclines,
    DeclinesThenPays,
    InsufficientFundsUntil,
    NeedsAuthentication,
    Pays,
    Story,
)

#: The shortest values allowed, so that leases expire and requests time out during a run. The policy is the shipped
#: billing.toml: chaos tests this release, not a company's policy.
SHORT_TIMEOUTS = {
    "STRIPE_CONNECT_TIMEOUT_S": "1",
    "STRIPE_READ_TIMEOUT_S": "2",
    "DUECOURSE_LEASE_S": "7",
    "DUECOURSE_CLOCK": "virtual",
    "DUECOURSE_LOG_LEVEL": "WARNING",
    "DUECOURSE_TICK_INTERVAL_S": "0.5",
    "DUECOURSE_SWEEP_INTERVAL_S": "0.5",
    "DUECOURSE_BATCH_PROCESSES": "1",
    "dramatiq_restart_delay": "300",  # ms until a worker reconnects to Valkey; the default is 3 s
    "DUECOURSE_BILLING_FILE": str(PROJECT / "billing.toml"),
}
#: Longest pause before a restart; shorter than the supervisor's default, as processes are killed every few seconds.
LONGEST_PAUSE_S = 0.4
#: Removed from the environment besides our own settings, so that no real key or database reaches the processes.
_SIMULATOR_VARIABLES = (
    "SIMULATOR_PORT",
    "SIMULATOR_DATA",
    "SIMULATOR_WEBHOOKS",
    "SIMULATOR_ACCOUNTS",
    "SIMULATOR_CONFIRMATION_LIMIT",
)
APPLICATION = "duecourse-chaos"


@dataclass
class Company:
    """The running company, as faults and checks use it."""

    stack: Stack
    supervisor: Supervisor
    engine: Engine
    runtime: Runtime
    customers: list[Row[Any]]
    start_s: float

    @property
    def redis_url(self) -> str:
        return self.stack.environment["REDIS_URL"]

    def simulator(self, timeout_s: float = 10.0) -> SimulatorClient:
        """Return a client of the simulator's control endpoints. Close it."""
        return SimulatorClient(self.stack.simulator_url or "", timeout_s=timeout_s)

    def connect(self) -> Connection:
        """Return a new connection in autocommit mode. Raises DBAPIError while PostgreSQL is down."""
        return self.engine.connect().execution_options(isolation_level="AUTOCOMMIT")

    def rows(self, sql: str, **parameters: object) -> list[Row[Any]]:
        with self.connect() as connection:
            return list(connection.execute(text(sql), parameters))

    def scalar(self, sql: str, **parameters: object) -> int:
        with self.connect() as connection:
            return int(connection.scalar(text(sql), parameters) or 0)

    def process(self, name: str) -> Process:
        """Return the Procfile's entry of a process: `scheduler` for `scheduler.2`."""
        return next(each for each in self.stack.processes if each.name == name.partition(".")[0])


def forget_environment() -> None:
    """Remove every variable that Duecourse reads from our environment, so that no caller's system is touched."""
    names = [str(field.validation_alias) for field in Settings.model_fields.values()]
    for name in (*names, *_SIMULATOR_VARIABLES, *(name for name in os.environ if name.startswith("DUECOURSE_"))):
        os.environ.pop(name, None)


@contextmanager
def running_company(folder: Path, accounts: int, seed: int, console: Console) -> Iterator[Company]:
    """Start everything in a fresh folder, with `accounts` customers who have registered their cards.

    Two schedulers run, so that the other takes over when one is killed. Everything stops at the end of the block.
    Raises StackError, SupervisorError, EmbeddedError and DemoError.
    """
    with (
        embedded.servers(folder) as urls,
        prepared_stack(folder, overrides={**SHORT_TIMEOUTS, **urls.as_environ()}) as stack,
    ):
        twice = [replace(each, count=2) if each.name == "scheduler" else each for each in stack.processes]
        supervisor = Supervisor(
            twice, folder / "logs", quiet=True, grace_s=GRACE_S, longest_pause_s=LONGEST_PAUSE_S
        )
        url = stack.environment["DATABASE_URL"].replace("://", "+psycopg://", 1)
        arguments: dict[str, Any] = {
            "connect_timeout": 5,
            "application_name": APPLICATION,
            "options": "-c lock_timeout=20s",
        }
        engine = create_engine(url, poolclass=NullPool, connect_args=arguments)
        os.environ.update(stack.environment)  # from here on this process is one of the stack's
        start_s = _start_duration_s()
        with announced(stack, folder), supervisor:
            supervisor.wait_until_ready(READY_WITHIN_S)
            runtime = build_runtime(load_settings())
            set_up_company(stack, runtime, make_customers(accounts, seed), folder / "customers", console)
            company = Company(stack, supervisor, engine, runtime, [], start_s)
            company.customers = company.rows(_CUSTOMERS)
            yield company
        engine.dispose()


def _start_duration_s() -> float:
    """Measure how long a worker takes to start on this machine with its current load."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "import workers.actors"], check=True, cwd=PROJECT)
    return time.monotonic() - began


_CUSTOMERS = """
    SELECT s.id, s.coverage, s.stripe_customer_id, a.external_id
    FROM payment_settings s JOIN accounts a ON a.id = s.account_id
    WHERE s.kind = 'card' AND s.stripe_customer_id IS NOT NULL ORDER BY a.external_id
"""


def make_customers(count: int, seed: int) -> list[Customer]:
    """Make customers whose cards mostly pay; the other cards cause retries. Depends only on the seed."""
    dice = random.Random(seed)  # noqa: S311
    return [_customer(dice, number) for number in range(1, count + 1)]


def _customer(dice: random.Random, number: int) -> Customer:
    coverage = "global" if dice.random() < 0.6 else "japan"
    kind = dice.choices((SettingsKind.CARD, SettingsKind.BANK_TRANSFER), weights=(97, 3))[0]
    stories: tuple[tuple[int, Story | None], ...] = (
        (70, Pays()),
        (8, DeclinesThenPays(times=dice.randint(1, 3), decline_code="do_not_honor")),
        (6, InsufficientFundsUntil(date=date(2026, 11, dice.randint(2, 28)))),
        (8, AlwaysDeclines(decline_code="insufficient_funds")),
        (2, AlwaysDeclines(decline_code="lost_card")),
        (2, AlwaysDeclines(decline_code="expired_card")),
        (3, NeedsAuthentication()),
        (1, None),
    )
    story = dice.choices([story for _, story in stories], [weight for weight, _ in stories])[0]
    price = dice.randrange(15_00, 95_00)
    name = f"chaos-{number:06d}"
    return Customer(
        external_id=name,
        coverage=coverage,
        kind=kind,
        story=story if kind is SettingsKind.CARD else None,
        brand=dice.choice(("visa", "mastercard", "amex") if coverage == "global" else ("visa", "jcb")),
        services=(("Fibre line", "monthly", price),),
        fees=tuple((period, dice.randrange(100, 4_000)) for period in (Period(2026, 10), Period(2026, 11))),
    )


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Handle SIGTERM like Ctrl-C: stop everything, leave nothing running."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
