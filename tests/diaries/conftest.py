"""Each diary is a company of its own; at its end verify checks all of it, with the processor's ledger."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Protocol

import httpx
import pytest
from sqlalchemy import Engine

from shared.gateway.stripe_event_types import HANDLED_EVENT_TYPES
from shared.policy import Policy
from shared.reconciliation.verify import Scope, verify
from simulator.certificates import trusted_certificates
from tests.diaries.diary import Diary, secret_of
from tests.diaries.gates import Gates
from tests.seed import default_policy
from tests.web.conftest import web_settings
from tests.web.serving import running
from tests.world import api_key, running_world
from web.app import build_app

NOVEMBER = date(2026, 11, 1)


class OpenDiary(Protocol):
    """Opens a diary; day 1 is the first of November unless said otherwise."""

    def __call__(self, day_one: date = NOVEMBER, policy: Policy | None = None) -> Diary: ...


@pytest.fixture
def open_diary(engine: Engine, database_url: str) -> Iterator[OpenDiary]:
    with ExitStack() as diaries:

        def open_(day_one: date = NOVEMBER, policy: Policy | None = None) -> Diary:
            return diaries.enter_context(opened(engine, database_url, day_one, policy or only("global")))

        yield open_


@pytest.fixture
def diary(open_diary: OpenDiary) -> Diary:
    """A company with one coverage, in USD and UTC."""
    return open_diary()


@pytest.fixture
def two_coverages(open_diary: OpenDiary) -> Diary:
    """A company that bills in USD and UTC, and in JPY and Tokyo."""
    return open_diary(policy=default_policy())


def only(coverage: str) -> Policy:
    """The repository's billing.toml, with one of its coverages."""
    policy = default_policy()
    return replace(policy, coverages={coverage: policy.coverage(coverage)})


def opened(engine: Engine, database_url: str, day_one: date, policy: Policy) -> AbstractContextManager[Diary]:
    @contextmanager
    def diary() -> Iterator[Diary]:
        noon_before = datetime.combine(day_one - timedelta(days=1), time(12), UTC)
        gates = Gates()
        settings = web_settings(
            database_url,
            STRIPE_API_KEYS={coverage: api_key(coverage) for coverage in policy.coverages},
            STRIPE_WEBHOOK_SECRETS={coverage: [secret_of(coverage)] for coverage in policy.coverages},
        )
        with (
            running_world(engine, noon_before, policy, gates) as world,
            running(build_app(settings, world.runtime)) as web_url,
            httpx.Client(timeout=30, verify=trusted_certificates(), trust_env=False) as http,
        ):
            for coverage in policy.coverages:
                url = f"{web_url}/webhooks/stripe/{coverage}"
                world.simulator.add_webhook_endpoint(
                    coverage, url, secret_of(coverage), sorted(HANDLED_EVENT_TYPES)
                )
            diary = Diary(world, day_one, web_url, database_url, http, gates)
            diary.work()
            yield diary
            assert_verify_is_clean(diary)

    return diary()


def assert_verify_is_clean(diary: Diary) -> None:
    """Run verify without patience: at the end of a diary no work is pending."""
    world = diary.world
    diary.work()
    report = verify(
        world.engine,
        Scope(now=diary.now, machine_now=world.machine(), forgotten_after=timedelta(0)),
        gateways=world.runtime.gateways,
        coverages=world.policy.coverages,
    )
    breaks = [f"{result.check.name}: {one.what}" for result in report.results for one in result.breaks]
    not_checked = [f"{result.check.name}: {result.not_checked}" for result in report.results if result.not_checked]
    assert (breaks, not_checked) == ([], [])
    assert report.is_clean
    assert report.open_findings == diary.expected_findings
    assert all(total.theirs_minor == total.ours_minor for total in report.sums)
