"""Attacks on every page of the page table: forged forms, missing roles, injection, oversized input."""

import re
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import text

from shared.domain.roles import Role
from shared.operations.sessions import form_token
from tests.dashboard.conftest import Browser, Dashboard
from web.dashboard.auth import LARGEST_FORM_BYTES, SESSION_COOKIE, Page
from web.dashboard.request_context import ROOT
from web.dashboard.routes import PAGES

UNKNOWN_ID = str(uuid4())
POSTS = [page for page in PAGES if page.method == "POST" and page.role is not None]
GETS = [page for page in PAGES if page.method == "GET" and page.role is not None]
#: Every query parameter that any page reads.
PARAMETERS = (
    *("q", "text", "account", "state", "code", "coverage", "action", "actor", "subject", "job", "period", "after"),
    *("before", "older_than", "amount_from", "kind", "type", "queue", "said", "next", "category"),
)
#: Request headers of a form that another site sent.
FOREIGN: tuple[dict[str, str], ...] = (
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
)
#: Tables that a refused request must not change; every request touches `sessions`, so it isn't listed.
GUARDED_TABLES = (
    "payments",
    "accounts",
    "users",
    "runs",
    "findings",
    "queue_pauses",
    "bulk_actions",
    "audit_log",
    "billing_events",
)


def path_of(page: Page) -> str:
    """A page's path with an unknown ID in it."""
    return re.sub(r"\{\w+\}", UNKNOWN_ID, page.path)


def name_of(page: Page) -> str:
    return f"{page.method} {page.path or '/'}"


def row_counts(dashboard: Dashboard) -> dict[str, int]:
    with dashboard.world.engine.connect() as connection:
        return {table: connection.scalar(text(f"SELECT count(*) FROM {table}")) or 0 for table in GUARDED_TABLES}


def send(browser: Browser, page: Page, headers: dict[str, str] | None = None, **fields: str) -> httpx.Response:
    return browser.client.post(f"{ROOT}{path_of(page)}", data=fields, headers=headers)


def token_for(dashboard: Dashboard, browser: Browser, path: str) -> str:
    """The CSRF token of a form to `path` in this browser's session."""
    with dashboard.world.engine.connect() as connection:
        key = connection.scalar(
            text("SELECT csrf_key FROM sessions WHERE user_id = :id ORDER BY began_at DESC LIMIT 1"),
            {"id": browser.user.id if browser.user else None},
        )
    return form_token(str(key), f"{ROOT}{path}")


def test_a_form_without_its_own_token_changes_nothing(dashboard: Dashboard) -> None:
    browser, other = dashboard.as_("admin"), dashboard.as_("admin", "eve")
    before, accepted = row_counts(dashboard), []
    for page in POSTS:
        path = path_of(page)
        tokens = {
            "missing": None,
            "empty": "",
            "forged": "0" * 64,
            "of another form": token_for(
                dashboard, browser, "/profile/zone" if path == "/sign-out" else "/sign-out"
            ),
            "of another session": token_for(dashboard, other, path),
            "not ASCII": "ü" * 64,
        }
        for what, token in tokens.items():
            fields = {"reason": "an attack"} if token is None else {"reason": "an attack", "token": token}
            if send(browser, page, **fields).status_code != 403:
                accepted.append((name_of(page), what))
    assert accepted == []
    assert row_counts(dashboard) == before


def test_a_form_of_another_site_is_refused_even_with_a_good_token(dashboard: Dashboard) -> None:
    browser = dashboard.as_("admin")
    before = row_counts(dashboard)
    tokens = {page: token_for(dashboard, browser, path_of(page)) for page in POSTS}
    accepted = [
        (name_of(page), headers)
        for page in POSTS
        for headers in FOREIGN
        if send(browser, page, headers, token=tokens[page], reason="an attack").status_code != 403
    ]
    assert accepted == []
    assert row_counts(dashboard) == before


def test_no_access_without_a_session_or_above_ones_role(dashboard: Dashboard) -> None:
    browsers, anonymous = {role: dashboard.as_(role) for role in Role}, dashboard.anonymous()
    before, admitted = row_counts(dashboard), []
    for page in GETS + POSTS:
        assert page.role is not None
        path = f"{ROOT}{path_of(page)}"
        fields = {"reason": "an attack"} if page.method == "POST" else None
        answer = anonymous.client.request(page.method, path, data=fields)
        if (answer.status_code, answer.headers["location"].partition("?")[0]) != (303, f"{ROOT}/sign-in"):
            admitted.append((name_of(page), "anonymous"))
        for role in [role for role in Role if not role.may(page.role)]:
            token = token_for(dashboard, browsers[role], path_of(page))
            fields = {"token": token, "reason": "an attack"} if page.method == "POST" else None
            if browsers[role].client.request(page.method, path, data=fields).status_code != 403:
                admitted.append((name_of(page), role))
    assert admitted == []
    assert row_counts(dashboard) == before


