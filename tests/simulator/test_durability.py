"""Confirmed charges are on disk before they are answered: kill -9 loses nothing."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
import stripe

from simulator.client import SimulatorClient
from simulator.store.store import Store, StoreInUse
from simulator.testing import running_simulator
from tests.simulator.conftest import sdk
from tests.simulator.receiver import SECRET, receiving
from tests.simulator.sdk_calls import confirm, new_intent

READY = re.compile(r"simulator ready on (http://\S+)")


@contextmanager
def simulator_process(data: Path, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`python -m simulator` on a free port; killed at the end if it still runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "simulator", "--port", "0", "--data", str(data)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "DUECOURSE_CLOCK": "system", **environment},
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = READY.match(line)
        assert found, f"no ready line: {line!r}"
        yield process, found[1]
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_no_confirmed_charge_is_lost_by_kill_9(tmp_path: Path) -> None:
    confirmed: list[tuple[str, int]] = []
    with simulator_process(tmp_path) as (process, url), SimulatorClient(url) as client:
        stop = threading.Event()
        clerks = [threading.Thread(target=_charge_until, args=(client, stop, confirmed)) for _ in range(3)]
        for clerk in clerks:
            clerk.start()
        deadline = time.monotonic() + 10
        while len(confirmed) < 60 and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        stop.set()
        for clerk in clerks:
            clerk.join()
        process.wait()
    assert len(confirmed) >= 60

    with running_simulator(data_dir=tmp_path) as again:
        booked = {line.payment_intent: line.amount for line in again.ledger()}
        assert all(booked.get(intent) == amount for intent, amount in confirmed)
        assert len(again.ledger()) - len(confirmed) <= len(clerks), "at most one answer per clerk was on its way"
        found = sdk(again).v1.payment_intents.retrieve(confirmed[-1][0])
        assert found.status == "succeeded"


def _charge_until(sim: SimulatorClient, stop: threading.Event, confirmed: list[tuple[str, int]]) -> None:
    client = sdk(sim)
    while not stop.is_set():
        with suppress(stripe.StripeError):
            intent = new_intent(client, None, amount=1000 + len(confirmed))
            paid = confirm(client, intent.id, "pm_card_visa")
            confirmed.append((paid.id, paid.amount))


def test_an_idempotency_key_survives_a_restart(tmp_path: Path) -> None:
    key = str(uuid4())
    made = []
    for _ in range(2):
        with running_simulator(data_dir=tmp_path) as own:
            intent = sdk(own).v1.payment_intents.create(
                {"amount": 500, "currency": "usd", "allowed_payment_method_types": ["card"]},
                {"idempotency_key": key},
            )
            made.append(intent.id)
    assert made[0] == made[1]


def test_sigterm_stops_the_simulator_quickly_without_errors(tmp_path: Path) -> None:
    with simulator_process(tmp_path) as (process, url), SimulatorClient(url) as client:
        client.health()  # a kept-alive connection must not hold it back
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=5) in (0, -signal.SIGTERM)
        assert time.monotonic() - began < 3
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_webhooks_and_accounts_come_from_the_environment(tmp_path: Path) -> None:
    with receiving() as received:
        webhooks = f'[{{"account": "global", "url": "{received.url}", "secret": "{SECRET}"}}]'
        environment = {"SIMULATOR_WEBHOOKS": webhooks, "SIMULATOR_ACCOUNTS": "global,japan"}
        with simulator_process(tmp_path, **environment) as (_, url), SimulatorClient(url) as client:
            sdk(client).v1.customers.create({})
            received.wait_for("customer.created")
            headers = {"Authorization": "Bearer sk_test_sim_nowhere"}
            assert httpx.get(f"{url}/v1/account", headers=headers).status_code == 401


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"SIMULATOR_PORT": "many"}, "SIMULATOR_PORT"),
        ({"SIMULATOR_WEBHOOKS": "[{}]"}, "SIMULATOR_WEBHOOKS"),
        ({"DUECOURSE_CLOCK": "virtual", "DATABASE_URL": ""}, "DATABASE_URL"),
    ],
)
def test_an_invalid_setting_is_named_at_the_start(tmp_path: Path, environment: dict[str, str], said: str) -> None:
    command = [sys.executable, "-m", "simulator", "--data", str(tmp_path)]
    ended = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=20)
    assert ended.returncode == 2
    assert said in ended.stderr


def test_two_simulators_cannot_share_a_folder(tmp_path: Path) -> None:
    first = Store(tmp_path)
    with pytest.raises(StoreInUse, match="another simulator"):
        Store(tmp_path)
    first.close()
    Store(tmp_path).close()
