"""A small company: a few accounts, one database, one processor, and clocks that the model sets.

One PostgreSQL, one simulator and one web process serve all examples of a test run. An example begins with empty
tables and with accounts of its own at the processor, so that no example sees another's records. Machine time is in
our hand down to the database: `created_at` is stamped from it, so that an example is the same each time.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import psycopg
from psycopg.rows import namedtuple_row
from sqlalchemy import Engine, create_engine

from shared.db.columns import metadata
from shared.gateway.port import STRIPE_API_VERSION
from shared.gateway.stripe_event_types import ECHO_EVENT_TYPES, HANDLED_EVENT_TYPES
from shared.gateway.stripe_gateway import StripeGateway
from shared.messaging.jobs import (
    ApplyStripeEvent,
    ChargePayment,
    Job,
)
from shared.runtime import Runtime
from simulator.certificates import trusted_certificates
from simulator.client import SimulatorClient
from simulator.testing import running_simulator
from tests.conftest import sqlalchemy_url
from tests.model.weather import Weather
from tests.model.workers import WatchedGateway, failpoints_are_steps, watch_engine, watched_enqueue
from tests.seed import default_policy
from tests.web.conftest import web_settings
from tests.web.serving import running
from tests.web.stripe_webhooks import SECRET, event_body, signature
from tests.world import do
from web.app import build_app

BUSINESS_START = datetime(2026, 10, 31, 12, tzinfo=UTC)
#: Years before business time: code that takes one clock for the other breaks at once.
MACHINE_START = datetime(2024, 3, 1, tzinfo=UTC)
#: Declines that a PaymentIntent survives here; few, so that examples get there.
CONFIRMATION_LIMIT = 3
COVERAGES = ("global", "japan")

_MACHINE_CLOCK = """
    CREATE TABLE model_machine_clock (now_at timestamptz NOT NULL);
    INSERT INTO model_machine_clock VALUES ('2024-03-01');
    CREATE SEQUENCE model_order;
    -- A second back and a microsecond on for each row: never after machine time, and still in order.
    CREATE FUNCTION model_created_at() RETURNS timestamptz LANGUAGE sql AS $$
        SELECT now_at - interval '1 second' + nextval('model_order') * interval '1 microsecond'
        FROM model_machine_clock $$;
