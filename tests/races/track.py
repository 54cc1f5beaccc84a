"""The company of a race: it bills a month, runs a round on each day, then settles everything."""

import asyncio
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from uuid import UUID

import httpx
from sqlalchemy import Engine, select

from scheduler.tick import tick
from shared.clock import machine_now
from shared.db.tables.payments import payments
from shared.domain.calendar import Period
from shared.gateway.port import StripeEventSnapshot
from shared.gateway.stripe_event_types import HANDLED_EVENT_TYPES
from shared.messaging.jobs import (
    GenerateInvoices,
    Job,
)
from shared.runtime import Runtime
from simulator.api.errors import Answer
from simulator.faults.hooks import Arrival, NoFaults
from simulator.issuer.stories import Pays
from simulator.testing import running_simulator
from tests.diaries.conftest import only
from tests.races.contender import LEASE, read_event
from tests.races.plan import STORIES, Round
from tests.races.racers import Batch, Bound, Deliveries, Racers
from tests.seed import Account, add_fee
from tests.world import MachineClock, World, api_key, do, make_gateways
from workers import use_cases

COVERAGE = "global"
AMOUNT_MINOR = 29_85
OPENS_AT = datetime(2026, 10, 31, 12, tzinfo=UTC)
#: A round on each day of a month from the second on; its last days are for what follows.
ROUNDS_A_MONTH = 23
DAYS_TO_SETTLE = 3
#: The daily run is at nine.
ROUND_AT = time(9, 1)
#: Machine time after which leases, look-ups, claims of events and outages' waits are over.
LONG = timedelta(hours=2)
#: More sweeps than any day needs: what still finds work then would find it for ever.
SWEEPS = 100


