"""The most important failpoints with real worker processes, ended by SIGKILL inside a step.

Workers are real processes on a real Valkey; scheduler and web process are threads here. Nobody delivers again what
was in hand: the sweep and the lease bring it back.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from scheduler.app import SchedulerApp
from shared.clock import machine_now
from shared.failpoints import Failpoint
from shared.gateway.stripe_event_types import HANDLED_EVENT_TYPES
from shared.messaging.broker import make_broker, make_enqueue, waiting_messages
from shared.messaging.jobs import QUEUES
from shared.reconciliation.verify import Scope, verify
from shared.scheduling.pending_work import pending_work
from shared.scheduling.virtual_clock import set_clock
from tests.diaries.conftest import only
from tests.diaries.diary import secret_of
from tests.failpoints.company import settings_of_web
from tests.failpoints.processes import PATIENCE_S, ROOT, Restarted, environment_of
from tests.seed import Account, add_fee
from tests.web.conftest import web_settings
from tests.web.serving import running, wait_until
from tests.world import World, running_world
from web.app import build_app

pytestmark = pytest.mark.processes

#: What a worker waits for the processor, and the shortest lease that this allows (s).
IMPATIENT = {"STRIPE_CONNECT_TIMEOUT_S": "0.5", "STRIPE_READ_TIMEOUT_S": "1.5", "DUECOURSE_LEASE_S": "4.5"}
DRAMATIQ = ["-m", "dramatiq", "workers.actors", "--processes", "1", "--threads", "4", "--skip-logging"]
OCTOBER_31 = datetime(2026, 10, 31, 12, tzinfo=UTC)
NOVEMBER_1 = datetime(2026, 11, 1, tzinfo=UTC)
OWED = {"anna": 29_85, "bert": 11_30, "carl": 7_07}

#: One of each kind: nothing sent, money moved and nothing written, all but written; a month, an event, a look-up.
POINTS = (
    "charge.claimed:2",
    "charge.confirm.sent",
    "record.answer.before_commit",
    "generate.chunk.before_commit",
    "event.apply.before_commit",
)


@dataclass
class Town:
    """People with cards and fees, and everything but workers."""

    world: World
    people: dict[str, Account]
    environment: dict[str, str]
    logs: Path

    def worker(self, **armed: str) -> Restarted:
        command = [sys.executable, *DRAMATIQ, "--queues", *QUEUES]
        name = f"worker-{len(list(self.logs.glob('worker-*.log')))}.log"
        return Restarted(command, {**self.environment, **armed}, self.logs / name).start()

    def move_clock(self, to: datetime) -> None:
        self.world.clock.set(to)
        with self.world.engine.begin() as connection:
            set_clock(connection, to, self.world.policy)

    def has_applied_all_events(self) -> bool:
        """A worker that dies with an event in hand keeps it from the next for 20 s: one test waits for that."""
        return self.world.simulator.webhook_stats().pending == 0 and self._open_events() == 0

    def is_quiet(self) -> bool:
        """Nothing to do, nothing open, and nothing that backs off for some seconds."""
        world = self.world
        if not self.has_applied_all_events():
            return False
        with world.engine.connect() as connection:
            unpaid = connection.scalar(text("SELECT count(*) FROM payments WHERE state <> 'paid'"))
            return not unpaid and not pending_work(connection, world.policy, world.clock.now(), machine_now())

    def _open_events(self) -> int:
        with self.world.engine.connect() as connection:
            return int(
                connection.scalar(text("SELECT count(*) FROM stripe_events WHERE state IN ('received', 'trouble')"))
                or 0
            )


@pytest.fixture
def town(engine: Engine, database_url: str, redis_url: str, tmp_path: Path) -> Iterator[Town]:
    broker = make_broker(redis_url)
    with running_world(engine, OCTOBER_31, only("global")) as world:
        with engine.begin() as connection:
            set_clock(connection, OCTOBER_31, world.policy)
        scheduler = SchedulerApp(
            database_url=database_url,
            engine=engine,
            policy=world.policy,
            clock=world.clock,
            machine_now=machine_now,
            enqueue=make_enqueue(broker),
            waiting_in=lambda queue: waiting_messages(broker, queue),
        )
        environment = environment_of(
            DATABASE_URL=database_url,
            REDIS_URL=redis_url,
            DUECOURSE_CLOCK="virtual",
            DUECOURSE_BILLING_FILE=str(ROOT / "billing.toml"),
            STRIPE_API_BASE=world.simulator.url,
            dramatiq_worker_timeout="100",
            **IMPATIENT,
            **{name: json.dumps(value) for name, value in settings_of_web().items()},
        )
        with running(build_app(web_settings(database_url, **settings_of_web()), world.runtime)) as web_url:
            world.simulator.add_webhook_endpoint(
                "global", f"{web_url}/webhooks/stripe/global", secret_of("global"), sorted(HANDLED_EVENT_TYPES)
            )
            scheduler.start(tick_interval_s=0.3, sweep_interval_s=0.3)
            try:
                yield Town(world, _people(world), environment, tmp_path)
            finally:
                scheduler.stop()
                broker.close()


def _people(world: World) -> dict[str, Account]:
    """Carl's card is told by a webhook only."""
    people = {}
    for name, amount in OWED.items():
        account = people[name] = world.account(name)
        token = world.simulator.make_card("global").token
        (world.register_card if name == "carl" else world.add_primary_card)(account, token)
        with world.engine.begin() as connection:
            add_fee(connection, account, amount, "2026-10")
    return people


@pytest.mark.parametrize("point", POINTS)
def test_next_worker_recovers_from_a_killed_one(town: Town, point: str) -> None:
    world = town.world
    dying = town.worker(DUECOURSE_CRASH_AT=point)
    living = None
    try:
        if not point.startswith("event."):
            wait_until(town.has_applied_all_events, PATIENCE_S)
        town.move_clock(NOVEMBER_1)
        wait_until(lambda: dying.process.poll() is not None, PATIENCE_S)
        assert f"failpoint {point.partition(':')[0]}" in dying.said()
        living = town.worker()
        wait_until(town.is_quiet, PATIENCE_S)
    finally:
        for worker in (dying, living):
            if worker is not None:
                worker.kill()
                print(worker.said()[-3000:])

    charged = sorted(line.amount for line in world.simulator.iter_ledger())
    assert charged == sorted(OWED.values())
    with world.engine.connect() as connection:
        booked = connection.execute(text("SELECT amount_minor FROM receipts ORDER BY 1")).scalars().all()
    assert booked == charged
    report = verify(
        world.engine,
        Scope(now=world.clock.now(), machine_now=machine_now(), forgotten_after=timedelta(0)),
        gateways=world.runtime.gateways,
        coverages=world.policy.coverages,
    )
    assert report.is_clean, [one.breaks for one in report.results if not one.holds]
    assert report.open_findings == 0


def test_failpoints_of_real_kills_exist() -> None:
    assert {point.partition(":")[0] for point in POINTS} <= set(Failpoint)
