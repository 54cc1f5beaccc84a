"""The real web process is killed and stopped while it handles a webhook."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from sqlalchemy import Engine, text

from benchmarks.sigterm import worker_environment
from shared.clock import machine_now
from shared.db.query_terms import Moment
from shared.scheduling.due_work import DUE_WORK, STRIPE_EVENTS
from tests.broker.line import Line
from tests.web.serving import wait_until
from tests.web.stripe_webhooks import SECRET, event_body, signature

pytestmark = pytest.mark.processes

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 60.0


@contextmanager
def web_process(database_url: str, redis_url: str) -> Iterator[tuple["subprocess.Popen[bytes]", str]]:
    """The web process of the Procfile on a free port; yields it and its URL."""
    listening = socket.create_server(("127.0.0.1", 0))
    environment = {
        **worker_environment(database_url, redis_url, "http://127.0.0.1:9"),
        "STRIPE_WEBHOOK_SECRETS": f'{{"global": ["{SECRET["global"]}"]}}',
        "DUECOURSE_WEB_FD": str(listening.fileno()),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "web"], cwd=ROOT, env=environment, pass_fds=(listening.fileno(),)
    )
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    try:
        wait_until(lambda: is_ready(url), within_s=PATIENCE_S)
        yield process, url
    finally:
        process.kill()
        process.wait()
        listening.close()


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=5, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def due_events(engine: Engine) -> list[str]:
    moment = Moment(machine_now(), machine_now())
    (source,) = (one for one in DUE_WORK if one.query is STRIPE_EVENTS)
    with engine.connect() as connection:
        return [row.stripe_event_id for row in connection.execute(source.query, moment.parameters())]


def test_sweep_finds_an_event_stored_but_not_enqueued_before_a_kill(
    engine: Engine, database_url: str, redis_url: str
) -> None:
    line = Line(redis_url)
    with web_process(database_url, line.url) as (process, url):
        line.hang()  # the ring waits for its answer, and the web process is killed there
        body = event_body()
        answer = httpx.post(
            f"{url}/webhooks/stripe/global",
            content=body,
            headers={"Stripe-Signature": signature(body)},
            timeout=PATIENCE_S,
            trust_env=False,
        )
        assert answer.status_code == 200, "Stripe won't send it again"
        process.send_signal(signal.SIGKILL)
        process.wait()
    wait_until(lambda: due_events(engine) == ["evt_1"], within_s=PATIENCE_S)
    line.cut()


def test_event_not_stored_before_a_kill_is_sent_again_by_stripe(
    engine: Engine, database_url: str, redis_url: str
) -> None:
    body = event_body()
    headers = {"Stripe-Signature": signature(body)}
    with web_process(database_url, redis_url) as (process, url), engine.connect() as other_session:
        other_session.execute(
            text("LOCK TABLE stripe_events IN SHARE MODE")
        )  # the insert waits, inside its transaction
        with httpx.Client(base_url=url, timeout=PATIENCE_S, trust_env=False) as stripe:
            killer = subprocess.Popen(["sh", "-c", f"sleep 0.5; kill -9 {process.pid}"])
            with pytest.raises(httpx.TransportError):
                stripe.post("/webhooks/stripe/global", content=body, headers=headers)
            killer.wait()
        other_session.rollback()
    assert due_events(engine) == []
    with web_process(database_url, redis_url) as (_, url):
        again = httpx.post(f"{url}/webhooks/stripe/global", content=body, headers=headers, trust_env=False)
        assert again.status_code == 200
    wait_until(lambda: due_events(engine) == ["evt_1"], within_s=PATIENCE_S)


def test_web_process_signalled_twice_finishes_its_requests_and_exits_0(
    engine: Engine, database_url: str, redis_url: str
) -> None:
    body = event_body()
    head = (
        "POST /webhooks/stripe/global HTTP/1.1\r\nHost: us\r\n"
        f"Stripe-Signature: {signature(body)}\r\nContent-Length: {len(body)}\r\n"
        "Expect: 100-continue\r\n\r\n"
    ).encode()
    with web_process(database_url, redis_url) as (process, url):
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as stripe:
            stripe.sendall(head)
            assert stripe.recv(1_000).startswith(b"HTTP/1.1 100"), "it reads the body now"
            process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
            process.send_signal(signal.SIGTERM)
            stripe.sendall(body)
            assert stripe.recv(1_000).startswith(b"HTTP/1.1 200")
        began = time.monotonic()
        assert process.wait(PATIENCE_S) == 0
        assert time.monotonic() - began < 20
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM stripe_events")) == 1


def test_locked_events_table_is_answered_with_an_error_before_stripe_times_out(
    engine: Engine, database_url: str, redis_url: str
) -> None:
    body = event_body()
    with web_process(database_url, redis_url) as (_, url), engine.connect() as other_session:
        other_session.execute(text("LOCK TABLE stripe_events IN SHARE MODE"))
        began = time.monotonic()
        answer = httpx.post(
            f"{url}/webhooks/stripe/global",
            content=body,
            headers={"Stripe-Signature": signature(body)},
            timeout=PATIENCE_S,
            trust_env=False,
        )
        assert answer.status_code == 503
        assert time.monotonic() - began < 20
        other_session.rollback()