class Jitter(NoFaults):
    """Some requests take a moment before they are applied, and some answers a moment on their way."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)

    async def before_apply(self, arrival: Arrival) -> Answer | None:  # noqa: ARG002
        await self._wait()
        return None

    async def before_answer(self, arrival: Arrival, answer: Answer) -> Answer:  # noqa: ARG002
        await self._wait()
        return answer

    async def _wait(self) -> None:
        if self._chance.random() < 0.3:
            await asyncio.sleep(self._chance.uniform(0, 0.006))


@dataclass
class Track:
    """Everything of one company. Money is asserted on the simulator's ledger."""

    world: World
    racers: Racers
    database_url: str
    http: httpx.Client
    chance: random.Random
    #: The newest event that was delivered; what came after it is still on its way.
    delivered_up_to: str | None = None
    #: What escaped from a process, with its round.
    errors: list[str] = field(default_factory=list)

    @property
    def now(self) -> datetime:
        return self.world.clock.now()

    def race(self, rounds: list[Round]) -> list[Bound]:
        """Run the rounds, ROUNDS_A_MONTH at a time, and let all settle; return them with their payments."""
        done: list[Bound] = []
        for begin in range(0, len(rounds), ROUNDS_A_MONTH):
            batch = self._bill(rounds[begin : begin + ROUNDS_A_MONTH])
            self.errors += self.racers.run(Batch(self.database_url, self.world.simulator.url, COVERAGE, batch))
            self._deliver_late()
            self._settle()
            done += batch
        return done

    # -- before

    def _bill(self, rounds: list[Round]) -> tuple[Bound, ...]:
        """A month begins: an account, its card and its payment for each round, and what it registers later."""
        first = Period.of(self.now.date()).next.first_day
        accounts = [self._account(one, first) for one in rounds]
        self.world.clock.set(datetime.combine(first, time(0, 1), UTC))
        for job in tick(self.world.engine, self.world.policy, self.now):
            if isinstance(job, GenerateInvoices):  # whatever is due waits for its round
                use_cases.generate_invoices(self.world.runtime, job.run_id)
        setup_intents = [
            self.world.register_card(account, story=Pays()).setup_intent if one.has_new_card else None
            for one, account in zip(rounds, accounts, strict=True)
        ]
        told = {event.stripe_object_id: event for event in self._events()}
        return tuple(
            Bound(
                one,
                datetime.combine(first + timedelta(days=1 + place), ROUND_AT, UTC),
                self._payment_of(account),
                (told[setup_intent],) if setup_intent else (),
            )
            for place, (one, account, setup_intent) in enumerate(zip(rounds, accounts, setup_intents, strict=True))
        )

    def _account(self, one: Round, first: date) -> Account:
        account = self.world.account(f"{first:%Y-%m} {one.number}")
        with self.world.engine.begin() as connection:
            add_fee(connection, account, AMOUNT_MINOR, str(Period.of(first).previous))
        self.world.add_primary_card(account, story=STORIES[one.situation])
        return account

    def _payment_of(self, account: Account) -> UUID:
        with self.world.engine.connect() as connection:
            return connection.execute(select(payments.c.id).where(payments.c.account_id == account.id)).scalar_one()

    # -- after

    def _deliver_late(self) -> None:
        """Deliver all remaining events in random order, some to two processes at once."""
        shares: list[list[StripeEventSnapshot]] = [[] for _ in range(len(self.racers))]
        newest = next(self.listed("events"))["id"]
        for event in self._events():
            for index in self.chance.sample(range(len(shares)), self.chance.choice((1, 1, 2))):
                shares[index].append(event)
        self.delivered_up_to = newest
        for share in shares:
            self.chance.shuffle(share)
        url = self.world.simulator.url
        self.errors += self.racers.deliver(
            [Deliveries(self.database_url, url, COVERAGE, tuple(share)) for share in shares]
        )

    def _settle(self) -> None:
        """Let some days pass and do what is due; machine time is past every lease and wait."""
        for _ in range(DAYS_TO_SETTLE):
            day = self.now.date() + timedelta(days=1)
            self.world.clock.set(datetime.combine(day, ROUND_AT, UTC))
            self.world.machine.now = max(self.world.machine.now, machine_now()) + LONG
            self.world.enqueued += tick(self.world.engine, self.world.policy, self.now)
            for _ in range(SWEEPS):
                jobs = self._due_jobs()
                if not jobs:
                    break
                for job in jobs:
                    do(self.world.runtime, job)
            else:
                raise AssertionError(f"never quiet at {self.now}")

    def _due_jobs(self) -> list[Job]:
        """What was rung for and what the sweep finds, each once."""
        found = self.world.take_enqueued() + self.world.due_jobs(webhook_enqueues_within=timedelta(0))
        return list(dict.fromkeys(found))

    # -- the processor's lists

    def _events(self) -> list[StripeEventSnapshot]:
        """What happened at the processor since all was delivered the last time, of what we are told."""
        found: list[StripeEventSnapshot] = []
        for raw in self.listed("events"):
            if raw["id"] == self.delivered_up_to:
                break
            if raw["type"] in HANDLED_EVENT_TYPES:
                found.append(read_event(raw))
        return found

    def listed(self, kind: str) -> Iterator[dict]:
        """Everything of a kind that the processor has, newest first."""
        after: dict[str, str] = {}
        while True:
            page = self.http.get(f"/v1/{kind}", params={"limit": 100, **after}).raise_for_status().json()
            yield from page["data"]
            if not page["has_more"]:
                return
            after = {"starting_after": page["data"][-1]["id"]}


@contextmanager
def running_track(engine: Engine, database_url: str, racers: Racers, seed: int) -> Iterator[Track]:
    """Open a company on a migrated, empty database, and close it."""
    policy, machine = only(COVERAGE), MachineClock()
    racers.moment.set(OPENS_AT)
    with running_simulator(clock=racers.moment, faults=Jitter(seed)) as simulator:
        enqueued: list[Job] = []
        runtime = Runtime(
            policy=policy,
            engine=engine,
            clock=racers.moment,
            machine_now=machine,
            gateways=make_gateways(simulator.url, [COVERAGE], read_timeout_s=60.0),
            enqueue=lambda jobs: bool(enqueued.extend(jobs)),
            lease=LEASE,
        )
        tick(engine, policy, OPENS_AT)
        with httpx.Client(
            base_url=simulator.url, auth=(api_key(COVERAGE), ""), trust_env=False, timeout=60
        ) as http:
            world = World(engine, policy, racers.moment, machine, simulator, runtime, enqueued)
            yield Track(world, racers, database_url, http, random.Random(seed))
