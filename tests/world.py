"""A small real world for tests: PostgreSQL, the simulator over HTTP, the real SDK, and clocks that tests set.

Enqueued jobs are collected and done in this thread, in order, so that a test is deterministic and not a
race. Processes, Redis and threads have tests of their own.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Engine, Row, select

from shared.clock import ManualClock
from shared.db.query_terms import Moment
from shared.db.tables.accounts import accounts
from shared.db.tables.payments import payment_attempts, payment_intents, payments
from shared.db.tables.system import billing_events
from shared.gateway.stripe_gateway import StripeGateway
from shared.messaging.jobs import (
    ApplyBulkAction,
    ApplyStripeEvent,
    ChargePayment,
    ClosePayment,
    GenerateInvoices,
    Job,
    ReconcileCharges,
    RetryPayments,
    SettleAttempt,
)
from shared.policy import Policy
from shared.runtime import Runtime
from shared.scheduling.due_work import DUE_WORK
from simulator.client import RegisteredCard, SimulatorClient
from simulator.faults.hooks import FaultHooks
from simulator.issuer.stories import Story
from simulator.testing import running_simulator
from tests.seed import Account, add_account, add_card, add_payment, default_policy
from workers import use_cases

START = datetime(2026, 11, 1, 9, 0, tzinfo=UTC)


class MachineClock:
    """Machine time that a test sets; near the real one, because Stripe signatures carry it."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **duration: float) -> None:
        self.now += timedelta(**duration)


@dataclass
class World:
    """Everything a test needs. Money is asserted on `captured_amounts()`."""

    engine: Engine
    policy: Policy
    clock: ManualClock
    machine: MachineClock
    simulator: SimulatorClient
    runtime: Runtime
    enqueued: list[Job] = field(default_factory=list)

    # -- accounts and cards

    def account(self, external_id: str, coverage: str = "global", **settings: Any) -> Account:
        """An account with a customer at the processor, and no card yet."""
        with self.engine.begin() as connection:
            customer = self.runtime.gateways[coverage].create_customer(
                {}, f"test-customer-{coverage}-{external_id}"
            )
            return add_account(connection, external_id, coverage, stripe_customer_id=customer, **settings)

    def add_primary_card(
        self, account: Account, card: str = "pm_card_visa", story: Story | None = None, brand: str = "visa"
    ) -> RegisteredCard:
        """Register a card at the processor and make it primary at once, without a webhook."""
        registered = self.register_card(account, card, story, brand)
        with self.engine.begin() as connection:
            add_card(
                connection,
                account,
                stripe_payment_method_id=registered.payment_method,
                brand=registered.brand,
                network=registered.brand,
                last4=registered.last4,
                fingerprint=registered.fingerprint,
            )
        return registered

    def register_card(
        self,
        account: Account,
        card: str = "pm_card_visa",
        story: Story | None = None,
        brand: str = "visa",
        intent: str = "replace",
    ) -> RegisteredCard:
        """Register a card at the processor, as a customer's browser does; only webhooks report it."""
        if story is not None:
            card = self.simulator.make_card(account.coverage, story, brand=brand).token
        metadata = {"duecourse_settings_id": str(account.settings_id), "duecourse_intent": intent}
        return self.simulator.register_card(account.coverage, self.customer_id(account), card, metadata)

    def customer_id(self, account: Account) -> str:
        from shared.db.tables.accounts import payment_settings

        with self.engine.connect() as connection:
            return str(
                connection.scalar(
                    select(payment_settings.c.stripe_customer_id).where(
                        payment_settings.c.id == account.settings_id
                    )
                )
            )

    def add_due_payment(self, account: Account, amount_minor: int = 5_00, **columns: Any) -> UUID:
        """A payment that is due now."""
        with self.engine.begin() as connection:
            columns.setdefault("next_attempt_at", self.clock.now())
            columns.setdefault("due_on", self.clock.now().date())
            return add_payment(connection, account, amount_minor, **columns)

    # -- work

    def charge(self, payment_id: UUID) -> None:
        use_cases.charge_payment(self.runtime, payment_id)

    def settle(self, attempt_id: UUID) -> None:
        use_cases.settle_attempt(self.runtime, attempt_id)

    def take_enqueued(self) -> list[Job]:
        """Return the enqueued jobs, each once, and empty the list."""
        jobs = list(dict.fromkeys(self.enqueued))
        self.enqueued.clear()
        return jobs

    def do_enqueued(self) -> None:
        """Do the enqueued jobs in order, and those that they enqueue, until none is left."""
        while self.enqueued:
            do(self.runtime, self.enqueued.pop(0))

    def due_jobs(self, **moment: timedelta) -> list[Job]:
        """Return the jobs that the sweep would enqueue now; see `due_jobs`."""
        return due_jobs(self.engine, Moment(self.clock.now(), self.machine()), **moment)

    # -- looking

    def payment(self, payment_id: UUID) -> Row[Any]:
        with self.engine.connect() as connection:
            return connection.execute(select(payments).where(payments.c.id == payment_id)).one()

    def standing(self, account: Account) -> str:
        with self.engine.connect() as connection:
            return str(connection.scalar(select(accounts.c.standing).where(accounts.c.id == account.id)))

    def attempts(self, payment_id: UUID) -> list[Row[Any]]:
        with self.engine.connect() as connection:
            return list(
                connection.execute(
                    select(payment_attempts)
                    .where(payment_attempts.c.payment_id == payment_id)
                    .order_by(payment_attempts.c.number)
                )
            )

    def intents(self, payment_id: UUID) -> list[Row[Any]]:
        with self.engine.connect() as connection:
            return list(
                connection.execute(
                    select(payment_intents)
                    .where(payment_intents.c.payment_id == payment_id)
                    .order_by(payment_intents.c.ordinal)
                )
            )

    def billing_events(self, payment_id: UUID) -> list[tuple[str, str | None]]:
        with self.engine.connect() as connection:
            return [
                (row.type, row.reason)
                for row in connection.execute(
                    select(billing_events)
                    .where(billing_events.c.payment_id == payment_id)
                    .order_by(billing_events.c.id)
                )
            ]

    def captured_amounts(self, payment_id: UUID) -> list[int]:
        """The amounts that the processor's ledger has captured for this payment, in minor units."""
        return [
            line.amount
            for line in self.simulator.iter_ledger()
            if line.metadata.get("duecourse_payment_id") == str(payment_id)
        ]


