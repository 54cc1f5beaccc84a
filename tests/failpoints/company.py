"""A company whose processes crash where a test says, and restart with an empty memory.

PostgreSQL, the simulator, the SDK, the web process and the scheduler are real. Workers and scheduler are one
thread here, so that a death is one exception: it ends the whole life, with its engine, its sessions and what it had
rung for. Machine time is in our hand, so that leases run out at once.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from uuid import UUID

import httpx
from sqlalchemy import Connection, Engine, create_engine, event, func, select, text

from scheduler.app import SchedulerApp
from shared.clock import machine_now
from shared.db.tables.system import stripe_events
from shared.domain.states import StripeEventState
from shared.failpoints import Crash, Crashed
from shared.gateway.stripe_event_types import HANDLED_EVENT_TYPES
from shared.messaging.jobs import (
    ApplyBulkAction,
    ApplyStripeEvent,
    ChargePayment,
    GenerateInvoices,
    Job,
    ReconcileCharges,
    RetryPayments,
)
from shared.runtime import Runtime
from simulator.api.errors import Answer
from simulator.certificates import trusted_certificates
from simulator.faults.hooks import Arrival, CutConnection, DamagedAnswer, Delivery, DeliveryFault, DeliveryPlan
from simulator.store.records import Event
from tests.conftest import sqlalchemy_url
from tests.diaries.conftest import only
from tests.diaries.diary import Diary, secret_of
from tests.diaries.gates import Gates
from tests.web.conftest import web_settings
from tests.web.serving import running, wait_until
from tests.world import api_key, running_world
from web.app import build_app
from workers import use_cases

#: More rounds than any day has, a crash and its settlement included.
ROUNDS = 150
#: Machine time between two sweeps (s): above every patience with what is under way; two are a lease and more.
BETWEEN_SWEEPS_S = 160.0
#: Machine time that passes when nothing is left to do but to wait (s): a lease, and a little.
WHILE_WAITING_S = 310.0
#: Two chunks for a handful of accounts.
ACCOUNTS_PER_CHUNK = 2
#: What a loaded machine may take to bring a webhook (s).
WEBHOOKS_WITHIN_S = 60.0

#: Compiled statements are the same in every life; to compile them anew would be most of a story's time.
_COMPILED: dict[Any, Any] = {}
#: The sessions that a dead process leaves behind; its host closes them, and so do we.
_END_SESSIONS = """
    SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name IN ('life', 'duecourse-scheduler')
