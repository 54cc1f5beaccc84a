"""Jobs and actors are two lists of the same names; only this test keeps them equal."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

import shared.messaging.jobs
from shared.domain.states import Lane
from shared.messaging.broker import make_broker
from shared.messaging.jobs import (
    DAILY_RETRIES,
    MONTHLY_INVOICES,
    QUEUES,
    RECONCILIATION,
    RELEASED_JOBS,
    RELEASED_QUEUES,
    job_of_run,
)
from shared.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
ONE = UUID("01890000-0000-7000-8000-000000000001")
#: A value for each field that jobs have.
VALUES: dict[str, Any] = {"lane": Lane.BATCH, "coverage": "global", "stripe_event_id": "evt_1"}

#: Imports the actors as the worker process does, and prints each.
TELL = """
import inspect, json
from workers.actors import broker
print(json.dumps({name: {"queue": actor.queue_name, "time_limit": actor.options.get("time_limit"),
    "max_retries": actor.options.get("max_retries"), "parameters": [
        [one.name, getattr(one.annotation, "__name__", one.annotation)]
        for one in inspect.signature(actor.fn).parameters.values()]} for name, actor in broker.actors.items()}))
"""


@pytest.fixture(scope="module")
def actors() -> dict[str, dict[str, Any]]:
    given = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none", "REDIS_URL": "redis://127.0.0.1:1/0"}
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("STRIPE", "DUECOURSE"))
    }
    told = subprocess.run(
        [sys.executable, "-c", TELL], cwd=ROOT, env={**environment, **given}, capture_output=True, check=False
    )
    assert told.returncode == 0, told.stderr.decode()
    found: dict[str, dict[str, Any]] = json.loads(told.stdout)
    return found


def job_classes() -> list[type[Any]]:
    return [
        one
        for one in vars(shared.messaging.jobs).values()
        if dataclasses.is_dataclass(one) and isinstance(one, type)
    ]


def make(job_class: type[Any]) -> Any:
    return job_class(**{field.name: VALUES.get(field.name, ONE) for field in dataclasses.fields(job_class)})


def test_jobs_and_actors_have_the_same_names(actors: dict[str, dict[str, Any]]) -> None:
    assert sorted(actors) == sorted([*(job_class.name for job_class in job_classes()), *RELEASED_JOBS])
    assert {actors[name]["queue"] == actors[now]["queue"] for name, now in RELEASED_JOBS.items()} == {True}


@pytest.mark.parametrize("job_class", job_classes(), ids=lambda one: one.name)
def test_actor_accepts_the_arguments_of_its_job(actors: dict[str, dict[str, Any]], job_class: type[Any]) -> None:
    job = make(job_class)
    assert all(type(argument) is str for argument in job.arguments)
    actor = actors[job.name]
    assert [kind for _, kind in actor["parameters"]] == ["str"] * len(job.arguments)
    fields = [field.name for field in dataclasses.fields(job_class) if field.name != "lane"]
    assert [name for name, _ in actor["parameters"]] == fields
    assert actor["queue"] == job.queue
    assert actor["max_retries"] in (None, 0), "the sweep enqueues the row again"
    assert actor["time_limit"], "a charge that hangs must end before its lease does"


def test_charge_time_limit_ends_well_before_its_lease(actors: dict[str, dict[str, Any]]) -> None:
    lease_ms = Settings.model_fields["lease_s"].default * 1000
    assert actors["charge_payment"]["time_limit"] * 2 < lease_ms


def test_every_queue_has_one_worker_line_in_the_procfile(redis_url: str) -> None:
    procfile = (ROOT / "Procfile").read_text()
    taken = [
        queue
        for line in procfile.splitlines()
        if "--queues" in line
        for queue in line.split("--queues ")[1].split(" --")[0].split()
    ]
    assert sorted(taken) == sorted([*QUEUES, *RELEASED_QUEUES]), "each by exactly one worker line"
    assert make_broker(redis_url).get_declared_queues() == {*QUEUES, *RELEASED_QUEUES}  # type: ignore[no-untyped-call]
    for job_class in job_classes():
        assert make(job_class).queue in QUEUES


@pytest.mark.parametrize("run_job", [MONTHLY_INVOICES, DAILY_RETRIES, RECONCILIATION])
def test_each_kind_of_run_has_a_job(run_job: str) -> None:
    assert job_of_run(run_job, ONE).arguments == (str(ONE),)


def test_run_of_an_unknown_kind_is_rejected() -> None:
    with pytest.raises(KeyError):
        job_of_run("yearly-statements", ONE)


def test_job_names_and_queues_are_permanent() -> None:
    """Messages of the previous release are in Redis while the next one starts: only add to this list.

    A job may move to another queue (`settle_attempt` left `batch`): a worker finds the actor by its name, whatever
    queue a message lies in, as long as that queue has a worker.
    """
    jobs = {job_class.name: make(job_class).queue for job_class in job_classes()}
    assert jobs.items() >= {
        ("charge_payment", "batch"),
        ("settle_attempt", "settlement"),
        ("apply_stripe_event", "interactive"),
        ("generate_invoices", "runs"),
        ("retry_payments", "runs"),
        ("reconcile_charges", "reconciliation"),
        ("close_payment", "settlement"),
        ("apply_bulk_action", "runs"),
    }
