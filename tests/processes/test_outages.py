"""Servers and processes restart, freeze and die while a company charges; every card is charged once.

All tests of this file share one company; each uses a month of its own, so that any of them can run alone.
"""

import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import psutil
import psycopg
import pytest
import redis

from shared.domain.calendar import Period
from simulator.issuer.stories import Pays
from tests.processes.conftest import RunningCompany

pytestmark = pytest.mark.processes

#: Long enough to hit a charge on its way, well below the read timeout (ms).
LATENCY_MS = 250
#: Above the lease of this company (9 s).
PAST_THE_LEASE_S = 10.0


def wait_for_charges_in_flight(company: RunningCompany, period: Period) -> None:
    company.wait_until(lambda: company.paid(period) >= 4 and company.in_flight() >= 4, "several in flight")


def postmaster_of(company: RunningCompany) -> int:
    with psycopg.connect(company.stack.environment["DATABASE_URL"]) as connection:
        return psutil.Process(connection.info.backend_pid).ppid()


def valkey_of(company: RunningCompany) -> int:
    with redis.Redis.from_url(company.stack.environment["REDIS_URL"]) as client:
        return int(client.info("server")["process_id"])  # type: ignore[index]


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT], ids=["restarted", "crashed"])
def test_postgresql_restarts_while_charging(company: RunningCompany, number: signal.Signals) -> None:
    if company.has_given_database:
        pytest.skip("the server at DATABASE_URL isn't ours to stop")
    company.add_fees(company.good_customers[:40])
    company.set_latency(LATENCY_MS)
    period = company.end_month()
    wait_for_charges_in_flight(company, period)
    before = postmaster_of(company)
    os.kill(before, number)  # SIGINT: fast shutdown, SIGQUIT: like a crash; the guard restarts it

    def is_another() -> bool:
        with contextlib.suppress(psycopg.OperationalError, psutil.Error):
            return postmaster_of(company) != before
        return False

    company.wait_until(is_another, "PostgreSQL is back")
    company.set_latency(0)
    company.wait_for_no_pending_work()
    company.assert_each_paid_once(period, 40)


def test_web_answers_while_redis_is_frozen_during_charging(company: RunningCompany) -> None:
    if company.has_given_redis:
        pytest.skip("the server at REDIS_URL isn't ours to freeze")
    company.add_fees(company.good_customers[:40])
    company.set_latency(LATENCY_MS)
    period = company.end_month()
    wait_for_charges_in_flight(company, period)
    with frozen(valkey_of(company)):
        company.wait_until(lambda: company.in_flight() == 0, "the charges in hand are recorded without it")
        assert httpx.get(f"{company.stack.web_url}/readyz", timeout=30, trust_env=False).status_code == 200
    company.set_latency(0)
    company.wait_for_no_pending_work()
    company.assert_each_paid_once(period, 40)


def test_a_worker_frozen_past_its_leases_charges_nothing_again(company: RunningCompany) -> None:
    company.add_fees(company.good_customers[:20])
    company.set_latency(LATENCY_MS)
    period = company.end_month()
    wait_for_charges_in_flight(company, period)
    master = company.supervisor.pid_of("worker-batch")
    assert master is not None
    os.killpg(master, signal.SIGSTOP)
    try:
        time.sleep(PAST_THE_LEASE_S)  # its leases are counted in seconds of this machine
    finally:
        os.killpg(master, signal.SIGCONT)
    company.set_latency(0)
    company.wait_for_no_pending_work()
    company.assert_each_paid_once(period, 20)


def test_web_is_killed_repeatedly_while_customers_register_cards(company: RunningCompany) -> None:
    names = company.good_customers[:30]
    before = company.scalar("SELECT count(*) FROM card_registrations")
    rows = company.rows(
        "SELECT s.id, s.stripe_customer_id FROM payment_settings s JOIN accounts a ON a.id = s.account_id"
        " WHERE a.external_id = ANY(:names) ORDER BY 1",
        names=names,
    )
    with company.simulator() as simulator:
        for number, row in enumerate(rows):
            card = simulator.make_card("global", Pays())
            metadata = {"duecourse_settings_id": str(row.id), "duecourse_intent": "replace"}
            simulator.register_card("global", row.stripe_customer_id, card.token, metadata)
            if number % 10 == 5:
                company.kill("web")
    company.wait_until(
        lambda: company.scalar("SELECT count(*) FROM card_registrations") == before + len(names),
        "each webhook came, or came again",
    )
    assert company.scalar("SELECT count(*) FROM stripe_events WHERE state = 'trouble'") == 0


def test_any_process_is_killed_at_any_moment_of_a_month(company: RunningCompany) -> None:
    chance = random.Random(7)
    company.add_fees(company.good_customers[:60])
    company.set_latency(100)
    period = company.end_month()
    for _ in range(8):
        time.sleep(chance.uniform(0.1, 1.0))  # any moment will do
        company.kill(chance.choice(["worker-batch", "worker-batch", "scheduler", "worker-interactive", "web"]))
    company.set_latency(0)
    company.wait_for_no_pending_work(within_s=120)  # each kill of a process doubles the pause before its restart
    company.assert_each_paid_once(period, 60)