"""


class Mishaps(Gates):
    """Faults at the processor: each once, at the first matching request."""

    def __init__(self) -> None:
        super().__init__()
        self.cut_before: list[str] = []  # what a form contains: never applied
        self.cut_after: list[str] = []  # applied, and its answer lost
        self.unavailable: list[str] = []  # what a path begins with: 503
        self.never_arrive: list[str] = []  # an event's type

    def plan_delivery(self, delivery: Delivery, account: str, event: Event) -> DeliveryPlan:
        if _take(self.never_arrive, lambda kind: kind == event.type):
            return DeliveryPlan(DeliveryFault.DROP)
        return super().plan_delivery(delivery, account, event)

    async def before_apply(self, arrival: Arrival) -> Answer | None:
        if _take(self.cut_before, lambda part: part in arrival.form):
            raise CutConnection
        if _take(self.unavailable, arrival.path.startswith):
            return Answer(503, {"error": {"type": "api_error", "message": "not now"}})
        return await super().before_apply(arrival)

    async def before_answer(self, arrival: Arrival, answer: Answer) -> Answer | DamagedAnswer:
        if _take(self.cut_after, lambda part: part in arrival.form):
            raise CutConnection
        return await super().before_answer(arrival, answer)


def _take(wanted: list[str], fits: Callable[[str], bool]) -> bool:
    for part in wanted:
        if fits(part):
            wanted.remove(part)
            return True
    return False


@dataclass
class Company(Diary):
    """A diary whose process crashes at `crash`. Every life has an engine and a scheduler of its own."""

    crash: Crash = field(kw_only=True)
    mishaps: Mishaps = field(kw_only=True)
    lives: int = 0
    #: Events whose next look finds no key for the coverage, as after a broken deployment.
    without_key: list[str] = field(default_factory=list)
    #: The next decline can't be recorded, as by a defect of the release.
    has_defect: bool = False
    #: Whether what a dead worker had in hand is delivered again at once, or is lost with the rest of Redis.
    redelivers: bool = True
    _in_hand: list[Job] = field(default_factory=list)

    # -- lives

    def begin_life(self) -> None:
        """Start everything anew: only the database is left of the previous life."""
        self.lives += 1
        self.engine = create_engine(
            sqlalchemy_url(self.database_url), pool_size=2, connect_args={"application_name": "life"}
        ).execution_options(compiled_cache=_COMPILED)
        event.listen(self.engine, "before_cursor_execute", self._the_dead_write_nothing)
        event.listen(self.engine, "commit", self._the_dead_commit_nothing)
        self.world.runtime = replace(self.world.runtime, engine=self.engine)  # the web process keeps its own
        self.scheduler = SchedulerApp(
            database_url=self.database_url,
            engine=self.engine,
            policy=self.world.policy,
            clock=self.world.clock,
            machine_now=self.world.machine,
            enqueue=self.world.runtime.enqueue,
            waiting_in=lambda _queue: 0,
        )

    def end_life(self) -> None:
        with self.world.engine.begin() as connection:
            connection.execute(text(_END_SESSIONS))
        self.scheduler.stop()  # of it nothing reaches the server any more: the sessions are gone
        self.engine.dispose()

    def restart(self) -> None:
        """What its host does after a death: sessions end, all that was rung for is gone, a new process starts.

        The message that was in hand may be delivered again at once: the lease is still young then.
        """
        self.crash.bury()
        self.end_life()
        self.world.enqueued.clear()
        self.begin_life()
        again, self._in_hand = self._in_hand, []
        if self.redelivers:
            self.do_all(again)

    def _the_dead_write_nothing(self, _connection: Connection, _cursor: object, statement: str, *_: object) -> None:
        if self.crash.is_dead:
            self.crash.after_death.append(statement)
            raise Crashed(statement)

    def _the_dead_commit_nothing(self, _connection: Connection) -> None:
        if self.crash.is_dead:
            self.crash.after_death.append("COMMIT")
            raise Crashed("COMMIT")

    # -- work

    def sleep_and_work(self, moment: str) -> None:
        """Advance the time without running; then do what has become due."""
        self.sleep_until(moment)
        self.work()

    def work(self) -> None:
        """Tick, sweep and do enqueued jobs until nothing is due or open."""
        for _ in range(ROUNDS):
            self.wait_for_webhooks()
            self.sweep()
            jobs = self.world.take_enqueued()
            self.do_all(jobs)
            if jobs:
                self._pass(BETWEEN_SWEEPS_S)
            elif self.is_quiet():
                return
            else:
                self._pass(WHILE_WAITING_S)
        raise AssertionError(f"never quiet at {self.now}: {self.pending()}")

    def sweep(self) -> None:
        try:
            self.scheduler.sweep()
        except Crashed:
            self.restart()

    def do(self, job: Job) -> None:
        """Do a job as a worker does; if the worker crashes, deliver it to the next."""
        self._in_hand = [job]
        try:
            self._do(job)
        except Crashed:
            self.restart()
        self._in_hand = []

    def _do(self, job: Job) -> None:
        match job:
            case GenerateInvoices(run_id):
                use_cases.generate_invoices(self.hasty(15), run_id, accounts_per_chunk=ACCOUNTS_PER_CHUNK)
            case RetryPayments(run_id):
                use_cases.retry_payments(self.hasty(15), run_id)
            case ReconcileCharges(run_id):
                use_cases.reconcile_charges(self.hasty(6), run_id)
            case ApplyBulkAction(bulk_id):
                use_cases.apply_bulk_action(self.hasty(15), bulk_id)
            case ApplyStripeEvent(coverage, event_id) if self.without_key == [self._type_of(event_id)]:
                self.without_key.clear()
                try:
                    use_cases.apply_stripe_event(replace(self.world.runtime, gateways={}), coverage, event_id)
                except LookupError:
                    return
                raise AssertionError("an event was applied without a key")
            case ChargePayment(payment_id) if self.has_defect:
                self._charge_with_defect(payment_id)
            case _:
                super().do(job)

    def _charge_with_defect(self, payment_id: UUID) -> None:
        policy = self.world.policy
        broken = replace(policy, dunning=replace(policy.dunning, retry_every_days={}))
        try:
            use_cases.charge_payment(replace(self.world.runtime, policy=broken), payment_id)
        except KeyError:
            self.has_defect = False

    def hasty(self, seconds: float) -> Runtime:
        """A worker whose clock advances at each read, so that its time is up after a chunk or two."""
        ticks = (self.world.machine() + timedelta(seconds=seconds * number) for number in range(1_000))
        return replace(self.world.runtime, machine_now=lambda: next(ticks))

    def is_quiet(self) -> bool:
        return self.pending() == {} and self._unapplied() == 0

    def wait_for_webhooks(self) -> None:
        wait_until(lambda: self.world.simulator.webhook_stats().pending == 0, WEBHOOKS_WITHIN_S)

    def _pass(self, seconds: float) -> None:
        machine = self.world.machine
        machine.now = max(machine.now, machine_now()) + timedelta(seconds=seconds)

    def _unapplied(self) -> int:
        with self.world.engine.connect() as connection:
            return (
                connection.scalar(
                    select(func.count()).where(
                        stripe_events.c.state.in_((StripeEventState.RECEIVED, StripeEventState.TROUBLE))
                    )
                )
                or 0
            )

    def _type_of(self, event_id: str) -> str:
        with self.world.engine.connect() as connection:
            return str(
                connection.scalar(select(stripe_events.c.type).where(stripe_events.c.stripe_event_id == event_id))
            )


@contextmanager
def living_company(
    engine: Engine, database_url: str, day_one: date, crash: Crash, web_url: str | None = None
) -> Iterator[Company]:
    """A company with one coverage, USD and UTC, from noon of the day before day 1.

    Its web process is a thread of ours, unless another's is given: what has settings like `settings_of_web`.
    """
    noon_before = datetime.combine(day_one - timedelta(days=1), time(12), UTC)
    mishaps, policy = Mishaps(), only("global")
    with ExitStack() as stack:
        world = stack.enter_context(running_world(engine, noon_before, policy, mishaps))
        if web_url is None:
            settings = web_settings(database_url, **settings_of_web())
            web_url = stack.enter_context(running(build_app(settings, world.runtime)))
        http = stack.enter_context(httpx.Client(timeout=30, verify=trusted_certificates(), trust_env=False))
        world.simulator.add_webhook_endpoint(
            "global", f"{web_url}/webhooks/stripe/global", secret_of("global"), sorted(HANDLED_EVENT_TYPES)
        )
        company = Company(world, day_one, web_url, database_url, http, mishaps, crash=crash, mishaps=mishaps)
        company.begin_life()
        try:
            yield company
        finally:
            company.end_life()


def settings_of_web() -> dict[str, dict[str, Any]]:
    """Keys and secrets of the company's one coverage."""
    return {
        "STRIPE_API_KEYS": {"global": api_key("global")},
        "STRIPE_WEBHOOK_SECRETS": {"global": [secret_of("global")]},
    }
