"""A Valkey of our own under real workers: killed with its file and without, frozen, paused, full, stopped."""

import contextlib
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest
import redis
from dramatiq.brokers.redis import RedisBroker
from structlog.testing import capture_logs

from local import embedded
from scheduler.sweep import PATIENCE, Sweep
from shared.db.query_terms import Moment
from shared.domain.states import Lane
from shared.messaging.broker import enqueue, make_broker, make_enqueue, waiting_messages
from shared.messaging.jobs import BATCH, ChargePayment, SettleAttempt
from simulator.issuer.stories import Pays
from tests.broker.conftest import _soon, add_actor, eventually, running_worker  # noqa: F401  # a fixture
from tests.broker.line import Line
from tests.world import World
from workers.use_cases.charge_payment import charge_payment

#: What commands wait for an answer here, where processes wait 10 s.
SOCKET_TIMEOUT_S = 0.5


class OwnValkey:
    """A Valkey server of this test; its guard restarts it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client: redis.Redis = redis.Redis.from_url(url, socket_timeout=5)

    @property
    def pid(self) -> int:
        return int(self.client.info("server")["process_id"])  # type: ignore[index]

    def kill(self) -> None:
        """kill -9, and wait until another one answers."""
        killed = self.pid
        os.kill(killed, signal.SIGKILL)

        def is_back() -> bool:
            with contextlib.suppress(redis.RedisError):
                return self.client.info("server")["process_id"] != killed  # type: ignore[index]
            return False

        eventually(is_back, "the guard started it again", within_s=60)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """SIGSTOP: connections stand, and nobody answers."""
        pid = self.pid
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)


@pytest.fixture(params=[True, False], ids=["with its file", "without its file"])
def valkey(request: pytest.FixtureRequest) -> Iterator[OwnValkey]:
    # Not pytest's folder: each of its sessions closes it to the user that servers run as under root.
    with tempfile.TemporaryDirectory(prefix="duecourse-tests-") as folder:
        Path(folder).chmod(0o755)
        with embedded.servers(Path(folder) / "servers", durable=request.param, want_postgres=False) as urls:
            yield OwnValkey(urls.redis_url)


only_one = pytest.mark.parametrize("valkey", [False], indirect=True, ids=["any"])


class Shop:
    """Payments, workers on threads and a sweep, all at one Valkey."""

    def __init__(self, world: World, redis_url: str) -> None:
        self.world = world
        self.broker = make_impatient_broker(redis_url)
        self._sweep = Sweep(
            world.engine, make_enqueue(self.broker), lambda queue: waiting_messages(self.broker, queue)
        )
        add_actor(self.broker, "charge_payment", BATCH, lambda one: charge_payment(world.runtime, UUID(one)))
        self.owed: list[UUID] = []

    def owe(self, count: int) -> None:
        for _ in range(count):
            account = self.world.account(f"A-{uuid4().hex[:8]}")
            self.world.add_primary_card(account, story=Pays())  # one of its own: budgets are counted per card
            self.owed.append(self.world.add_due_payment(account))

    def sweep(self) -> dict[str, int]:
        self.world.machine.advance(seconds=PATIENCE.total_seconds())
        return self._sweep(Moment(self.world.clock.now(), self.world.machine()))

    def paid(self) -> int:
        return sum(self.world.payment(payment).state == "paid" for payment in self.owed)

    def is_paid(self) -> bool:
        return self.paid() == len(self.owed)

    def sweep_until_paid(self) -> None:
        def is_paid() -> bool:
            self.sweep()
            return self.is_paid()

        eventually(is_paid, "all paid", within_s=60)
        assert [len(self.world.captured_amounts(payment)) for payment in self.owed] == [1] * len(self.owed)


def make_impatient_broker(redis_url: str) -> RedisBroker:
    broker = make_broker(redis_url)
    broker.client.get_connection_kwargs()["socket_timeout"] = SOCKET_TIMEOUT_S
    return broker


def test_killed_valkey_keeps_its_queue_or_the_sweep_refills_it(
    world: World, valkey: OwnValkey, request: pytest.FixtureRequest
) -> None:
    shop = Shop(world, valkey.url)
    shop.owe(4)
    shop.sweep()
    has_file = valkey.client.config_get("appendonly")["appendonly"] == "yes"  # type: ignore[index]
    time.sleep(1.1)  # appendfsync everysec: what is older than a second is on the disk
    valkey.kill()
    assert waiting_messages(shop.broker, BATCH) == (4 if has_file else 0)
    with running_worker(shop.broker, BATCH):
        if has_file:
            eventually(shop.is_paid, "paid without another sweep", within_s=60)
        shop.sweep_until_paid()


@only_one
def test_repeated_kills_and_freezes_of_valkey_charge_each_payment_once(world: World, valkey: OwnValkey) -> None:
    shop = Shop(world, valkey.url)
    world.simulator.set_latency(100)
    shop.owe(40)
    with running_worker(shop.broker, BATCH, threads=2):
        for number in range(4):
            shop.sweep()
            paid = shop.paid()
            eventually(lambda paid=paid: shop.sweep() is not None and shop.paid() > paid, "another is paid", 60)  # type: ignore[misc]
            if number % 2:
                valkey.kill()
            else:
                with valkey.frozen():
                    assert not enqueue(shop.broker, [SettleAttempt(uuid4())]), "given up after the socket's timeout"
        world.simulator.set_latency(0)
        shop.sweep_until_paid()


@only_one
def test_client_pause_of_valkey_times_out_and_recovers(world: World, valkey: OwnValkey) -> None:
    shop = Shop(world, valkey.url)
    shop.owe(3)
    with running_worker(shop.broker, BATCH):
        valkey.client.client_pause(2_000)
        with capture_logs() as logs:
            began = time.monotonic()
            assert shop.sweep() == {}
            assert time.monotonic() - began < 10
        assert {"sweep.doorbell_unreachable"} <= {one["event"] for one in logs}
        shop.sweep_until_paid()


def test_worker_stopped_during_a_redis_outage_finishes_its_charge_without_waiting(
    world: World, redis_url: str
) -> None:
    line = Line(redis_url)
    shop = Shop(world, line.url)
    shop.owe(6)
    shop.sweep()
    begun, may_go_on = threading.Event(), threading.Event()
    broker = make_impatient_broker(line.url)

    def charge(payment_id: str) -> None:
        begun.set()
        assert may_go_on.wait(60)
        charge_payment(world.runtime, UUID(payment_id))

    add_actor(broker, "charge_payment", BATCH, charge)
    with running_worker(broker, BATCH, threads=1) as worker:
        assert begun.wait(60)
        eventually(lambda: worker.work_queue.qsize() == 5, "the others are in its memory")
        line.cut()
        may_go_on.set()
        began = time.monotonic()
        with capture_logs() as logs:
            worker.stop(timeout=40_000)  # raises nothing, so that the process exits with 0
        took_s = time.monotonic() - began
    assert took_s < 20, "of 40 s of grace"
    assert "doorbell.not_told" in {one["event"] for one in logs}
    assert sum(len(world.captured_amounts(payment)) for payment in shop.owed) == 1, "the one in its hand"
    line.repair()
    with running_worker(shop.broker, BATCH):
        shop.sweep_until_paid()
    line.cut()


@only_one
def test_full_valkey_loses_and_doubles_no_charge(world: World, valkey: OwnValkey) -> None:
    shop = Shop(world, valkey.url)
    world.simulator.set_latency(100)
    shop.owe(12)
    shop.sweep()
    with running_worker(shop.broker, BATCH, threads=2):
        eventually(
            lambda: any(world.payment(payment).state == "paid" for payment in shop.owed), "the first is paid"
        )
        valkey.client.config_set("maxmemory", 1)
        assert not enqueue(shop.broker, [ChargePayment(shop.owed[-1], Lane.BATCH)])
        shop.sweep()
        valkey.client.config_set("maxmemory", 0)
        world.simulator.set_latency(0)
        shop.sweep_until_paid()
