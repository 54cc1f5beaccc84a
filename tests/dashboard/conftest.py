"""The dashboard on a real server and database, with browsers signed in by role."""

import html
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from urllib.parse import urljoin

import httpx
import pytest

from shared.domain.roles import Role
from shared.operations.sessions import begin_session
from shared.operations.users import User, add_user, find_user, user_of
from simulator.certificates import trusted_certificates
from tests.web.conftest import web_settings
from tests.web.serving import running
from tests.world import World
from web.app import build_app
from web.dashboard.auth import SESSION_COOKIE
from web.dashboard.request_context import ROOT

PASSWORD = "correct horse battery"
_FORM = re.compile(
    r'<form method="post" action="([^"]+)"[^>]*>\s*<input type="hidden" name="token" value="([^"]+)">'
)


@dataclass
class Browser:
    """A browser without JavaScript: gets pages and submits the forms found on them."""

    client: httpx.Client
    user: User | None
    forms: dict[str, str] = field(default_factory=dict)

    def get(self, path: str = "", **query: str) -> httpx.Response:
        """Get a page of the dashboard and remember the CSRF tokens of its forms."""
        return self._snapshot(self.client.get(f"{ROOT}{path}", params=query or None))

    def post(self, path: str, page: str | None = None, **fields: str) -> httpx.Response:
        """Submit the form to `path` found on `page` (default: the last page that had it); follow redirects."""
        if page is not None:
            self.get(page)
        token = self.forms.get(f"{ROOT}{path}")
        assert token is not None, f"no page had a form to {path}; known forms: {sorted(self.forms)}"
        return self.send(path, token=token, **fields)

    def send(self, path: str, **fields: str) -> httpx.Response:
        """Post these fields as they are, without a form from a page."""
        response = self.client.post(f"{ROOT}{path}", data=fields)
        while response.has_redirect_location:
            response = self.client.get(urljoin(str(response.url), response.headers["location"]))
        return self._snapshot(response)

    def _snapshot(self, response: httpx.Response) -> httpx.Response:
        self.forms |= {html.unescape(action): token for action, token in _FORM.findall(response.text)}
        return response


@dataclass
class Dashboard:
    """The running dashboard. `url` is its server's base URL."""

    world: World
    url: str
    stack: ExitStack

    def as_(self, role: str, name: str | None = None) -> Browser:
        """A browser signed in as a user of this role."""
        name = name or {"viewer": "vera", "operator": "otto", "admin": "ada"}[role]
        with self.world.engine.begin() as connection:
            row = find_user(connection, name)
            user = (
                add_user(connection, name, Role(role), None, "test", self.world.machine())
                if row is None
                else user_of(row)
            )
            token = begin_session(connection, user.id, "127.0.0.1", "test", self.world.machine())
        browser = self.anonymous()
        browser.client.cookies.set(SESSION_COOKIE, token)
        browser.user = user
        return browser

    def anonymous(self) -> Browser:
        """A browser without a session."""
        return Browser(
            self.stack.enter_context(httpx.Client(base_url=self.url, timeout=30, verify=trusted_certificates())),
            None,
        )

    def add_user(self, name: str, role: str = "operator", password: str = PASSWORD) -> User:
        with self.world.engine.begin() as connection:
            return add_user(connection, name, Role(role), password, "test", self.world.machine())


MakeDashboard = Callable[..., Dashboard]


@pytest.fixture
def make_dashboard(world: World, database_url: str) -> Iterator[MakeDashboard]:
    """Make a dashboard with its own settings: `make_dashboard(DUECOURSE_USER_HEADER="X-User", …)`."""
    with ExitStack() as stack:

        def make(**settings: object) -> Dashboard:
            app = build_app(web_settings(database_url, **settings), world.runtime)
            return Dashboard(world, stack.enter_context(running(app)), stack)

        yield make


@pytest.fixture
def dashboard(make_dashboard: MakeDashboard) -> Dashboard:
    return make_dashboard()
