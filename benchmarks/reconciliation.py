"""Does a night's reconciliation find what is planted among 100,000 payments, all of it and nothing else?

    python -m benchmarks.reconciliation [PAYMENTS=100000]

Plants each of the six kinds 20 times, and beside them what must not be found: declined payments, charges whose
attempt is still open, charges that the processor's clock puts outside the window, a stranger's charges. Our records
are written with set-based SQL, the processor's straight into its store; then the worker's own use case reconciles
over HTTP, in a process of its own, whose peak memory is measured. Exit code 1 unless what was found is exactly what
was planted.
"""

import hashlib
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import Engine, create_engine, text

from local import embedded
from shared.clock import ManualClock, machine_now
from shared.db.billing_events import Cause
from shared.db.session import in_transaction
from shared.domain.schedule import DueRun
from shared.domain.states import RunState
from shared.gateway.stripe_gateway import StripeGateway
from shared.messaging.jobs import RECONCILIATION, Job
from shared.policy import load_policy
from shared.runtime import Runtime
from shared.scheduling.runs import insert_run
from simulator.client import SimulatorClient
from simulator.store.records import Charge, PaymentIntent
from simulator.store.store import Store
from tests.conftest import sqlalchemy_url, upgrade
from workers.use_cases.reconcile_charges import reconcile_charges

BILLING = Path(__file__).resolve().parent.parent / "billing.toml"
#: When the first of a month begins to be charged, for 20 hours, and the night after it.
BEGINS = datetime(2026, 11, 1, 5, tzinfo=UTC)
NIGHT = datetime(2026, 11, 2, 4, tzinfo=UTC)
PLANTED = 20
#: Which payments (by number, from 1) are planted with what.
OPEN_HERE = range(1, 21)
AMOUNT_THERE, CURRENCY_THERE, AMOUNT_BOOKED = range(21, 31), range(31, 36), range(36, 41)
NO_CHARGE, NO_RECEIPT = range(41, 51), range(51, 61)
TWICE = range(61, 81)
ORPHAN, LOST_CREATE = range(81, 91), range(91, 101)
#: What must not be found: attempts under way, declines, charges beyond the listed window.
UNDER_WAY, DECLINED, CLOCK_DIFFERS = range(101, 301), range(301, 1301), range(1301, 1401)
STRANGERS = 500

