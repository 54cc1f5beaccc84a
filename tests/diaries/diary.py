"""A company day by day: PostgreSQL, simulator, SDK, webhooks and schedule are real; the test moves the time.

At each stop the scheduler's tick and the sweep's sources give the jobs, and the use cases do them in this
thread until none is left. The simulator delivers webhooks over HTTP to our web process.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
from sqlalchemy import Row, select

from scheduler.tick import tick
from shared.clock import machine_now
from shared.db.billing_events import Cause
from shared.db.query_terms import Moment
from shared.db.tables.accounts import payment_settings
from shared.db.tables.invoices import invoice_lines, invoices
from shared.db.tables.payments import payments
from shared.db.tables.system import billing_events, runs
from shared.domain.calendar import Period
from shared.domain.schedule import RunKey
from shared.explain.explanation import Explanation, explain_payment
from shared.messaging.jobs import (
    MONTHLY_INVOICES,
    Job,
)
from shared.policy import Coverage
from shared.scheduling.due_work import DUE_WORK, STRIPE_EVENTS
from shared.scheduling.pending_work import pending_work
from shared.scheduling.runs import insert_run, requested_run
from shared.scheduling.virtual_clock import next_stop
from simulator.client import RegisteredCard
from simulator.issuer.stories import Story
from tests.diaries.gates import Gate, Gates
from tests.seed import Account, add_fee, add_service
from tests.web.serving import wait_until
from tests.web.stripe_webhooks import event_body, signature
from tests.world import World, api_key, do
from workers import use_cases

#: More rounds than any day has: what still finds work then would find it for ever.
ROUNDS = 100


def secret_of(coverage: str) -> str:
    return f"whsec_diary_{coverage}"


@dataclass
class Diary:
    """Opens at noon (UTC) of the day before day 1. Money is asserted on the simulator's ledger."""

    world: World
    day_one: date
    web_url: str
    database_url: str
    http: httpx.Client
    gates: Gates
    expected_findings: int = 0

    # -- time

    @property
    def now(self) -> datetime:
        return self.world.clock.now()

    def day(self, number: int, at: str = "12:00") -> None:
        """Advance to a time (UTC) of a day, counted from day 1."""
        self.advance_to(f"{self.day_one + timedelta(days=number - 1)} {at}")

    def advance_to(self, moment: str) -> None:
        """Advance to an instant (UTC, `2026-11-05 12:00`), stopping wherever something is due."""
        target = instant_of(moment)
        self.work()
        while self.now < target:
            with self.world.engine.connect() as connection:
                stop = next_stop(connection, self.world.policy, self.now, target)
            self.world.clock.set(stop)
            self.work()
            assert self.pending() == {}, f"not quiet at {stop}"

    def sleep_until(self, moment: str) -> None:
        """Advance without ticks, sweeps or work: the scheduler is down."""
        self.world.clock.set(instant_of(moment))

    def work(self) -> None:
        """Tick, then sweep and do the jobs until none is left."""
        self.world.enqueued += self.tick()
        for _ in range(ROUNDS):
            self.wait_for_webhooks()
            jobs = self.due_jobs()
            if not jobs:
                return
            self.do_all(jobs)
        raise AssertionError(f"never quiet at {self.now}: {self.pending()}")

    def tick(self) -> list[Job]:
        return tick(self.world.engine, self.world.policy, self.now)

    def due_jobs(self) -> list[Job]:
        """Enqueued jobs and those of the sweep's sources, each once."""
        world = self.world
        world.machine.now = max(world.machine.now, machine_now())
        enqueued = world.take_enqueued()
        pending = self.pending()  # one query instead of one for each source
        parameters = Moment(self.now, world.machine()).parameters(webhook_enqueues_within=timedelta(0))
        with world.engine.connect() as connection:
            for source in DUE_WORK:
                if source.name in pending or source.query is STRIPE_EVENTS:  # echoes are done, not waited for
                    enqueued += [source.job(row) for row in connection.execute(source.query, parameters)]
        return list(dict.fromkeys(enqueued))

    def do(self, job: Job) -> None:
        """Do what a worker does with a message."""
        do(self.world.runtime, job)

    def do_all(self, jobs: Iterable[Job]) -> None:
        for job in jobs:
            self.do(job)

    def pending(self) -> Mapping[str, int]:
        with self.world.engine.connect() as connection:
            return pending_work(connection, self.world.policy, self.now, self.world.machine())

    def run_invoices_by_operator(self, period: str, coverage: str) -> None:
        """`duecourse invoices run --period …`: for months from before the schedule was in force."""
        run = requested_run(self.world.policy, RunKey(MONTHLY_INVOICES, period, coverage), self.now)
        with self.world.engine.begin() as connection:
            assert insert_run(connection, run, Cause("operator:anna", self.now, "we begin here")) is not None
        self.work()

    # -- people

    def account(self, external_id: str, coverage: str = "global", **settings: Any) -> Account:
        return self.world.account(external_id, coverage, **settings)

    def fee(self, account: Account, amount_minor: int, period: str | None = None) -> None:
        """Import a fee; of the month before day 1, unless a month is named."""
        with self.world.engine.begin() as connection:
            month = period or str(Period.of(self.day_one).previous)
            add_fee(connection, account, amount_minor, month, currency=self.coverage(account).currency)

    def service(self, account: Account, price_minor: int, pricing: str = "monthly", **dates: Any) -> None:
        with self.world.engine.begin() as connection:
            currency = self.coverage(account).currency
            add_service(connection, account, price_minor, pricing, currency=currency, **dates)

    def register_card(
        self, account: Account, card: str = "pm_card_visa", story: Story | None = None, **how: Any
    ) -> RegisteredCard:
        """Register a card as in the customer's browser; deliver webhooks and do the jobs that follow."""
        registered = self.world.register_card(account, card, story, **how)
        self.work()
        return registered

    def detach_card(self, account: Account, card: RegisteredCard) -> None:
        url = f"{self.world.simulator.url}/v1/payment_methods/{card.payment_method}/detach"
        self.http.post(url, auth=(api_key(account.coverage), "")).raise_for_status()

    # -- webhooks

    def wait_for_webhooks(self) -> None:
        """Wait until every webhook is delivered, except those held at their gate."""
        wait_until(
            lambda: self.world.simulator.webhook_stats().pending == len(self.gates.standing_at(Gate.WEBHOOK))
        )

    @contextmanager
    def webhooks_held(self) -> Iterator[None]:
        """Hold webhooks until `deliver`; at the end of the block deliver all."""
        with self.gates.closed(Gate.WEBHOOK):
            yield
        self.work()

    def deliver(self, event_type: str) -> None:
        """Deliver one held webhook, and do the jobs that follow."""
        self.let_through(event_type)
        self.work()

    def let_through(self, event_type: str) -> None:
        """Deliver one held webhook without doing its jobs."""
        self.wait_for_webhooks()
        held = [self.event(event_id) for event_id in self.gates.standing_at(Gate.WEBHOOK)]
        found = [one["id"] for one in held if one["type"] == event_type]
        assert found, f"no {event_type} is held, but {[one['type'] for one in held]}"
        self.gates.let_go(Gate.WEBHOOK, found[0])
        self.wait_for_webhooks()

    def event(self, event_id: str) -> dict[str, Any]:
        """An event as the processor knows it."""
        for coverage in self.world.policy.coverages:
            answer = self.http.get(f"{self.world.simulator.url}/v1/events/{event_id}", auth=(api_key(coverage), ""))
            if answer.is_success:
                event: dict[str, Any] = answer.json()
                return event
        raise LookupError(event_id)

    def tell(self, coverage: str, event_id: str, event_type: str, object_id: str) -> None:
        """Send one more webhook about the same object."""
        created = int(self.now.timestamp())
        body = event_body(event_id, event_type, data={"object": {"id": object_id}}, created=created)
        headers = {"Stripe-Signature": signature(body, secret_of(coverage))}
        answer = self.http.post(f"{self.web_url}/webhooks/stripe/{coverage}", content=body, headers=headers)
        assert answer.status_code == 200

    # -- several at once

    @contextmanager
    def charging(self, payment_id: UUID, stands_at: Gate) -> Iterator[None]:
        """Charge in a worker whose confirm is held at the processor until the end of the block."""
        with ThreadPoolExecutor(1) as worker:
            with self.gates.closed(stands_at, "/confirm"):
                charge = worker.submit(self.world.charge, payment_id)
                self.gates.wait_for_request_at(stands_at)
                yield
            charge.result()

    def one_chunk(self, run_id: UUID) -> None:
        """Do one message of a monthly run, in which time is up after one chunk of one account."""
        ticks = iter(self.world.machine() + timedelta(seconds=15 * n) for n in range(4))
        runtime = replace(self.world.runtime, machine_now=lambda: next(ticks))
        use_cases.generate_invoices(runtime, run_id, accounts_per_chunk=1)

    # -- looking

    def coverage(self, account: Account) -> Coverage:
        return self.world.policy.coverage(account.coverage)

    def invoice(self, account: Account, period: str) -> Row[Any]:
        """The account's one invoice of a month."""
        with self.world.engine.connect() as connection:
            return connection.execute(
                select(invoices).where(
                    invoices.c.account_id == account.id,
                    invoices.c.coverage == account.coverage,
                    invoices.c.period == Period.parse(period).first_day,
                )
            ).one()

    def lines(self, account: Account, period: str) -> list[int]:
        """The amounts of an invoice's lines, in minor units."""
        invoice_id = self.invoice(account, period).id
        lines = select(invoice_lines.c.amount_minor).where(invoice_lines.c.invoice_id == invoice_id)
        with self.world.engine.connect() as connection:
            return list(connection.scalars(lines.order_by(invoice_lines.c.position)))

    def payment(self, account: Account, period: str | None = None) -> UUID:
        """The payment of the month before day 1, unless a month is named."""
        invoice_id = self.invoice(account, period or str(Period.of(self.day_one).previous)).id
        with self.world.engine.connect() as connection:
            payment_id: UUID = connection.execute(
                select(payments.c.id).where(payments.c.invoice_id == invoice_id)
            ).scalar_one()
        return payment_id

    def state(self, payment_id: UUID) -> str:
        return str(self.world.payment(payment_id).state)

    def attempts(self, payment_id: UUID) -> list[tuple[str, str]]:
        """Every attempt: its local start in the coverage's zone, and its state."""
        zone = self.world.policy.coverage(self.world.payment(payment_id).coverage).zone
        return [
            (f"{attempt.started_at.astimezone(zone):%m-%d %H:%M}", attempt.state)
            for attempt in self.world.attempts(payment_id)
        ]

    def money(self, payment_id: UUID) -> list[tuple[str, int]]:
        """The processor's ledger for this payment: capture times (UTC) and amounts in minor units."""
        return [
            (f"{line.created_at:%Y-%m-%d %H:%M}", line.amount)
            for line in self.world.simulator.iter_ledger()
            if line.metadata.get("duecourse_payment_id") == str(payment_id)
        ]

    def charges(self, coverage: str = "global") -> list[datetime]:
        """The times of the processor's charges, declined ones too, oldest first."""
        found = self.world.runtime.gateways[coverage].list_charges(
            datetime(2020, 1, 1, tzinfo=UTC), self.now + timedelta(seconds=1)
        )
        return sorted(charge.created_at for charge in found)

    def requests(self, path_contains: str) -> int:
        """The number of POSTs to such a path."""
        return sum(snapshot.method == "POST" for snapshot in self.world.simulator.requests(path_contains))

    def skipped_charges(self, payment_id: UUID) -> list[str | None]:
        """The recorded reasons for charges that were not attempted."""
        return [reason for kind, reason in self.world.billing_events(payment_id) if kind == "charge_not_attempted"]

    def standings(self, account: Account) -> list[tuple[str, str]]:
        """Every change of the account's standing, with its day (UTC)."""
        return [
            (f"{event.at:%m-%d}", event.after["standing"])
            for event in self.billing_events("standing_changed", account)
        ]

    def billing_events(self, event_type: str, account: Account | None = None) -> list[Row[Any]]:
        wanted = select(billing_events).where(billing_events.c.type == event_type).order_by(billing_events.c.id)
        if account is not None:
            wanted = wanted.where(billing_events.c.account_id == account.id)
        with self.world.engine.connect() as connection:
            return list(connection.execute(wanted))

    def settings(self, account: Account) -> Row[Any]:
        with self.world.engine.connect() as connection:
            return connection.execute(
                select(payment_settings).where(payment_settings.c.id == account.settings_id)
            ).one()

    def runs(self, job: str, coverage: str | None = None) -> list[Row[Any]]:
        """Runs of a job, in the order of their periods."""
        wanted = select(runs).where(runs.c.job == job).order_by(runs.c.period, runs.c.coverage)
        if coverage is not None:
            wanted = wanted.where(runs.c.coverage == coverage)
        with self.world.engine.connect() as connection:
            return list(connection.execute(wanted))

    def explain(self, payment_id: UUID) -> Explanation:
        """The explanation that `payment show` prints."""
        with self.world.engine.connect() as connection:
            return explain_payment(connection, self.world.policy, payment_id, self.now, self.world.machine())

    def billing_event_types(self, payment_id: UUID) -> Counter[str]:
        return Counter(kind for kind, _ in self.world.billing_events(payment_id))


def instant_of(moment: str) -> datetime:
    return datetime.strptime(moment, "%Y-%m-%d %H:%M").replace(tzinfo=UTC)
