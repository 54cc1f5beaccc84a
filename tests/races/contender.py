"""What one process does in a round: the product's use cases, as its process would run them."""

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
from sqlalchemy import Connection, create_engine, select

from scheduler.tick import tick
from shared.clock import machine_now
from shared.db.billing_events import Cause
from shared.db.session import in_transaction
from shared.db.tables.accounts import payment_settings
from shared.db.tables.payments import payment_attempts, payments
from shared.db.tables.system import runs
from shared.domain.states import ENDED, OPEN_ATTEMPT, AttemptState, Lane, RunState, Trigger
from shared.gateway.port import StripeEventSnapshot
from shared.messaging.jobs import DAILY_RETRIES, ChargePayment, Job, RetryPayments
from shared.payments.locked_rows import lock_payment
from shared.payments.operator.charge import request_charge
from shared.payments.state_changes import make_due_now
from shared.runtime import Runtime
from simulator.client import SimulatorClient
from tests.diaries.conftest import only
from tests.races.plan import LOST, Role, Situation
from tests.races.racers import PATIENCE_S, Bound, SharedMoment
from tests.world import api_key, make_gateways
from web.webhooks import store_event
from workers.use_cases.apply_stripe_event import apply_stripe_event
from workers.use_cases.charge_payment import charge_payment
from workers.use_cases.retry_payments import retry_payments
from workers.use_cases.settle_attempt import settle_attempt

LEASE = timedelta(minutes=5)
#: Workers that are lost were so this long ago: their leases are over.
LONG_AGO = timedelta(hours=1)
#: A webhook inside this time after the confirm waits for the answer; ours are later, so that they don't.
ANSWER_IS_LATE = timedelta(seconds=11)
#: Machines' clocks differ by more than an event's claim and a look-up's turn, so that two really do the same at
#: once; six of them stay inside the lease.
CLOCKS_DIFFER = timedelta(seconds=30)
PAYMENT_INTENT_EVENTS = ("succeeded", "payment_failed", "canceled", "requires_action")
LOOKS = 3


class WorkerLost(Exception):  # noqa: N818
    """The worker was killed at this point."""