RECORDS = """
    INSERT INTO accounts (id, external_id, name)
        SELECT md5('account' || n)::uuid, 'A' || n, 'Account ' || n FROM generate_series(1, :payments) n;
    INSERT INTO payment_settings (id, account_id, coverage, kind, stripe_customer_id)
        SELECT md5('settings' || n)::uuid, md5('account' || n)::uuid, 'global', 'card', 'cus_' || n
        FROM generate_series(1, :payments) n;
    INSERT INTO payments (id, kind, account_id, settings_id, coverage, currency, amount_minor, state, state_reason,
                          lane, trigger, due_on, next_attempt_at, paid_at, attempt_count)
        SELECT md5('payment' || n)::uuid, 'monthly', md5('account' || n)::uuid, md5('settings' || n)::uuid,
               'global', 'USD', 1000 + n % 9000, CASE WHEN is_open THEN 'retry_scheduled' ELSE 'paid' END,
               'benchmark', 'batch', 'month_start', '2026-11-01',
               CASE WHEN is_open THEN timestamptz '2026-12-01' END,
               CASE WHEN NOT is_open THEN at END, 1
        FROM plan;
    INSERT INTO payment_intents (id, payment_id, ordinal, coverage, amount_minor, currency, stripe_customer_id,
                                 stripe_payment_intent_id, api_version, first_sent_at, status, closed_reason,
                                 closed_at)
        SELECT md5('intent' || n)::uuid, md5('payment' || n)::uuid, CASE WHEN is_lost_create THEN 2 ELSE 1 END,
               'global', 1000 + n % 9000, 'USD', 'cus_' || n, 'pi_' || n, 'benchmark', at,
               CASE WHEN is_open THEN 'requires_payment_method' ELSE 'succeeded' END,
               CASE WHEN NOT is_open THEN 'succeeded' END, CASE WHEN NOT is_open THEN at END
        FROM plan WHERE NOT has_no_receipt;
    INSERT INTO payment_intents (payment_id, ordinal, coverage, amount_minor, currency, stripe_customer_id,
                                 api_version, first_sent_at, closed_reason, closed_at)
        SELECT md5('payment' || n)::uuid, 1, 'global', 1000 + n % 9000, 'USD', 'cus_' || n, 'benchmark', at,
               'abandoned', at
        FROM plan WHERE is_lost_create;
    INSERT INTO payment_attempts (payment_id, number, kind, state, payment_intent_id, coverage, trigger, lane,
                                  card_revision, started_at, lease_expires_at, finished_at, look_up_at)
        SELECT md5('payment' || n)::uuid, 1, 'charge',
               CASE WHEN is_under_way THEN 'unknown' WHEN is_declined THEN 'declined' WHEN is_open THEN 'not_sent'
                    ELSE 'succeeded' END,
               md5('intent' || n)::uuid, 'global', 'month_start', 'batch', 1, at, at + interval '5 minutes',
               CASE WHEN NOT is_under_way THEN at END, CASE WHEN is_under_way THEN at + interval '1 hour' END
        FROM plan WHERE NOT has_no_receipt;
    INSERT INTO receipts (payment_id, coverage, stripe_charge_id, amount_minor, currency, received_at)
        SELECT md5('payment' || n)::uuid, 'global', 'ch_' || n, 1000 + n % 9000 + extra_booked, 'USD', at
        FROM plan WHERE NOT is_open AND NOT has_no_receipt
"""
PLAN = """
    CREATE TABLE plan AS
    SELECT n, timestamptz '2026-11-01 05:00:00Z' + n % 72000 * interval '1 second' AS at,
           n BETWEEN 1 AND 20 OR n BETWEEN 101 AND 1300 AS is_open, n BETWEEN 101 AND 300 AS is_under_way,
           n BETWEEN 301 AND 1300 AS is_declined, n BETWEEN 51 AND 60 AS has_no_receipt,
           n BETWEEN 91 AND 100 AS is_lost_create, CASE WHEN n BETWEEN 36 AND 40 THEN 1 ELSE 0 END AS extra_booked
    FROM generate_series(1, :payments) n
"""


@dataclass(frozen=True)
class Measured:
    """What the reconciling process says of itself. Memory in MB: at its begin, and at most."""

    seconds: float
    cpu_s: float
    memory_mb: float
    peak_mb: float
    counts: dict[str, Any]


def main(payments: int) -> None:
    if payments < CLOCK_DIFFERS.stop:
        raise SystemExit(f"at least {CLOCK_DIFFERS.stop:,} payments: the planted ones are among the first")
    with tempfile.TemporaryDirectory(prefix="duecourse-benchmark-") as folder:
        Path(folder).chmod(0o755)  # as root the servers run as another user, who must enter
        data = Path(folder) / "servers"
        with embedded.resolve(data, os.environ) as urls:
            upgrade(urls.database_url)
            engine = create_engine(sqlalchemy_url(urls.database_url))
            write_our_books(engine, payments)
            planted = write_their_books(Path(folder) / "simulator", payments)
            with running_simulator(Path(folder) / "simulator") as simulator:
                measured = reconcile_in_a_process(engine, urls.database_url, simulator.url)
                requests = sum(simulator.request_counts().values())
            is_exact = report(engine, payments, planted, measured, requests)
            engine.dispose()
        embedded.erase(data)
    raise SystemExit(0 if is_exact else 1)


# -- the records


def write_our_books(engine: Engine, payments: int) -> None:
    with engine.begin() as connection:
        for statement in [PLAN, *RECORDS.split(";")]:
            parameters = {"payments": payments} if ":payments" in statement else {}
            connection.execute(text(statement.replace("::uuid", "\\:\\:uuid")), parameters)
        connection.execute(text("DROP TABLE plan"))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))
        connection.execute(text("CHECKPOINT"))


