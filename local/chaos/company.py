"""The company under fire: servers of its own, every process of the Procfile, people with cards, virtual time."""

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
from local.demo.life import begin
from local.demo.people import Person
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

#: As short as their rules allow, so that leases run out and requests time out while one watches. The file of the
#: policy is the one that ships: chaos is about this release, not about a company's policy.
IMPATIENT = {
    "STRIPE_CONNECT_TIMEOUT_S": "1",
    "STRIPE_READ_TIMEOUT_S": "2",
    "DUECOURSE_LEASE_S": "7",
    "DUECOURSE_CLOCK": "virtual",
    "DUECOURSE_LOG_LEVEL": "WARNING",
    "DUECOURSE_TICK_INTERVAL_S": "0.5",
    "DUECOURSE_SWEEP_INTERVAL_S": "0.5",
    "DUECOURSE_BATCH_PROCESSES": "1",
    "dramatiq_restart_delay": "300",  # ms until a worker asks Valkey again after losing it, else 3 s
    "DUECOURSE_BILLING_FILE": str(PROJECT / "billing.toml"),
}
#: A process that we kill each few seconds shall be back soon: less than the supervisor's usual patience.
LONGEST_PAUSE_S = 0.4
#: Nothing of the caller's environment may reach the processes: a real key, a real database.
_MORE = (
    "SIMULATOR_PORT",
    "SIMULATOR_DATA",
    "SIMULATOR_WEBHOOKS",
    "SIMULATOR_ACCOUNTS",
    "SIMULATOR_CONFIRMATION_LIMIT",
)
APPLICATION = "duecourse-chaos"


@dataclass
class Company:
    """What faults, people and checks need of the running company."""

    stack: Stack
    supervisor: Supervisor
    engine: Engine
    runtime: Runtime
    people: list[Row[Any]]
    start_s: float

    @property
    def redis_url(self) -> str:
        return self.stack.environment["REDIS_URL"]

    def simulator(self, timeout_s: float = 10.0) -> SimulatorClient:
        """A client of the processor's other side. Close it."""
        return SimulatorClient(self.stack.simulator_url or "", timeout_s=timeout_s)

    def connect(self) -> Connection:
        """A connection of our own, in autocommit. Raises DBAPIError while PostgreSQL is away."""
        return self.engine.connect().execution_options(isolation_level="AUTOCOMMIT")

    def rows(self, sql: str, **parameters: object) -> list[Row[Any]]:
        with self.connect() as connection:
            return list(connection.execute(text(sql), parameters))

    def scalar(self, sql: str, **parameters: object) -> int:
        with self.connect() as connection:
            return int(connection.scalar(text(sql), parameters) or 0)

    def process(self, name: str) -> Process:
        """The line of the Procfile behind a process's name: `scheduler` behind `scheduler.2`."""
        return next(each for each in self.stack.processes if each.name == name.partition(".")[0])


def forget_environment() -> None:
    """Remove from our environment whatever Duecourse reads, so that nothing of the caller's is ever touched."""
    names = [str(field.validation_alias) for field in Settings.model_fields.values()]
    for name in (*names, *_MORE, *(name for name in os.environ if name.startswith("DUECOURSE_"))):
        os.environ.pop(name, None)


@contextmanager
def running_company(folder: Path, accounts: int, seed: int, console: Console) -> Iterator[Company]:
    """Start everything in a fresh folder, with `accounts` people who have registered their cards.

    Two schedulers run, so that one leads as soon as the other is gone. Everything ends with the block. Raises
    StackError, SupervisorError, EmbeddedError and DemoError.
    """
    with (
        embedded.servers(folder) as urls,
        prepared_stack(folder, overrides={**IMPATIENT, **urls.as_environ()}) as stack,
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
        os.environ.update(stack.environment)  # from here on we are one of its processes
        start_s = _time_of_a_start()
        with announced(stack, folder), supervisor:
            supervisor.wait_until_ready(READY_WITHIN_S)
            runtime = build_runtime(load_settings())
            begin(stack, runtime, make_people(accounts, seed), folder / "people", console)
            company = Company(stack, supervisor, engine, runtime, [], start_s)
            company.people = company.rows(_PEOPLE)
            yield company
        engine.dispose()


def _time_of_a_start() -> float:
    """Seconds that a worker takes to come up on this machine as busy as it is now."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "import workers.actors"], check=True, cwd=PROJECT)
    return time.monotonic() - began


_PEOPLE = """
    SELECT s.id, s.coverage, s.stripe_customer_id, a.external_id
    FROM payment_settings s JOIN accounts a ON a.id = s.account_id
    WHERE s.kind = 'card' AND s.stripe_customer_id IS NOT NULL ORDER BY a.external_id
"""


def make_people(count: int, seed: int) -> list[Person]:
    """Make people whose cards mostly pay; the others keep dunning busy. The same seed, the same people."""
    dice = random.Random(seed)  # noqa: S311
    return [_person(dice, number) for number in range(1, count + 1)]


def _person(dice: random.Random, number: int) -> Person:
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
    return Person(
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
    """Let SIGTERM end the run as Ctrl-C does: everything is stopped, nothing is left running."""
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
