"""An event is stored once and acknowledged at once; Stripe resends events that could not be stored."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from sqlalchemy import Engine, select, text

from shared.db.tables.system import stripe_events
from shared.gateway.stripe_event_types import HANDLED_EVENT_TYPES
from shared.messaging.broker import make_broker, make_enqueue, waiting_messages
from shared.messaging.jobs import INTERACTIVE, ApplyStripeEvent
from tests.web.conftest import MakeWeb, RecordingEnqueue, Web, make_runtime, web_settings
from tests.web.serving import running, wait_until
from tests.web.stripe_webhooks import event_body, signature
from web.app import build_app
from web.webhooks import MAX_BODY_BYTES
from workers.use_cases.stripe_events import HANDLERS

HTTP = httpx.Client(timeout=30)


def test_web_and_workers_handle_the_same_event_types() -> None:
    assert set(HANDLERS) == HANDLED_EVENT_TYPES


def test_event_sent_three_times_is_stored_and_enqueued_once(web: Web) -> None:
    assert [web.post_signed() for _ in range(3)] == [200, 200, 200]
    assert len(web.stored()) == 1
    assert web.enqueue.jobs == [ApplyStripeEvent("global", "evt_1")]


def test_the_same_event_id_in_two_coverages_is_two_events(web: Web) -> None:
    body = event_body()
    assert web.post(body, signature(body)) == 200
    assert web.post(body, signature(body, "whsec_japan"), "japan") == 200
    assert [row.coverage for row in web.stored()] == ["global", "japan"]


def test_event_resent_after_it_was_applied_stays_applied(web: Web, engine: Engine) -> None:
    web.post_signed()
    with engine.begin() as connection:
        connection.execute(stripe_events.update().values(state="applied"))
    assert web.post_signed() == 200
    assert [row.state for row in web.stored()] == ["applied"]


def test_event_type_without_handler_is_stored_as_ignored_and_not_enqueued(web: Web) -> None:
    assert web.post_signed(event_type="invoice.created") == 200
    assert [row.state for row in web.stored()] == ["ignored"]
    assert web.enqueue.jobs == []


def test_database_down_returns_503_so_that_stripe_retries(make_web: MakeWeb, dead_engine: Engine) -> None:
    down = make_web(dead_engine)
    body = event_body()
    answer = down.client.post(
        "/webhooks/stripe/global", content=body, headers={"Stripe-Signature": signature(body)}
    )
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "5"
    assert down.enqueue.jobs == []


def test_database_restart_loses_no_event(web: Web, engine: Engine) -> None:
    web.post_signed(event_id="evt_1")
    with engine.connect() as connection:
        cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
        connection.execute(text(f"{cut} AND pid <> pg_backend_pid()"))
    answers = [web.post_signed(event_id="evt_2"), web.post_signed(event_id="evt_2")]
    assert answers[-1] == 200
    assert set(answers) <= {200, 503}
    assert [row.stripe_event_id for row in web.stored()] == ["evt_1", "evt_2"]


def test_event_is_stored_while_redis_is_down(database_url: str, engine: Engine) -> None:
    enqueue = make_enqueue(make_broker("redis://127.0.0.1:1/0"))
    app = build_app(web_settings(database_url), make_runtime(engine, enqueue))
    with running(app) as url:
        assert post(url, event_body()) == 200
    with engine.connect() as connection:
        assert connection.scalar(select(stripe_events.c.state)) == "received"


def test_stored_event_is_enqueued_as_interactive(database_url: str, engine: Engine, redis_url: str) -> None:
    broker = make_broker(redis_url)
    with running(build_app(web_settings(database_url), make_runtime(engine, make_enqueue(broker)))) as url:
        assert post(url, event_body()) == 200
        wait_until(lambda: waiting_messages(broker, INTERACTIVE) == 1)


def test_hanging_redis_delays_no_response(database_url: str, engine: Engine) -> None:
    released = threading.Event()

    def hangs(jobs: object) -> bool:
        return released.wait(30)

    with running(build_app(web_settings(database_url), make_runtime(engine, hangs))) as url:
        started = time.monotonic()
        with ThreadPoolExecutor(8) as senders:
            answers = set(senders.map(lambda n: post(url, event_body(f"evt_{n}")), range(100)))
        took = time.monotonic() - started
        released.set()
    assert answers == {200}
    assert took < 15, "the responses waited for Redis"


def test_hundreds_of_concurrent_events_are_stored_once_each(database_url: str, engine: Engine) -> None:
    with running(build_app(web_settings(database_url), make_runtime(engine, RecordingEnqueue()))) as url:
        bodies = [event_body(f"evt_{n % 100}") for n in range(300)]
        with ThreadPoolExecutor(16) as senders:
            answers = set(senders.map(lambda body: post(url, body), bodies))
    assert answers == {200}
    with engine.connect() as connection:
        assert len(connection.execute(select(stripe_events.c.stripe_event_id)).all()) == 100


def test_oversized_body_is_refused_before_it_is_read(web: Web) -> None:
    body = event_body(padding="x" * MAX_BODY_BYTES)
    assert web.post(body, signature(body)) == 413
    assert web.stored() == []


def test_body_of_the_maximum_size_is_accepted(web: Web) -> None:
    body = event_body(padding="x" * (MAX_BODY_BYTES - len(event_body(padding=""))))
    assert len(body) == MAX_BODY_BYTES
    assert web.post(body, signature(body)) == 200


def test_oversized_chunked_body_is_refused(database_url: str, engine: Engine) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(20):
            yield b"x" * 65_536

    with running(build_app(web_settings(database_url), make_runtime(engine, RecordingEnqueue()))) as url:
        answer = httpx.post(f"{url}/webhooks/stripe/global", content=chunks())
    assert answer.status_code == 413


def test_only_post_is_allowed(web: Web) -> None:
    assert web.client.get("/webhooks/stripe/global").status_code == 405


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/healthz"), ("GET", "/nothing"), ("GET", "/webhooks/stripe/global"), ("POST", "/webhooks/stripe/x")],
)
def test_every_response_has_strict_headers(web: Web, method: str, path: str) -> None:
    headers = web.client.request(method, path).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"


def test_unexpected_error_is_a_bare_500_with_strict_headers(make_web: MakeWeb, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE stripe_events RENAME TO elsewhere"))
    web = make_web()
    body = event_body()
    answer = web.client.post("/webhooks/stripe/global", content=body, headers={"Stripe-Signature": signature(body)})
    assert (answer.status_code, answer.text) == (500, "Internal Server Error")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def post(url: str, body: bytes) -> int:
    headers = {"Stripe-Signature": signature(body)}
    return HTTP.post(f"{url}/webhooks/stripe/global", content=body, headers=headers).status_code