def write_their_books(folder: Path, payments: int) -> dict[str, set[str]]:
    """Fill the simulator's store; return the subjects that must be found, by kind."""
    planted: dict[str, set[str]] = {
        "paid_there_open_here": {f"ch_{n}" for n in OPEN_HERE},
        "amount_differs": {f"ch_{n}" for n in (*AMOUNT_THERE, *CURRENCY_THERE, *AMOUNT_BOOKED)},
        "charge_without_payment": {f"ch_nobody{n}" for n in range(PLANTED)},
        "paid_without_charge": {f"ch_{n}" for n in NO_CHARGE} | {str(payment_id(n)) for n in NO_RECEIPT},
        "paid_more_than_once": {f"ch_second{n}" for n in TWICE},
        "orphan_payment_intent": {f"pi_orphan{n}" for n in (*ORPHAN, *LOST_CREATE)},
    }
    assert all(len(subjects) == PLANTED for subjects in planted.values())
    store = Store(folder)
    with store.transaction():
        for n in range(1, payments + 1):
            if n in NO_CHARGE or n in NO_RECEIPT:
                continue
            amount = 1_000 + n % 9_000 + (1 if n in AMOUNT_THERE else 0)
            currency = "eur" if n in CURRENCY_THERE else "usd"
            charge(store, f"{n}", n, amount, metadata(n, 2 if n in LOST_CREATE else 1), currency)
        for n in range(PLANTED):
            said = {} if n % 2 else {**metadata(n, 1), "duecourse_payment_id": str(payment_id(-n - 1))}
            charge(store, f"nobody{n}", n + 1, 5_00, said)
        for n in TWICE:
            charge(store, f"second{n}", n, 1_000 + n % 9_000, metadata(n, 1))
        for n in (*ORPHAN, *LOST_CREATE):
            intent(store, f"orphan{n}", n, 1_000 + n % 9_000, metadata(n, 1), "requires_payment_method")
        for n in range(STRANGERS):
            charge(store, f"stranger{n}", n, 7_00, {}, customer=f"cus_stranger{n}")
    store.close()
    return planted


def charge(
    store: Store,
    name: str,
    n: int,
    amount: int,
    said: dict[str, str],
    currency: str = "usd",
    customer: str | None = None,
) -> None:
    """A charge and its PaymentIntent; both succeeded, unless it is one of the declined."""
    is_declined = name == str(n) and n in DECLINED
    store.add(
        Charge(
            id=f"ch_{name}",
            account="global",
            created=made_at(n),
            amount=amount,
            currency=currency,
            status="failed" if is_declined else "succeeded",
            captured=not is_declined,
            amount_captured=0 if is_declined else amount,
            customer=customer or f"cus_{n}",
            payment_intent=f"pi_{name}",
            payment_method="pm_benchmark",
            brand="visa",
            last4="4242",
            exp_month=12,
            exp_year=2034,
            fingerprint="fp_benchmark",
            outcome={},
            metadata=said,
        )
    )
    status = "requires_payment_method" if is_declined else "succeeded"
    intent(store, name, n, amount, said, status, currency, customer, latest_charge=f"ch_{name}")


def intent(
    store: Store,
    name: str,
    n: int,
    amount: int,
    said: dict[str, str],
    status: str,
    currency: str = "usd",
    customer: str | None = None,
    latest_charge: str | None = None,
) -> None:
    store.add(
        PaymentIntent(
            id=f"pi_{name}",
            account="global",
            created=made_at(n),
            amount=amount,
            currency=currency,
            status=status,
            customer=customer or f"cus_{n}",
            amount_received=amount if status == "succeeded" else 0,
            latest_charge=latest_charge,
            metadata=said,
        )
    )


def made_at(n: int) -> int:
    """When the processor says it was made, s; some of its clocks are two hours beyond the window."""
    at = NIGHT + timedelta(hours=2) if n in CLOCK_DIFFERS else BEGINS + timedelta(seconds=n % 72_000)
    return int(at.timestamp())


def payment_id(n: int) -> UUID:
    return UUID(hashlib.md5(f"payment{n}".encode(), usedforsecurity=False).hexdigest())


def metadata(n: int, ordinal: int) -> dict[str, str]:
    return {
        "duecourse_payment_id": str(payment_id(n)),
        "duecourse_ordinal": str(ordinal),
        "duecourse_coverage": "global",
    }


# -- the night


