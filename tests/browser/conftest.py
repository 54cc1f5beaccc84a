"""Chromium, driven by Playwright, on the dashboard of a company a few days into its month."""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import pytest
from dramatiq.brokers.redis import RedisBroker
from playwright.sync_api import Browser as Chromium
from playwright.sync_api import BrowserContext, Page, sync_playwright
from sqlalchemy import Engine

from shared.domain.roles import Role
from shared.messaging.broker import make_broker
from shared.operations.users import add_user, find_user
from simulator.issuer.stories import AlwaysDeclines, DeclinesThenPays, NeedsAuthentication, Pays, Story
from tests.dashboard.conftest import PASSWORD
from tests.diaries.conftest import opened
from tests.diaries.diary import Diary
from tests.seed import Account, default_policy
from tests.web.conftest import web_settings
from tests.web.serving import running
from web.app import build_app
from web.dashboard.request_context import ROOT

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
#: Set in CI: a missing browser is then an error, not a skip.
NEEDED = "DUECOURSE_NEED_CHROMIUM"
#: Timeout of every page action (ms); generous, for slow machines.
PATIENCE_MS = 30_000
NOVEMBER = date(2026, 11, 1)
#: Card behaviours, one account each; the remaining accounts pay.
STORIES: tuple[Story, ...] = (
    AlwaysDeclines(decline_code="insufficient_funds"),
    AlwaysDeclines(decline_code="do_not_honor"),
    DeclinesThenPays(times=2, decline_code="insufficient_funds"),
    DeclinesThenPays(times=1, decline_code="processing_error"),
    AlwaysDeclines(decline_code="lost_card"),
    AlwaysDeclines(decline_code="expired_card"),
    NeedsAuthentication(),
)
ACCOUNTS = 16


@pytest.fixture(
    scope="module"
)  # not session: Playwright's event loop runs in this thread, and other tests start theirs there
def chromium() -> Iterator[Chromium]:
    """One browser for the tests of a file. Skips the tests if none is installed."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        if os.environ.get(NEEDED):
            pytest.fail(f"no chromium, and {NEEDED} is set: apt-get install chromium")
        pytest.skip("no chromium installed: browser tests are skipped (apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@dataclass
class Office:
    """The running dashboard, the users' browsers, and the company whose data it shows."""

    diary: Diary
    url: str
    broker: RedisBroker
    chromium: Chromium
    accounts: list[Account] = field(default_factory=list)
    contexts: list[BrowserContext] = field(default_factory=list)

    def sign_in(self, name: str, role: str = "operator", **context: Any) -> Page:
        """Sign in as this user (added if new) in a new browser context; returns its page at the overview."""
        with self.diary.world.engine.begin() as connection:
            if find_user(connection, name) is None:
                add_user(connection, name, Role(role), PASSWORD, "test", self.diary.world.machine())
        page = self.open(**context)
        page.goto(ROOT)
        page.get_by_label("Name").fill(name)
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Sign in").click()
        page.locator("form[action$='/sign-out']").first.wait_for(state="attached")
        return page

    def open(self, **context: Any) -> Page:
        """An empty page in a browser context of its own."""
        opened_context = self.chromium.new_context(base_url=self.url, **context)
        opened_context.set_default_timeout(PATIENCE_MS)
        self.contexts.append(opened_context)
        return opened_context.new_page()

    def add_accounts(self, count: int, name: str, amount_minor: int, *stories: Story) -> list[Account]:
        """Add accounts with a card and a fee for October each; the first cards follow these stories."""
        added = []
        for number in range(count):
            account = self.diary.account(f"{name}-{number:03d}")
            story = stories[number] if number < len(stories) else Pays()
            self.diary.world.register_card(account, story=story)
            self.diary.fee(account, amount_minor + number)
            added.append(account)
        self.diary.work()
        self.accounts += added
        return added


@pytest.fixture
def empty_office(engine: Engine, database_url: str, redis_url: str, chromium: Chromium) -> Iterator[Office]:
    """A company without accounts."""
    with ExitStack() as stack:
        diary = stack.enter_context(opened(engine, database_url, NOVEMBER, default_policy()))
        broker = make_broker(redis_url)
        settings = web_settings(database_url, REDIS_URL=redis_url)
        url = stack.enter_context(running(build_app(settings, diary.world.runtime, broker)))
        office = Office(diary, url, broker, chromium)
        yield office
        for context in office.contexts:
            context.close()


@pytest.fixture
def office(empty_office: Office) -> Office:
    """A company on November 4: some cards paid, some were declined three times."""
    empty_office.add_accounts(ACCOUNTS, "A", 29_85, *STORIES)
    empty_office.diary.advance_to("2026-11-04 12:00")
    return empty_office