"""


class Clock:
    """A clock that says what it was told to say."""

    def __init__(self, start: datetime) -> None:
        self.moment = start

    def now(self) -> datetime:
        return self.moment

    def __call__(self) -> datetime:
        return self.moment


class Company:
    """Our processes' code on real servers. `begin` starts an example afresh."""

    def __init__(self, database_url: str, stack: ExitStack) -> None:
        self.clock, self.machine = Clock(BUSINESS_START), Clock(MACHINE_START)
        self.policy = default_policy()
        self.weather = Weather()
        self.mailbox: list[Job] = []
        self.example = 0
        self.canceled: set[str] = set()  # PaymentIntents that the processor was seen to hold for canceled
        self._tables = [table.name for table in metadata.sorted_tables]
        self.look = stack.enter_context(
            psycopg.connect(_plain(database_url), autocommit=True, row_factory=namedtuple_row)
        )
        self._take_the_machine_clock()
        self.engine: Engine = create_engine(sqlalchemy_url(database_url), pool_size=5)
        stack.callback(self.engine.dispose)
        with self.engine.connect():  # what the dialect asks once must not count as a step of some worker
            pass
        watch_engine(self.engine)
        stack.enter_context(failpoints_are_steps())
        self.simulator: SimulatorClient = stack.enter_context(
            running_simulator(clock=self.clock, faults=self.weather, confirmation_limit=CONFIRMATION_LIMIT)
        )
        self.weather.simulator = self.simulator
        self.runtime = Runtime(
            policy=self.policy,
            engine=self.engine,
            clock=self.clock,
            machine_now=self.machine,
            gateways={},
            enqueue=watched_enqueue(self._enqueue),
            lease=timedelta(minutes=5),
        )
        self.gateways: dict[str, StripeGateway] = {}
        self.http = stack.enter_context(httpx.Client(timeout=30, verify=trusted_certificates(), trust_env=False))
        # A connection kept alive might be closed by the web process just when a slow machine sends on it.
        once = httpx.Limits(max_keepalive_connections=0)
        self._courier = stack.enter_context(
            httpx.Client(timeout=60, verify=trusted_certificates(), trust_env=False, limits=once)
        )
        # The web process rings after its answer, in its own time; the model rings in its place, in its own order.
        web = replace(self.runtime, enqueue=lambda _jobs: True, engine=create_engine(sqlalchemy_url(database_url)))
        self._web_url = stack.enter_context(running(build_app(web_settings(database_url), web)))

    # -- examples

    def begin(self) -> None:
        """Empty tables, clocks at their start, new accounts at the processor, no faults."""
        self.example += 1
        self.clock.moment = BUSINESS_START
        self.mailbox.clear()
        self.weather.clear()
        self.weather.late.clear()
        self.canceled.clear()
        self._empty_tables()
        self.set_machine(MACHINE_START)
        self.gateways = {coverage: self._gateway(coverage) for coverage in COVERAGES}
        self.runtime = replace(
            self.runtime, gateways={code: WatchedGateway(gateway) for code, gateway in self.gateways.items()}
        )

    def set_machine(self, moment: datetime) -> None:
        """Machine time, here and in the database."""
        self.machine.moment = moment
        self.look.execute("UPDATE model_machine_clock SET now_at = %s", (moment,))

    def account_of(self, coverage: str) -> str:
        """The example's account at the processor."""
        return f"{coverage}_{self.example}"

    def key_of(self, coverage: str) -> str:
        return f"sk_test_sim_{self.account_of(coverage)}"

    # -- work

    def do(self, job: Job) -> None:
        """Do a job as a worker does. Raises what a worker would log."""
        do(self.runtime, job)

    # -- the processor

    def ask(self, coverage: str, method: str, path: str, **how: Any) -> httpx.Response:
        """A request to the processor that isn't ours: a person's, or one of ours that was long under way."""
        with self.weather.parted():
            return self.http.request(method, f"{self.simulator.url}{path}", auth=(self.key_of(coverage), ""), **how)

    def status_of(self, coverage: str, payment_intent: str) -> str:
        """What the processor holds a PaymentIntent for."""
        answer = self.ask(coverage, "GET", f"/v1/payment_intents/{payment_intent}")
        return str(answer.json()["status"])

    def let_late_request_arrive(self, index: int) -> str:
        """Apply a request whose sender gave it up long ago; its path."""
        arrival = self.weather.late.pop(index)
        headers = {
            "Authorization": f"Bearer sk_test_sim_{arrival.account}",
            "Content-Type": "application/x-www-form-urlencoded",
            "Stripe-Version": STRIPE_API_VERSION,
        }
        if arrival.idempotency_key:
            headers["Idempotency-Key"] = arrival.idempotency_key
        with self.weather.parted():
            self.http.post(f"{self.simulator.url}{arrival.path}", content=arrival.form, headers=headers)
        return arrival.path

    def news(self, coverage: str, after: str | None) -> list[dict[str, Any]]:
        """The processor's events after one, oldest first."""
        found: list[dict[str, Any]] = []
        while True:
            cursor = {"ending_before": after} if after else {}
            page = self.ask(coverage, "GET", "/v1/events", params={"limit": 100, **cursor}).json()
            if not page["data"]:
                return found
            found += reversed(page["data"])
            after = found[-1]["id"]
            if not cursor and not page["has_more"]:
                return found
            assert cursor or not page["has_more"], "more news than one page before the first look"

    def deliver(self, coverage: str, event: dict[str, Any]) -> None:
        """Bring one webhook to our web process, signed, and ring as it does."""
        subject = {"id": event["data"]["object"]["id"]}
        body = event_body(event["id"], event["type"], data={"object": subject}, created=event["created"])
        headers = {"Stripe-Signature": signature(body, SECRET[coverage])}
        answer = self._courier.post(f"{self._web_url}/webhooks/stripe/{coverage}", content=body, headers=headers)
        assert answer.status_code == 200, answer.text
        if event["type"] not in ECHO_EVENT_TYPES:
            self.mailbox.append(ApplyStripeEvent(coverage, event["id"]))

    # -- inside

    def _enqueue(self, jobs: Iterable[Job]) -> bool:
        self.mailbox.extend(jobs)
        return True

    def _gateway(self, coverage: str) -> StripeGateway:
        return StripeGateway(
            self.key_of(coverage),
            api_base=self.simulator.url,
            requests_per_s=100_000,
            connect_timeout_s=30.0,
            read_timeout_s=60.0,  # a loaded machine must not make an answer late; `late` does
        )

    def _take_the_machine_clock(self) -> None:
        self.look.execute(_MACHINE_CLOCK)
        for table in metadata.sorted_tables:
            if "created_at" in table.columns:
                self.look.execute(f"ALTER TABLE {table.name} ALTER created_at SET DEFAULT model_created_at()")

    def _empty_tables(self) -> None:
        """The triggers that keep the records for ever are off for one transaction."""
        with self.look.transaction():
            self.look.execute("SET LOCAL session_replication_role = replica")
            if self.example % 50 == 1:
                self.look.execute(f"TRUNCATE {', '.join(self._tables)}")
            else:
                self.look.execute("; ".join(f"DELETE FROM {name}" for name in self._tables))
        self.look.execute("SELECT setval('model_order', 1)")


@contextmanager
def running_company(database_url: str) -> Iterator[Company]:
    """A company on a migrated, empty database that nobody else uses."""
    with ExitStack() as stack:
        yield Company(database_url, stack)


def is_for_us(event: dict[str, Any]) -> bool:
    """Whether our webhook endpoint is registered for this type of event."""
    return event["type"] in HANDLED_EVENT_TYPES


def payment_of(job: Job) -> UUID | None:
    return job.payment_id if isinstance(job, ChargePayment) else None


def _plain(database_url: str) -> str:
    return database_url.replace("postgresql+psycopg://", "postgresql://", 1)