class PausingGateway:
    """The gateway of a worker that stands still at one of its requests, before it leaves or after its answer."""

    def __init__(self, gateway: Any, at: str, *, is_sent: bool) -> None:
        self._gateway, self._at, self._is_sent = gateway, at, is_sent
        self.stands, self.goes_on = threading.Event(), threading.Event()
        self.is_killed = False

    def __getattr__(self, name: str) -> Any:
        method: Callable[..., Any] = getattr(self._gateway, name)
        return self._paused(method) if name == self._at else method

    def _paused(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def ask(*arguments: Any) -> Any:
            answer = method(*arguments) if self._is_sent else None
            self.stands.set()
            self.goes_on.wait(5 * PATIENCE_S)
            if self.is_killed:
                raise WorkerLost
            return answer if self._is_sent else method(*arguments)

        return ask


class SlowWorker:
    """A worker on a thread of its own that began to charge a payment long ago and stands still."""

    def __init__(self, runtime: Runtime, payment_id: UUID, at: str, *, is_sent: bool) -> None:
        ((coverage, gateway),) = runtime.gateways.items()
        self._gateway = PausingGateway(gateway, at, is_sent=is_sent)
        paused = replace(runtime, gateways={coverage: self._gateway}, machine_now=self._machine_now)
        self._thread = ThreadPoolExecutor(1)
        self._charge = self._thread.submit(charge_payment, paused, payment_id)
        if not self._gateway.stands.wait(PATIENCE_S):
            raise AssertionError(f"the worker never came to {at}: {self._charge}")

    def _machine_now(self) -> datetime:
        return machine_now() - (timedelta(0) if self._gateway.goes_on.is_set() else LONG_AGO)

    def go_on(self) -> None:
        """It wakes up, as if nothing had been."""
        self._gateway.goes_on.set()
        self._charge.result(PATIENCE_S)

    def kill(self) -> None:
        self._gateway.is_killed = True
        self._gateway.goes_on.set()
        self._thread.shutdown()


class Contender:
    """One process of a batch. What it rings for it does itself, like the worker next to it would."""

    def __init__(
        self, index: int, moment: SharedMoment, database_url: str, simulator_url: str, coverage: str
    ) -> None:
        self.index, self._coverage, self._moment = index, coverage, moment
        policy = only(coverage)
        self._rung: list[Job] = []
        self._engine = create_engine(database_url, pool_size=3)
        self._simulator = SimulatorClient(simulator_url)
        self._http = httpx.Client(base_url=simulator_url, auth=(api_key(coverage), ""), trust_env=False, timeout=30)
        self.runtime = Runtime(
            policy=policy,
            engine=self._engine,
            clock=moment,
            machine_now=machine_now,
            gateways=make_gateways(simulator_url, [coverage], read_timeout_s=60.0),
            enqueue=self._enqueue,
            lease=LEASE,
        )
        self._slow_workers: dict[UUID, SlowWorker] = {}
        self._acts: dict[Role, Callable[[Bound], None]] = {
            Role.CHARGE: lambda bound: charge_payment(self.runtime, bound.payment_id),
            Role.DAILY_RETRY: self._run_daily_retry,
            Role.ACTIVATE: self._click_activate,
            Role.OPERATOR: self._ask_as_operator,
            Role.REGISTER: self._hear_of_registration,
            Role.WEBHOOK: self._hear_of_payment_intent,
            Role.SETTLEMENT: self._settle,
            Role.LATE_WORKER: self._come_late,
        }

    def close(self) -> None:
        for worker in self._slow_workers.values():
            worker.kill()
        self._engine.dispose()
        self._simulator.close()
        self._http.close()

    def act(self, role: Role, bound: Bound) -> None:
        self._acts[role](bound)
        while self._rung:
            job = self._rung.pop(0)
            if isinstance(job, ChargePayment):
                charge_payment(self.runtime, job.payment_id)

    def _enqueue(self, jobs: Iterable[Job]) -> bool:
        self._rung.extend(jobs)
        return True

    # -- how the payment comes to stand as it does

    def prepare(self, bound: Bound) -> None:
        situation = bound.round.situation
        if situation in LOST:
            self._lose_a_worker(bound)
        elif situation is not Situation.NEW:
            charge_payment(self.runtime, bound.payment_id)
        if situation is Situation.CANCELED_UNSEEN:
            (payment_intent,) = self._payment_intents(bound.payment_id)
            self._simulator.cancel_payment_intent(self._coverage, payment_intent, reason="automatic")

    def _lose_a_worker(self, bound: Bound) -> None:
        at, is_sent = {
            Situation.LOST_SUCCESS: ("confirm_payment_intent", True),
            Situation.LOST_DECLINE: ("confirm_payment_intent", True),
            Situation.LOST_BEFORE_CONFIRM: ("confirm_payment_intent", False),
            Situation.LOST_BEFORE_CREATE: ("create_payment_intent", False),
        }[bound.round.situation]
        self._slow_workers[bound.payment_id] = SlowWorker(self.runtime, bound.payment_id, at, is_sent=is_sent)

    # -- roles

    def _run_daily_retry(self, bound: Bound) -> None:
        """The scheduler's tick, then a worker on today's run."""
        tick(self._engine, self.runtime.policy, bound.at)
        with self._engine.connect() as connection:
            found = connection.scalars(
                select(runs.c.id).where(
                    runs.c.job == DAILY_RETRIES, runs.c.state.in_((RunState.READY, RunState.RUNNING))
                )
            ).all()
        for job in (RetryPayments(run_id) for run_id in found):
            retry_payments(self.runtime, job.run_id)

    def _click_activate(self, bound: Bound) -> None:
        """What the customer's button comes to: due at once, in their name, unless it ended or is held."""

        def work(connection: Connection) -> bool:
            settings = select(payments.c.settings_id).where(payments.c.id == bound.payment_id).scalar_subquery()
            connection.execute(
                select(payment_settings).where(payment_settings.c.id == settings).with_for_update(read=True)
            )
            payment = lock_payment(connection, bound.payment_id)
            if payment.state in ENDED or payment.held_until is not None:
                return False
            cause = Cause("customer", bound.at, "Activate was clicked")
            return make_due_now(connection, payment, Lane.INTERACTIVE, Trigger.CUSTOMER, cause)

        if in_transaction(self._engine, work):
            charge_payment(self.runtime, bound.payment_id)

    def _ask_as_operator(self, bound: Bound) -> None:
        job = in_transaction(
            self._engine,
            lambda connection: request_charge(
                connection,
                bound.payment_id,
                Cause(f"operator:{self.index}", bound.at, "it is urgent"),
                self.runtime.machine_now(),
            ),
        )
        if isinstance(job, ChargePayment):
            charge_payment(self.runtime, job.payment_id)

    def _hear_of_registration(self, bound: Bound) -> None:
        for event in bound.registration:
            self.tell(event)

    def _hear_of_payment_intent(self, bound: Bound) -> None:
        """Look a few times what Stripe has to tell of this payment, and hear it at once."""
        told: set[str] = set()
        for _ in range(LOOKS):
            for event in self._events_of(bound.payment_id):
                if event.stripe_event_id not in told:
                    told.add(event.stripe_event_id)
                    self.tell(event)

    def _settle(self, bound: Bound) -> None:
        runtime = self._with_clock(self.index * CLOCKS_DIFFER)
        for _ in range(LOOKS):
            for attempt_id in self._attempts(bound.payment_id, OPEN_ATTEMPT):
                settle_attempt(runtime, attempt_id)

    def _come_late(self, bound: Bound) -> None:
        """At once, when settlement has begun, or when it is done with the attempt: a third of the rounds each."""
        waits_while = (frozenset(), frozenset({AttemptState.STARTED}), OPEN_ATTEMPT)[bound.round.number % 3]
        deadline = time.monotonic() + PATIENCE_S
        while self._attempts(bound.payment_id, waits_while) and time.monotonic() < deadline:
            time.sleep(0.002)
        self._slow_workers[bound.payment_id].go_on()

    def tell(self, event: StripeEventSnapshot) -> None:
        """Stripe tells us: the web process stores it, a worker applies it."""
        store_event(self._engine, self._coverage, event)
        runtime = self._with_clock(ANSWER_IS_LATE + self.index * CLOCKS_DIFFER)
        apply_stripe_event(runtime, self._coverage, event.stripe_event_id)

    # -- looking

    def _with_clock(self, ahead: timedelta) -> Runtime:
        return replace(self.runtime, machine_now=lambda: machine_now() + ahead)

    def _attempts(self, payment_id: UUID, states: Iterable[AttemptState]) -> list[UUID]:
        with self._engine.connect() as connection:
            return list(
                connection.scalars(
                    select(payment_attempts.c.id).where(
                        payment_attempts.c.payment_id == payment_id, payment_attempts.c.state.in_(states)
                    )
                )
            )

    def _payment_intents(self, payment_id: UUID) -> list[str]:
        found = self._http.get("/v1/payment_intents", params={"limit": 20}).raise_for_status().json()["data"]
        return [one["id"] for one in found if _is_of(one, payment_id)]

    def _events_of(self, payment_id: UUID) -> list[StripeEventSnapshot]:
        types = {f"types[{place}]": f"payment_intent.{word}" for place, word in enumerate(PAYMENT_INTENT_EVENTS)}
        found = self._http.get("/v1/events", params={"limit": 20, **types}).raise_for_status().json()["data"]
        return [read_event(one) for one in reversed(found) if _is_of(one["data"]["object"], payment_id)]


def read_event(raw: dict[str, Any]) -> StripeEventSnapshot:
    """An event of the processor's list, as a webhook's envelope."""
    created_at = datetime.fromtimestamp(raw["created"], UTC)
    return StripeEventSnapshot(raw["id"], raw["type"], raw["data"]["object"]["id"], raw["livemode"], created_at)


def _is_of(raw: dict[str, Any], payment_id: UUID) -> bool:
    return bool(raw["metadata"].get("duecourse_payment_id") == str(payment_id))
