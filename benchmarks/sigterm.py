"""Stop the charging workers in mid-charge, twice within a second as Procfile runners do, and look what is left.

python -m benchmarks.sigterm [IN_FLIGHT=50] [LATENCY_MS=1500]

The worker line of the Procfile with as many processes as it takes, on embedded servers of their own; the simulator
answers each request after LATENCY_MS. Exits 1 unless every charge in hand was recorded, no thread began another one
after the signal, none was made twice, and everything else is still due.
"""

import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import Engine, create_engine, insert, select, text, update

from benchmarks.company import PROJECT
from local import embedded
from local.supervisor import read_procfile
from shared.db.tables.accounts import accounts, cards, payment_settings
from shared.db.tables.payments import payments
from shared.domain.states import Lane, PaymentKind, PaymentState, SettingsKind, Trigger
from shared.gateway.stripe_gateway import StripeGateway
from shared.messaging.broker import enqueue, make_broker
from shared.messaging.jobs import ChargePayment
from shared.settings import with_driver
from simulator.client import SimulatorClient
from simulator.testing import running_simulator

#: Threads of one worker process; see the Procfile.
THREADS = 8
#: What supervisors give a worker before they kill it (s).
GRACE_S = 45.0
#: Between the two signals (s).
APART_S = 0.3
#: What a busy machine may take until all threads are charging (s).
PATIENCE_S = 120.0
COVERAGE = "global"


@dataclass(frozen=True)
class Stopped:
    """What a stop left behind. Counts are of payments and attempts; seconds from the first signal."""

    threads: int
    in_flight: int
    exit_code: int
    exit_s: float
    recorded: int  # of those in flight: their outcome is in the records
    unknown_left: int  # attempts without an outcome
    begun_after_the_signal: int  # by threads that had their message in hand, and their claim before them
    paid: int
    charged: int  # in the processor's ledger
    charged_twice: int
    still_due: int
    forgotten: int  # neither paid nor due

    @property
    def is_clean(self) -> bool:
        return (
            self.exit_code == 0
            and self.exit_s < GRACE_S
            and self.recorded == self.in_flight
            and self.begun_after_the_signal <= self.threads - self.in_flight
            and self.paid == self.charged
            and (self.unknown_left, self.charged_twice, self.forgotten) == (0, 0, 0)
        )


