"""Sign-in, sessions, sign-out, and sign-in by a trusted proxy."""

from collections.abc import Callable

import httpx
import pytest
from sqlalchemy import text

from shared.operations.sessions import IDLE_FOR, LASTS_FOR
from tests.dashboard.conftest import PASSWORD, Browser, Dashboard, MakeDashboard
from web.dashboard.auth import SESSION_COOKIE, safe_next
from web.dashboard.request_context import ROOT


def sign_in(browser: Browser, name: str, password: str = PASSWORD, next_: str = "") -> httpx.Response:
    browser.get("/sign-in")
    token = browser.forms[f"{ROOT}/sign-in"]
    return browser.client.post(
        f"{ROOT}/sign-in", data={"token": token, "name": name, "password": password, "next": next_}
    )


def test_correct_password_signs_in_and_redirects_to_the_requested_page(dashboard: Dashboard) -> None:
    dashboard.add_user("anna")
    browser = dashboard.anonymous()
    wanted = browser.get("/profile")
    assert wanted.status_code == 303
    assert wanted.headers["location"] == f"{ROOT}/sign-in?next=%2Fdashboard%2Fprofile"
    answer = sign_in(browser, "Anna", next_="/dashboard/profile")
    assert (answer.status_code, answer.headers["location"]) == (303, "/dashboard/profile")
    assert "anna" in browser.get("/profile").text


def test_session_cookie_is_httponly_and_same_site(dashboard: Dashboard) -> None:
    dashboard.add_user("anna")
    cookie = next(
        value
        for value in sign_in(dashboard.anonymous(), "anna").headers.get_list("set-cookie")
        if value.startswith(SESSION_COOKIE)
    )
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert "Path=/" in cookie


@pytest.mark.parametrize(("name", "password"), [("anna", "wrong password"), ("nobody", PASSWORD), ("", "")])
def test_wrong_name_and_wrong_password_look_alike_and_are_audited(
    dashboard: Dashboard, name: str, password: str
) -> None:
    dashboard.add_user("anna")
    browser = dashboard.anonymous()
    answer = sign_in(browser, name, password)
    assert answer.status_code == 401
    assert "Invalid name or password." in answer.text
    assert SESSION_COOKIE not in browser.client.cookies
    with dashboard.world.engine.connect() as connection:
        assert connection.execute(text("SELECT action, subject, outcome FROM audit_log")).all() == [
            ("session.begin", name, "refused")
        ]


def test_repeated_wrong_passwords_block_the_ip_address_for_a_while(dashboard: Dashboard) -> None:
    dashboard.add_user("anna")
    browser = dashboard.anonymous()
    for _ in range(5):
        assert sign_in(browser, "anna", "a wrong password").status_code == 401
    assert sign_in(browser, "anna").status_code == 429, "even with the right password"
    dashboard.world.machine.advance(minutes=15, seconds=1)
    assert sign_in(browser, "anna").status_code == 303


@pytest.mark.parametrize(
    "wait", [lambda d: d.world.machine.advance(seconds=IDLE_FOR.total_seconds() + 1)], ids=["idle"]
)
def test_idle_session_expires(dashboard: Dashboard, wait: Callable[[Dashboard], None]) -> None:
    browser = dashboard.as_("viewer")
    assert browser.get("/profile").status_code == 200
    wait(dashboard)
    assert browser.get("/profile").status_code == 303