@contextmanager
def running_simulator(folder: Path) -> Iterator[SimulatorClient]:
    """The simulator as a process, as in production of a demo."""
    process = subprocess.Popen(
        [sys.executable, "-m", "simulator", "--data", str(folder)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        ready = next(line for line in process.stdout if "simulator ready on" in line)
        with SimulatorClient(ready.split()[-1], timeout_s=60) as client:
            yield client
    finally:
        process.terminate()
        process.wait(timeout=30)


def reconcile_in_a_process(engine: Engine, database_url: str, simulator_url: str) -> Measured:
    due = DueRun(RECONCILIATION, str(NIGHT.date()), "global", NIGHT, RunState.READY)
    run_id = in_transaction(engine, lambda connection: insert_run(connection, due, Cause("scheduler", NIGHT)))
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=reconcile, args=(database_url, simulator_url, run_id, theirs))
    process.start()
    theirs.close()
    measured: Measured = ours.recv()
    process.join()
    return measured


def reconcile(database_url: str, simulator_url: str, run_id: UUID, answer: Any) -> None:
    """What a worker does with the run's messages, until it is finished. Runs in the measured process."""
    engine = create_engine(sqlalchemy_url(database_url))
    gateway = StripeGateway(
        "sk_test_sim_global",
        api_base=simulator_url,
        requests_per_s=100_000,
        connect_timeout_s=5,
        read_timeout_s=30,
    )
    enqueued: list[Job] = []
    runtime = Runtime(
        load_policy(BILLING),
        engine,
        ManualClock(NIGHT),
        machine_now,
        {"global": gateway},
        lambda jobs: enqueued.extend(jobs) is None,
        timedelta(minutes=5),
    )
    memory_mb, began, cpu_began_s = memory("VmRSS"), time.perf_counter(), time.process_time()
    reconcile_charges(runtime, run_id)
    while enqueued:
        enqueued.clear()
        reconcile_charges(runtime, run_id)
    seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu_began_s
    with engine.connect() as connection:
        run = connection.execute(text("SELECT * FROM runs WHERE id = :id"), {"id": run_id}).one()
    if run.state != "finished":
        raise SystemExit(f"the run is {run.state}: {run.trouble}")
    answer.send(Measured(seconds, cpu_s, memory_mb, memory("VmHWM"), dict(run.counts)))


def memory(field: str) -> float:
    """MB of this process, as the kernel counts them."""
    said = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(said[1]) / 1024 if said else 0.0


# -- the report


def report(engine: Engine, payments: int, planted: dict[str, set[str]], measured: Measured, requests: int) -> bool:
    found: dict[str, set[str]] = {kind: set() for kind in planted}
    mended_or_canceled: Counter[str] = Counter()
    with engine.connect() as connection:
        for row in connection.execute(text("SELECT kind, subject, resolved_at FROM findings")):
            found.setdefault(row.kind, set()).add(row.subject)
            mended_or_canceled[row.kind] += row.resolved_at is not None
        left = connection.scalar(text("SELECT count(*) FROM listed_charges"))
    print(f"payments            {payments:,}; charges at the processor {measured.counts['charges']:,}")
    is_exact = left == 0
    for kind, subjects in planted.items():
        right, wrong = len(found[kind] & subjects), len(found[kind] - subjects)
        is_exact &= right == PLANTED and wrong == 0
        by_itself = f", {mended_or_canceled[kind]} put right by itself" if mended_or_canceled[kind] else ""
        print(f"  {kind:24} planted {PLANTED}, found {right}, false {wrong}{by_itself}")
    unexpected = sum(len(subjects) for kind, subjects in found.items() if kind not in planted)
    print(f"  of other kinds           {unexpected}")
    print(f"not findings        {_plain(measured.counts)}")
    print(
        f"time                {measured.seconds:.1f} s = {payments / measured.seconds:,.0f} payments/s; "
        f"{measured.cpu_s:.0f} s of CPU in the reconciling process\n"
        f"requests            {requests:,}; at 20 a second, our default for Stripe, {requests / 20:,.0f} s"
    )
    print(
        f"memory              {measured.peak_mb:.0f} MB at most, {measured.memory_mb:.0f} MB before the first page"
    )
    print("exact" if is_exact and not unexpected else "NOT EXACT")
    return bool(is_exact and not unexpected)


def _plain(counts: dict[str, Any]) -> str:
    shown = (
        "agrees",
        "foreign",
        "on_their_way",
        "receipts_looked_up",
        "unpaid_looked_up",
        "mended",
        "orphans_canceled",
    )
    return ", ".join(f"{name.replace('_', ' ')} {counts.get(name, 0):,}" for name in shown)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
