"""Processes are killed, stopped and disconnected while charging; every card is charged once, without intervention.

All tests of this file share one company; each uses a month of its own, so that any of them can run alone.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit

import psutil
import pytest
from sqlalchemy import text

from shared.domain.calendar import Period
from tests.processes.conftest import ACCOUNTS, BAD_CARDS, ROOT, RunningCompany, terminate_backends

pytestmark = pytest.mark.processes

#: Long enough to hit a charge on its way, well below the read timeout (ms).
LATENCY_MS = 250


def wait_for_charges_in_flight(company: RunningCompany, period: Period, paid: int) -> None:
    """Wait until a few payments are paid and several charges are in flight."""
    company.wait_until(
        lambda: company.paid(period) >= paid and company.in_flight() >= 4, f"{paid} paid, several in flight"
    )


@contextmanager
def lines_locked(company: RunningCompany) -> Iterator[None]:
    """Lock the invoice lines: a chunk of invoices waits in the middle of its transaction."""
    with company.engine.connect() as connection:
        connection.execute(text("LOCK TABLE invoice_lines IN SHARE MODE"))
        yield
        connection.rollback()


def is_waiting_for_lines(company: RunningCompany) -> bool:
    waiting = company.scalar(
        "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = CAST('invoice_lines' AS regclass)"
    )
    return waiting > 0


def test_invoicing_worker_charging_worker_and_scheduler_are_killed_once_each(company: RunningCompany) -> None:
    company.import_fees(company.customers)
    restarts = {name: company.supervisor.restarts(name) for name in ("worker-batch", "scheduler")}
    company.set_latency(LATENCY_MS)

    with lines_locked(company):
        period = company.end_month()
        company.wait_until(lambda: is_waiting_for_lines(company), "the month start is in the middle of a chunk")
        company.kill("worker-batch")
        company.wait_until(
            lambda: company.supervisor.restarts("worker-batch") == restarts["worker-batch"] + 1, "a new worker"
        )

    wait_for_charges_in_flight(company, period, paid=16)
    left_open = company.rows("SELECT id FROM payment_attempts WHERE state = 'started'")
    company.kill("worker-batch")
    company.wait_until(lambda: company.paid(period) >= 40, "the new worker charges")
    company.kill("scheduler")
    company.set_latency(0)
    company.wait_for_no_pending_work()

    assert left_open, "the second kill hit nothing"
    company.assert_each_paid_once(period, ACCOUNTS, unpaid=len(BAD_CARDS))
    assert company.supervisor.restarts("worker-batch") == restarts["worker-batch"] + 2
    assert company.supervisor.restarts("scheduler") == restarts["scheduler"] + 1
    states = {payment.external_id[-3:]: payment.state for payment in company.payments(period)}
    assert [states[f"{number:03d}"] for number in range(4)] == [
        "retry_scheduled",
        "needs_payment_method",
        "needs_payment_method",
        "needs_authentication",
    ]
    fees = company.scalar("SELECT count(*) FROM fees WHERE invoice_id IS NULL AND period = :p", p=period.first_day)
    assert fees == 0, "a fee was forgotten"
    company.duecourse("verify")  # exits 1 on any break, which stops the test here with its table


def test_a_worker_with_two_stop_signals_finishes_its_charges(company: RunningCompany) -> None:
    company.add_fees(company.good_customers[:40])
    unknown = "SELECT count(*) FROM billing_events WHERE type = 'attempt_became_unknown'"
    before, restarts = company.scalar(unknown), company.supervisor.restarts("worker-batch")
    company.set_latency(1_000)
    period = company.end_month()
    wait_for_charges_in_flight(company, period, paid=1)

    pid = company.supervisor.pid_of("worker-batch")
    assert pid is not None
    in_hand = [row.id for row in company.rows("SELECT id FROM payment_attempts WHERE state = 'started'")]
    began = time.monotonic()
    os.killpg(pid, signal.SIGTERM)  # the master and its worker process; the master passes it on to the latter
    time.sleep(0.3)
    os.kill(pid, signal.SIGTERM)
    company.wait_until(
        lambda: company.supervisor.restarts("worker-batch") == restarts + 1, "it ended, and is back", 40
    )
    took_s = time.monotonic() - began

    assert company.supervisor.exit_codes()["worker-batch"] == 0
    answered = company.rows(
        "SELECT state, lease_expires_at - started_at FROM payment_attempts WHERE id = ANY(:ids)", ids=in_hand
    )
    assert {row.state for row in answered} == {"succeeded"}, f"after {took_s:.1f} s"
    company.set_latency(0)
    company.wait_for_no_pending_work()
    assert company.scalar(unknown) == before, "none was cut short"
    assert "Killing worker process" not in (company.data / "logs" / "worker-batch.log").read_text()
    company.assert_each_paid_once(period, 40)


#: The sessions of schedulers; each has one of these, whether it leads or not.
SESSIONS = """
    SELECT client_port FROM pg_stat_activity
    WHERE application_name = 'duecourse-scheduler' AND datname = current_database()