def test_query_parameters_are_escaped_and_change_nothing(dashboard: Dashboard) -> None:
    browser = dashboard.as_("admin")
    before, wrong = row_counts(dashboard), []
    evil = "\"'><script>alert(1)</script>'; DROP TABLE payments; --"
    for page in GETS:
        answer = browser.client.get(f"{ROOT}{path_of(page)}", params=dict.fromkeys(PARAMETERS, evil))
        if answer.status_code >= 500 or "<script>alert" in answer.text:
            wrong.append((name_of(page), evil))
        for name in PARAMETERS:
            answer = browser.client.get(f"{ROOT}{path_of(page)}", params={name: "9" * 10_000})
            if answer.status_code not in (200, 303, 308, 400, 404):
                wrong.append((name_of(page), name))
        answer = browser.client.get(f"{ROOT}{path_of(page)}", params=dict.fromkeys(PARAMETERS, "a\x00b"))
        if answer.status_code >= 500:
            wrong.append((name_of(page), "NUL"))
    assert wrong == []
    changed = {table for table, count in row_counts(dashboard).items() if count != before[table]}
    assert changed <= {"audit_log"}, "only an export is audited"


def test_invalid_ids_in_paths_are_rejected(dashboard: Dashboard) -> None:
    browser, wrong = dashboard.as_("admin"), []
    for page in [page for page in GETS + POSTS if "{" in page.path]:
        for said in ("9" * 10_000, "..%2f..%2fetc%2fpasswd", "%00", "' OR 1=1 --"):
            path = re.sub(r"\{\w+\}", said, page.path)
            token = token_for(dashboard, browser, path)
            fields = {"token": token, "reason": "an attack"} if page.method == "POST" else None
            answer = browser.client.request(page.method, f"{ROOT}{path}", data=fields)
            if answer.status_code not in (303, 308, 400, 403, 404, 405, 414):
                wrong.append((name_of(page), said[:20], answer.status_code))
    assert wrong == []


@pytest.mark.parametrize(
    "path",
    [
        "/static/x/app.css",
        "/static/../../../../etc/passwd",
        "/static/..%2f..%2f..%2fpyproject.toml/app.css",
        "/static/x/..%2f..%2fapp.py",
        "/static/x/%2e%2e/templates/base.html",
    ],
)
def test_only_listed_static_files_are_served(dashboard: Dashboard, path: str) -> None:
    answer = dashboard.anonymous().client.get(f"{ROOT}{path}")
    assert answer.status_code in (303, 404)
    assert "root:" not in answer.text
    assert "requires-python" not in answer.text


def test_oversized_forms_are_rejected(dashboard: Dashboard) -> None:
    browser = dashboard.as_("operator")
    large = "reason=" + "x" * (LARGEST_FORM_BYTES + 1)
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    assert browser.client.post(f"{ROOT}/profile/zone", content=large, headers=kind).status_code == 413

    def endless() -> object:
        for _ in range(1_000):
            yield b"a" * 10_000

    assert browser.client.post(f"{ROOT}/profile/zone", content=endless(), headers=kind).status_code in (411, 413)  # type: ignore[arg-type]
    many = "&".join(f"a{n}=1" for n in range(5_000))
    assert browser.client.post(f"{ROOT}/profile/zone", content=many, headers=kind).status_code == 400
    assert browser.client.post(f"{ROOT}/profile/zone", json={"zone": "UTC"}).status_code == 415


@pytest.mark.parametrize("token", ["", "x", "0" * 43, "é" * 43, "a" * 5_000])
def test_unknown_session_cookie_is_not_signed_in(dashboard: Dashboard, token: str) -> None:
    browser = dashboard.anonymous()
    headers = {"Cookie": f"{SESSION_COOKIE}={token}".encode()}
    assert browser.client.get(f"{ROOT}/profile", headers=headers).status_code == 303  # type: ignore[arg-type]


def test_every_page_sends_strict_security_headers(dashboard: Dashboard) -> None:
    browser = dashboard.as_("admin")
    for page in GETS:
        answer = browser.client.get(f"{ROOT}{path_of(page)}")
        headers = answer.headers
        assert headers["x-content-type-options"] == "nosniff", page.path
        assert headers["x-frame-options"] == "DENY", page.path
        assert headers["cache-control"] == "no-store", page.path
        assert headers["referrer-policy"] in ("no-referrer", "same-origin"), page.path
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy, page.path
        if headers.get("content-type", "").startswith("text/html"):
            assert "frame-ancestors 'none'" in policy, page.path
            assert "unsafe" not in policy, page.path
            assert not re.search(r"\sstyle=|\son\w+=|<script(?! src=)", answer.text), page.path


def test_a_link_cannot_inject_a_notice(dashboard: Dashboard) -> None:
    browser = dashboard.as_("viewer")
    assert "call this number" not in browser.get("/profile", said="Your account is locked: call this number").text
    browser.post("/profile/zone", zone="Asia/Tokyo")
    assert "Time zone saved." not in browser.get("/profile").text, "a notice is shown once"