def main(in_flight: int, latency_ms: float) -> int:
    with running_processor() as (environment, engine, simulator):
        owe(engine, simulator, in_flight + in_flight // 2 + 2 * THREADS)
        stopped = stop_in_mid_charge(environment, engine, simulator, in_flight, latency_ms)
    for name, value in asdict(stopped).items():
        print(
            f"  {name.replace('_', ' '):24} {value:8.2f}"
            if isinstance(value, float)
            else f"  {name.replace('_', ' '):24} {value:5}"
        )
    print("clean" if stopped.is_clean else "NOT CLEAN")
    return 0 if stopped.is_clean else 1


def stop_in_mid_charge(
    environment: Mapping[str, str], engine: Engine, simulator: SimulatorClient, in_flight: int, latency_ms: float
) -> Stopped:
    """Ring for all that is due, wait until so many charges are in flight, stop the workers, and count."""
    simulator.set_latency(latency_ms)
    _ring_for_all(environment["REDIS_URL"], engine)
    processes = math.ceil(in_flight / THREADS)
    with _worker(environment, processes) as worker:
        _wait_until(lambda: _count(engine, "state = 'started'") >= in_flight, worker, "all threads charge")
        in_hand = _ids(engine, "state = 'started'")
        told_at, began = datetime.now(UTC), time.monotonic()
        os.killpg(worker.pid, signal.SIGTERM)  # the master and its processes; it passes the signal on to them
        time.sleep(APART_S)
        os.killpg(worker.pid, signal.SIGTERM)
        exit_code = worker.wait(GRACE_S)
        exit_s = time.monotonic() - began
    simulator.set_latency(0)
    charged = Counter(line.metadata["duecourse_payment_id"] for line in simulator.iter_ledger())
    with engine.connect() as connection:
        states = Counter(connection.scalars(select(payments.c.state)))
    return Stopped(
        threads=processes * THREADS,
        in_flight=len(in_hand),
        exit_code=exit_code,
        exit_s=exit_s,
        recorded=_count(engine, "id = ANY(:ids) AND state = 'succeeded'", ids=in_hand),
        unknown_left=_count(engine, "state IN ('started', 'unknown')"),
        begun_after_the_signal=_count(engine, "created_at > :at", at=told_at + timedelta(seconds=0.2)),
        paid=states[PaymentState.PAID],
        charged=sum(charged.values()),
        charged_twice=sum(1 for times in charged.values() if times > 1),
        still_due=states[PaymentState.DUE],
        forgotten=states.total() - states[PaymentState.PAID] - states[PaymentState.DUE],
    )


def owe(engine: Engine, simulator: SimulatorClient, count: int) -> None:
    """Make accounts that owe 10.00 each since yesterday, with a good card of their own."""
    gateway = StripeGateway(
        f"sk_test_sim_{COVERAGE}",
        api_base=simulator.url,
        requests_per_s=10_000,
        connect_timeout_s=5,
        read_timeout_s=30,
    )

    def at_processor(number: int) -> tuple[str, Any]:
        customer = gateway.create_customer({}, f"sigterm-customer-{number}")
        return customer, simulator.register_card(COVERAGE, customer, simulator.make_card(COVERAGE).token, {})

    with ThreadPoolExecutor(4) as pool:
        registered = list(pool.map(at_processor, range(count)))
    yesterday = datetime.now(UTC) - timedelta(days=1)
    for number, (customer, card) in enumerate(registered):
        _owe_one(engine, f"A-{number:04}", customer, card, yesterday)


def _owe_one(engine: Engine, external_id: str, customer: str, card: Any, due_at: datetime) -> None:
    with engine.begin() as connection:
        account_id = connection.scalar(
            insert(accounts).values(external_id=external_id, name=external_id).returning(accounts.c.id)
        )
        settings_id = connection.scalar(
            insert(payment_settings)
            .values(
                account_id=account_id,
                coverage=COVERAGE,
                kind=SettingsKind.CARD,
                stripe_customer_id=customer,
                billing_details={},
            )
            .returning(payment_settings.c.id)
        )
        card_id = connection.scalar(
            insert(cards)
            .values(
                settings_id=settings_id,
                coverage=COVERAGE,
                stripe_payment_method_id=card.payment_method,
                brand=card.brand,
                network=card.brand,
                last4=card.last4,
                exp_month=12,
                exp_year=due_at.year + 2,
                fingerprint=card.fingerprint,
                attached_at=due_at,
            )
            .returning(cards.c.id)
        )
        connection.execute(
            update(payment_settings)
            .where(payment_settings.c.id == settings_id)
            .values(primary_card_id=card_id, card_revision=1)
        )
        connection.execute(
            insert(payments).values(
                kind=PaymentKind.MONTHLY,
                account_id=account_id,
                settings_id=settings_id,
                coverage=COVERAGE,
                currency="USD",
                amount_minor=10_00,
                state=PaymentState.DUE,
                lane=Lane.BATCH,
                trigger=Trigger.MONTH_START,
                due_on=due_at.date(),
                next_attempt_at=due_at,
            )
        )


@contextmanager
def running_processor() -> Iterator[tuple[dict[str, str], Engine, SimulatorClient]]:
    """Embedded servers with our schema, and a simulator; yields the workers' environment for them."""
    with tempfile.TemporaryDirectory(prefix="duecourse-") as folder:
        Path(folder).chmod(0o755)  # as root the servers run as another user, who must enter
        with embedded.servers(Path(folder) / "servers") as urls, running_simulator() as simulator:
            environment = worker_environment(urls.database_url, urls.redis_url, simulator.url)
            subprocess.run(
                [sys.executable, "-m", "cli", "db", "upgrade"],
                env=environment,
                cwd=PROJECT,
                check=True,
                stdout=subprocess.DEVNULL,
            )
            engine = create_engine(with_driver(urls.database_url))
            yield environment, engine, simulator
            engine.dispose()


def worker_environment(database_url: str, redis_url: str, simulator_url: str) -> dict[str, str]:
    """What a worker of the Procfile needs, and nothing else of ours that this machine may have set."""
    foreign = ("STRIPE", "DUECOURSE", "DATABASE_URL", "REDIS_URL", "dramatiq_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return {
        **kept,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "STRIPE_API_BASE": simulator_url,
        "STRIPE_API_KEYS": f'{{"{COVERAGE}": "sk_test_sim_{COVERAGE}"}}',
        "STRIPE_REQUESTS_PER_S": "10000",
        "DUECOURSE_LOG_LEVEL": "WARNING",
        "DUECOURSE_BILLING_FILE": str(PROJECT / "billing.toml"),
    }


@contextmanager
def _worker(environment: Mapping[str, str], processes: int) -> Iterator["subprocess.Popen[bytes]"]:
    (line,) = (process for process in read_procfile(PROJECT / "Procfile") if process.name == "worker-batch")
    worker = subprocess.Popen(
        line.argv,
        env={**environment, "DUECOURSE_BATCH_PROCESSES": str(processes)},
        cwd=PROJECT,
        start_new_session=True,
    )
    try:
        yield worker
    finally:
        if worker.poll() is None:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()


def _ring_for_all(redis_url: str, engine: Engine) -> None:
    with engine.connect() as connection:
        due: list[UUID] = list(
            connection.scalars(select(payments.c.id).where(payments.c.state == PaymentState.DUE))
        )
    assert enqueue(make_broker(redis_url), [ChargePayment(payment_id, Lane.BATCH) for payment_id in due])


def _count(engine: Engine, where: str, **parameters: object) -> int:
    with engine.connect() as connection:
        return int(connection.scalar(text(f"SELECT count(*) FROM payment_attempts WHERE {where}"), parameters) or 0)


def _ids(engine: Engine, where: str) -> list[UUID]:
    with engine.connect() as connection:
        return list(connection.scalars(text(f"SELECT id FROM payment_attempts WHERE {where}")))


def _wait_until(is_so: Any, worker: "subprocess.Popen[bytes]", what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        if worker.poll() is not None:
            raise SystemExit(f"the worker ended with {worker.returncode} before: {what}")
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {PATIENCE_S:g} s: {what}")
        time.sleep(0.02)


if __name__ == "__main__":
    given = [*sys.argv[1:], *["50", "1500"][len(sys.argv) - 1 :]]
    sys.exit(main(int(given[0]), float(given[1])))