def do(runtime: Runtime, job: Job) -> None:
    """Call the use case that a worker calls for this job."""
    match job:
        case ChargePayment(payment_id):
            use_cases.charge_payment(runtime, payment_id)
        case SettleAttempt(attempt_id):
            use_cases.settle_attempt(runtime, attempt_id)
        case ClosePayment(payment_id):
            use_cases.close_payment(runtime, payment_id)
        case ApplyStripeEvent(coverage, stripe_event_id):
            use_cases.apply_stripe_event(runtime, coverage, stripe_event_id)
        case GenerateInvoices(run_id):
            use_cases.generate_invoices(runtime, run_id)
        case RetryPayments(run_id):
            use_cases.retry_payments(runtime, run_id)
        case ReconcileCharges(run_id):
            use_cases.reconcile_charges(runtime, run_id)
        case ApplyBulkAction(bulk_id):
            use_cases.apply_bulk_action(runtime, bulk_id)
        case _:
            raise AssertionError(f"no use case for {job}")


def due_jobs(engine: Engine, moment: Moment, **parameters: timedelta) -> list[Job]:
    """Return the jobs of all sources of the sweep, without its memory of what it enqueued before."""
    with engine.connect() as connection:
        return [
            source.job(row)
            for source in DUE_WORK
            for row in connection.execute(source.query, moment.parameters(**parameters))
        ]


def api_key(coverage: str) -> str:
    return f"sk_test_sim_{coverage}"


def make_gateways(
    simulator_url: str,
    coverages: Iterable[str],
    read_timeout_s: float = 5.0,
    why_not: Callable[[str], str | None] | None = None,
) -> Mapping[str, Any]:
    return {
        coverage: StripeGateway(
            api_key(coverage),
            api_base=simulator_url,
            requests_per_s=10_000,
            connect_timeout_s=2.0,
            read_timeout_s=read_timeout_s,
            why_not=why_not,
        )
        for coverage in coverages
    }


@contextmanager
def running_world(
    engine: Engine, start: datetime = START, policy: Policy | None = None, faults: FaultHooks | None = None
) -> Iterator[World]:
    """Build a world on a migrated, empty database."""
    policy, clock, machine = policy or default_policy(), ManualClock(start), MachineClock()
    enqueued: list[Job] = []

    def enqueue(jobs: Iterable[Job]) -> bool:
        enqueued.extend(jobs)
        return True

    with running_simulator(clock=clock, faults=faults) as simulator:
        runtime = Runtime(
            policy=policy,
            engine=engine,
            clock=clock,
            machine_now=machine,
            gateways=make_gateways(simulator.url, policy.coverages),
            enqueue=enqueue,
            lease=timedelta(minutes=5),
        )
        yield World(engine, policy, clock, machine, simulator, runtime, enqueued)
