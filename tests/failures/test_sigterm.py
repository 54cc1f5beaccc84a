"""The proof of benchmarks/sigterm.py, smaller: a real worker of the Procfile is stopped with both hands full."""

import pytest
from sqlalchemy import Engine

from benchmarks.sigterm import THREADS, owe, stop_in_mid_charge, worker_environment
from simulator.testing import running_simulator

pytestmark = pytest.mark.processes


def test_two_signals_within_a_second_let_each_charge_in_hand_finish_and_no_other_begin(
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