def test_active_session_expires_after_a_week(dashboard: Dashboard) -> None:
    browser = dashboard.as_("viewer")
    for _ in range(int(LASTS_FOR.total_seconds() // 3600) - 1):
        dashboard.world.machine.advance(hours=1)
        assert browser.get("/profile").status_code == 200
    dashboard.world.machine.advance(hours=1, seconds=1)
    assert browser.get("/profile").status_code == 303


def test_signing_out_invalidates_a_copied_cookie(dashboard: Dashboard) -> None:
    browser, thief = dashboard.as_("operator"), dashboard.anonymous()
    thief.client.cookies.set(SESSION_COOKIE, browser.client.cookies[SESSION_COOKIE])
    assert thief.get("/profile").status_code == 200
    browser.post("/sign-out", page="/profile")
    assert thief.get("/profile").status_code == 303


def test_new_password_ends_all_sessions(dashboard: Dashboard) -> None:
    dashboard.add_user("anna")
    browser, other = dashboard.as_("operator", "anna"), dashboard.as_("operator", "anna")
    assert (
        "is wrong"
        in browser.post("/profile/password", "/profile", present="wrong one, sorry", new="x", again="x").text
    )
    new = "another horse battery"
    browser.post("/profile/password", "/profile", present=PASSWORD, new=new, again=new)
    assert browser.get("/profile").status_code == other.get("/profile").status_code == 303
    assert sign_in(dashboard.anonymous(), "anna", new).status_code == 303
    assert sign_in(dashboard.anonymous(), "anna", PASSWORD).status_code == 401


def test_session_id_changes_at_sign_in(dashboard: Dashboard) -> None:
    dashboard.add_user("anna")
    thief, victim = dashboard.as_("viewer", "mallory"), dashboard.anonymous()
    planted = thief.client.cookies[SESSION_COOKIE]
    token = victim.get("/sign-in") and victim.forms[f"{ROOT}/sign-in"]
    victim.client.cookies.set(SESSION_COOKIE, planted)
    answer = victim.client.post(f"{ROOT}/sign-in", data={"token": token, "name": "anna", "password": PASSWORD})
    assert answer.status_code in (303, 403)
    assert victim.client.cookies.get(SESSION_COOKIE, domain="127.0.0.1") != planted or answer.status_code == 403


@pytest.mark.parametrize(
    "said",
    [
        "https://evil.example/",
        "//evil.example",
        "/\\evil.example",
        "/dashboard/../evil",
        "/dashboard//evil.example",
        "javascript:alert(1)",
        "/webhooks/stripe/global",
        "/dashboardevil",
        "/dashboard/\r\nSet-Cookie: a=b",
        "\t//evil.example",
    ],
)
def test_sign_in_never_redirects_to_another_site(said: str) -> None:
    assert safe_next(said) == ROOT


def test_header_of_a_trusted_proxy_names_the_user(make_dashboard: MakeDashboard) -> None:
    dashboard = make_dashboard(DUECOURSE_USER_HEADER="X-User", DUECOURSE_TRUSTED_PROXIES="127.0.0.1/32")
    dashboard.add_user("anna")
    browser = dashboard.anonymous()
    assert browser.get("/profile").status_code == 403
    browser.client.headers["X-User"] = "unknown-user"
    assert browser.get("/profile").status_code == 403
    browser.client.headers["X-User"] = "anna"
    assert browser.get("/profile").status_code == 200
    assert browser.post("/profile/zone", zone="Asia/Tokyo").status_code == 200
    assert 'value="Asia/Tokyo"' in browser.get("/profile").text


@pytest.mark.parametrize("sent", [["mallory", "anna"], ["anna", "mallory"], ["anna", "anna"], ["anna", ""]])
def test_user_header_sent_twice_is_rejected(make_dashboard: MakeDashboard, sent: list[str]) -> None:
    dashboard = make_dashboard(DUECOURSE_USER_HEADER="X-User", DUECOURSE_TRUSTED_PROXIES="127.0.0.1/32")
    dashboard.add_user("anna")
    dashboard.add_user("mallory")
    client = dashboard.anonymous().client
    answer = client.get(f"{ROOT}/profile", headers=[("X-User", name) for name in sent])
    assert answer.status_code == 400
    assert "more than once" in answer.text
    assert SESSION_COOKIE not in client.cookies


def test_user_header_of_an_untrusted_address_is_rejected(make_dashboard: MakeDashboard) -> None:
    dashboard = make_dashboard(DUECOURSE_USER_HEADER="X-User", DUECOURSE_TRUSTED_PROXIES="10.1.2.3/32")
    dashboard.add_user("anna")
    browser = dashboard.anonymous()
    browser.client.headers["X-User"] = "anna"
    assert browser.get("/profile").status_code == 403


def test_user_header_is_ignored_without_the_setting(dashboard: Dashboard) -> None:
    dashboard.add_user("anna")
    browser = dashboard.anonymous()
    browser.client.headers["X-User"] = browser.client.headers["X-Forwarded-User"] = "anna"
    assert browser.get("/profile").status_code == 303