"""
LEADS = f"{SESSIONS} AND pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted)"


def leader_pid(company: RunningCompany, schedulers: Sequence[int]) -> int | None:
    """Return the leading scheduler: the one with the leader's session."""
    ports = {row.client_port for row in company.rows(LEADS)}
    for pid in schedulers:
        with contextlib.suppress(psutil.Error):
            if ports & {one.laddr.port for one in psutil.Process(pid).net_connections("tcp") if one.laddr}:
                return pid
    return None


def test_the_second_scheduler_takes_over_when_the_leader_is_killed_at_the_month_change(
    company: RunningCompany,
) -> None:
    company.add_fees(company.good_customers[:12])
    environment = {**os.environ, **company.stack.environment}
    with (company.data / "logs" / "second-scheduler.log").open("wb") as log:
        second = subprocess.Popen(
            [sys.executable, "-m", "scheduler"], cwd=ROOT, env=environment, stdout=log, stderr=log
        )
    try:
        first = company.supervisor.pid_of("scheduler")
        assert first is not None
        company.wait_until(lambda: len(company.rows(SESSIONS)) == 2, "two schedulers")
        assert leader_pid(company, [first, second.pid]) == first
        period = company.end_month()
        os.kill(first, signal.SIGKILL)
        began = time.monotonic()
        company.wait_until(lambda: leader_pid(company, [second.pid]), "the second leads")
        assert time.monotonic() - began < 5
        company.wait_for_no_pending_work()
        runs = company.rows(
            "SELECT coverage, state FROM runs WHERE job = 'monthly-invoices' AND period = :period ORDER BY 1",
            period=str(period),
        )
        assert [(run.coverage, run.state) for run in runs] == [("global", "finished"), ("japan", "finished")]
        company.assert_each_paid_once(period, 12)
    finally:
        second.kill()
        second.wait()
    company.wait_until(lambda: company.rows(LEADS), "the company's own scheduler leads again")


def test_redis_is_killed_while_charging(company: RunningCompany) -> None:
    if company.has_given_redis:
        pytest.skip("the server at REDIS_URL isn't ours to kill")
    port = urlsplit(company.stack.environment["REDIS_URL"]).port
    (server,) = {
        one.pid
        for one in psutil.net_connections("tcp")
        if one.status == psutil.CONN_LISTEN and one.laddr.port == port and one.pid
    }
    company.add_fees(company.good_customers[:40])
    company.set_latency(LATENCY_MS)
    period = company.end_month()
    wait_for_charges_in_flight(company, period, paid=4)
    os.kill(server, signal.SIGKILL)
    company.set_latency(0)
    company.wait_for_no_pending_work()
    company.assert_each_paid_once(period, 40)


def test_all_database_sessions_are_terminated_while_charging(company: RunningCompany) -> None:
    company.add_fees(company.good_customers[:40])
    company.set_latency(LATENCY_MS)
    period = company.end_month()
    wait_for_charges_in_flight(company, period, paid=4)
    assert terminate_backends(company.stack.environment["DATABASE_URL"]) > 4
    time.sleep(LATENCY_MS / 1000)  # those that come back now are hit as well
    terminate_backends(company.stack.environment["DATABASE_URL"])
    company.set_latency(0)
    company.wait_for_no_pending_work()
    company.assert_each_paid_once(period, 40)
