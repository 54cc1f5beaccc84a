"""A smaller benchmarks/sigterm.py: a real worker of the Procfile is stopped while both its threads charge."""

import os
import signal
import threading
from collections.abc import Iterator
from uuid import uuid4

import pytest
from sqlalchemy import Engine

from benchmarks.sigterm import THREADS, owe, stop_in_mid_charge, worker_environment
from shared.domain.states import Lane
from shared.messaging.broker import enqueue, make_broker
from shared.messaging.jobs import BATCH, ChargePayment
from simulator.testing import running_simulator
from tests.broker.conftest import add_actor, eventually, running_worker


@pytest.fixture
def told() -> Iterator[list[int]]:
    """What Dramatiq's own handler of this process would have been told."""
    told: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    yield told
    for number, handler in before.items():
        signal.signal(number, handler)


def test_no_thread_begins_a_message_after_sigterm(redis_url: str, told: list[int]) -> None:
    broker = make_broker(redis_url)
    begun: list[str] = []
    may_go_on = threading.Event()

    def work(attempt_id: str) -> None:
        begun.append(attempt_id)
        assert may_go_on.wait(60)

    add_actor(broker, "charge_payment", BATCH, work)
    broker.emit_after("process_boot")  # type: ignore[no-untyped-call]
    enqueue(broker, [ChargePayment(uuid4(), Lane.BATCH) for _ in range(6)])
    with running_worker(broker, BATCH, threads=1) as worker:
        eventually(lambda: len(begun) == 1 and worker.work_queue.qsize() == 5, "one in hand, the others wait", 60)
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        eventually(lambda: told, "the signal came", 60)
        may_go_on.set()
        eventually(lambda: not worker.workers[0].is_alive(), "its thread ends, long before Dramatiq looks", 60)
    assert len(begun) == 1
    assert told == [signal.SIGTERM], "two within moments are one"


@pytest.mark.processes
def test_repeated_sigterm_lets_running_charges_finish_and_no_other_begin(
    engine: Engine, database_url: str, redis_url: str
) -> None:
    with running_simulator() as simulator:
        owe(engine, simulator, 3 * THREADS)
        environment = worker_environment(database_url, redis_url, simulator.url)
        stopped = stop_in_mid_charge(environment, engine, simulator, THREADS, 1_000)
    assert stopped.is_clean, stopped
    assert stopped.in_flight == THREADS
    assert stopped.exit_s < 15, "two answers of a second each; the rest is a busy machine's"
    assert stopped.still_due == 2 * THREADS
