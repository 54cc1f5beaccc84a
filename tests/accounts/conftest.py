"""Customers at the simulator, its webhooks over HTTP to the real receiver, and jobs done on the test's command."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy import Engine, Row, select

from shared.db.tables.accounts import cards, payment_settings
from shared.db.tables.system import billing_events, stripe_events
from shared.gateway.stripe_event_types import HANDLED_EVENT_TYPES
from shared.messaging.jobs import ApplyStripeEvent, ChargePayment
from shared.runtime import Runtime
from simulator.certificates import trusted_certificates
from simulator.client import RegisteredCard
from simulator.issuer.stories import DeclinesThenPays
from tests.seed import Account
from tests.web.conftest import web_settings
from tests.web.serving import running
from tests.web.stripe_webhooks import SECRET, event_body, signature
from tests.world import World, api_key, make_gateways, running_world
from web.app import build_app
from workers.use_cases.apply_stripe_event import apply_stripe_event
from workers.use_cases.charge_payment import charge_payment


@dataclass
class CardWorld:
    """A world with webhooks."""

    world: World
    web_url: str
    http: httpx.Client
    sent: set[str] = field(default_factory=set)

    # -- events

    def arrived(self) -> list[ApplyStripeEvent]:
        """Send the processor's events since the last call; return the jobs that apply them, oldest first.

        The simulator makes the events, the test sets their order. Its own delivery is tested separately.
        """
        found: list[ApplyStripeEvent] = []
        for coverage in self.world.policy.coverages:
            for event in self._new_events(coverage):
                self.send(coverage, json.dumps(event).encode())
                if event["type"] in HANDLED_EVENT_TYPES:
                    found.append(ApplyStripeEvent(coverage, event["id"]))
        return found

    def apply(self, job: ApplyStripeEvent, runtime: Runtime | None = None) -> str | None:
        """Apply one event; return the reason in its billing event."""
        apply_stripe_event(runtime or self.world.runtime, job.coverage, job.stripe_event_id)
        return self.note(job)

    def live(self) -> None:
        """Apply new events and charge enqueued payments until nothing is left."""
        while True:
            for job in self.arrived():
                self.apply(job)
            charges = {job.payment_id for job in self.world.enqueued if isinstance(job, ChargePayment)}
            self.world.enqueued.clear()
            if not charges:
                return
            for payment_id in charges:
                charge_payment(self.world.runtime, payment_id)

    def tell(self, event_id: str, event_type: str, object_id: str, coverage: str = "global") -> ApplyStripeEvent:
        """Send a signed event of our own making."""
        created = int(self.world.clock.now().timestamp())
        body = event_body(event_id, event_type, data={"object": {"id": object_id}}, created=created)
        self.send(coverage, body)
        return ApplyStripeEvent(coverage, event_id)

    def send(self, coverage: str, body: bytes) -> None:
        headers = {"Stripe-Signature": signature(body, SECRET[coverage])}
        answer = self.http.post(f"{self.web_url}/webhooks/stripe/{coverage}", content=body, headers=headers)
        assert answer.status_code == 200

    def event(self, job: ApplyStripeEvent) -> Row[Any]:
        with self.world.engine.connect() as connection:
            return connection.execute(
                select(stripe_events).where(stripe_events.c.stripe_event_id == job.stripe_event_id)
            ).one()

    def note(self, job: ApplyStripeEvent) -> str | None:
        with self.world.engine.connect() as connection:
            return connection.scalar(
                select(billing_events.c.reason).where(
                    billing_events.c.type == "stripe_event_applied",
                    billing_events.c.data["stripe_event_id"].astext == job.stripe_event_id,
                )
            )

    # -- cards

    def settings(self, account: Account) -> Row[Any]:
        with self.world.engine.connect() as connection:
            return connection.execute(
                select(payment_settings).where(payment_settings.c.id == account.settings_id)
            ).one()

    def card(self, registered: RegisteredCard) -> Row[Any] | None:
        with self.world.engine.connect() as connection:
            return connection.execute(
                select(cards).where(cards.c.stripe_payment_method_id == registered.payment_method)
            ).one_or_none()

    def primary(self, account: Account) -> str | None:
        """The payment method id of the account's primary card."""
        with self.world.engine.connect() as connection:
            return connection.scalar(
                select(cards.c.stripe_payment_method_id)
                .join(payment_settings, payment_settings.c.primary_card_id == cards.c.id)
                .where(payment_settings.c.id == account.settings_id)
            )

    def detach(self, coverage: str, payment_method: str) -> None:
        url = f"{self.world.simulator.url}/v1/payment_methods/{payment_method}/detach"
        self.http.post(url, auth=(api_key(coverage), "")).raise_for_status()

    def waiting(self, account: Account, state: str = "needs_payment_method", **columns: Any) -> UUID:
        """A payment that waits for a newer card than the current one."""
        revision = self.settings(account).card_revision
        return self.world.add_due_payment(account, state=state, waiting_for_revision_after=revision, **columns)

    def _new_events(self, coverage: str) -> list[dict[str, Any]]:
        url = f"{self.world.simulator.url}/v1/events?limit=100"
        answer = self.http.get(url, auth=(api_key(coverage), ""))
        answer.raise_for_status()
        new = [event for event in reversed(answer.json()["data"]) if event["id"] not in self.sent]
        self.sent.update(event["id"] for event in new)
        return new


@pytest.fixture
def here(engine: Engine, database_url: str) -> Iterator[CardWorld]:
    with running_world(engine) as world:
        app = build_app(web_settings(database_url), world.runtime)
        with running(app) as url, httpx.Client(timeout=30, verify=trusted_certificates()) as http:
            yield CardWorld(world, url, http)


@pytest.fixture
def cut_off(here: CardWorld) -> Runtime:
    """A runtime that can't reach the processor: nothing listens on port 1."""
    return replace(here.world.runtime, gateways=make_gateways("http://127.0.0.1:1", here.world.policy.coverages))


def payment_with_a_lost_answer(here: CardWorld, account: Account) -> UUID:
    """A payment declined once, then confirmed and paid; the answer of the second confirm timed out."""
    world = here.world
    world.add_primary_card(account, story=DeclinesThenPays(times=1))
    here.live()
    owed = world.add_due_payment(account)
    world.charge(owed)
    next_attempt_at = world.payment(owed).next_attempt_at
    assert next_attempt_at is not None
    world.clock.set(next_attempt_at)
    gateways = make_gateways(world.simulator.url, world.policy.coverages, read_timeout_s=0.3)
    world.simulator.set_latency(1_000)
    charge_payment(replace(world.runtime, gateways=gateways), owed)
    world.simulator.set_latency(0)
    assert [attempt.state for attempt in world.attempts(owed)] == ["declined", "unknown"]
    return owed
