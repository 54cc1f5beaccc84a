"""A web application on a real database, with an `enqueue` that records its jobs."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from sqlalchemy import Engine, Row, create_engine, select

from shared.clock import ManualClock, machine_now
from shared.db.tables.system import stripe_events
from shared.messaging.jobs import Job
from shared.runtime import Runtime
from shared.settings import Settings
from simulator.certificates import trusted_certificates
from tests.seed import default_policy
from tests.web.serving import running
from tests.web.stripe_webhooks import OLD_SECRET, SECRET, event_body, signature
from web.app import build_app

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)


@dataclass
class RecordingEnqueue:
    """Stands in for Redis: records each enqueued job."""

    jobs: list[Job] = field(default_factory=list)

    def __call__(self, jobs: Iterable[Job]) -> bool:
        self.jobs += jobs
        return True


@dataclass
class Web:
    """The application on a real HTTP server."""

    client: httpx.Client
    engine: Engine
    enqueue: RecordingEnqueue

    def post(self, body: bytes, signed: str | None, coverage: str = "global") -> int:
        headers = {} if signed is None else {"Stripe-Signature": signed}
        return self.client.post(f"/webhooks/stripe/{coverage}", content=body, headers=headers).status_code

    def post_signed(self, **event: object) -> int:
        body = event_body(**event)  # type: ignore[arg-type]
        return self.post(body, signature(body))

    def stored(self) -> list[Row]:
        with self.engine.connect() as connection:
            return list(connection.execute(select(stripe_events).order_by(stripe_events.c.stripe_event_id)))


MakeWeb = Callable[..., Web]


def web_settings(database_url: str, **changes: object) -> Settings:
    values: dict[str, object] = {
        "DATABASE_URL": database_url,
        "REDIS_URL": "redis://127.0.0.1:1/0",
        "STRIPE_API_KEYS": {"global": "sk_test_sim_global", "japan": "sk_test_sim_japan"},
        "STRIPE_WEBHOOK_SECRETS": {"global": [SECRET["global"], OLD_SECRET], "japan": [SECRET["japan"]]},
    }
    return Settings(**{**values, **changes})  # type: ignore[arg-type]


def make_runtime(engine: Engine, enqueue: Callable[[Iterable[Job]], bool]) -> Runtime:
    return Runtime(
        policy=default_policy(),
        engine=engine,
        clock=ManualClock(NOW),
        machine_now=machine_now,
        gateways={},
        enqueue=enqueue,
        lease=timedelta(seconds=300),
    )


@pytest.fixture
def make_web(database_url: str, engine: Engine) -> Iterator[MakeWeb]:
    with ExitStack() as servers:

        def make(web_engine: Engine = engine, **settings: object) -> Web:
            enqueue = RecordingEnqueue()
            app = build_app(web_settings(database_url, **settings), make_runtime(web_engine, enqueue))
            url = servers.enter_context(running(app))
            client = servers.enter_context(httpx.Client(base_url=url, timeout=30, verify=trusted_certificates()))
            return Web(client, engine, enqueue)

        yield make


@pytest.fixture
def web(make_web: MakeWeb) -> Web:
    return make_web()


@pytest.fixture
def dead_engine() -> Engine:
    """An engine without a server: port 1 refuses the connection at once."""
    return create_engine("postgresql+psycopg://nobody@127.0.0.1:1/none", pool_pre_ping=True)
