"""Paths of earlier releases: bookmarks are redirected; forms that were open during a deploy still work."""

import pytest

from shared.operations.sessions import form_token
from simulator.issuer.stories import AlwaysDeclines
from tests.dashboard.conftest import Browser, Dashboard
from web.dashboard.request_context import ROOT
from web.dashboard.routes import CURRENT_PAGES, RENAMED_PATHS


def send_old_form(dashboard: Dashboard, browser: Browser, path: str, **fields: str) -> int:
    """Send a form as a page of an earlier release would: with a token for the old path."""
    with dashboard.world.engine.connect() as connection:
        key = connection.exec_driver_sql("SELECT csrf_key FROM sessions ORDER BY began_at DESC LIMIT 1").scalar()
    return browser.send(path, token=form_token(str(key), f"{ROOT}{path}"), **fields).status_code


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("/audit?actor=operator%3Aanna", "/audit-log?actor=operator%3Aanna"),
        ("/audit.csv", "/audit-log.csv"),
        ("/find?q=A-1", "/search?q=A-1"),
        ("/people", "/users"),
        ("/runs/again?job=daily-retries", "/runs/rerun?job=daily-retries"),
        ("/you", "/profile"),
    ],
)
def test_an_old_bookmark_is_redirected_with_its_query(dashboard: Dashboard, old: str, new: str) -> None:
    answer = dashboard.as_("admin").client.get(f"{ROOT}{old}")
    assert (answer.status_code, answer.headers["location"]) == (308, f"{ROOT}{new}")


def test_every_renamed_path_leads_to_a_page() -> None:
    assert {new for _, new in RENAMED_PATHS} <= {page.path for page in CURRENT_PAGES}


def test_an_open_form_of_an_earlier_release_still_cancels_a_pending_void(dashboard: Dashboard) -> None:
    world = dashboard.world
    account = world.account("A-1")
    world.add_primary_card(account, story=AlwaysDeclines(decline_code="insufficient_funds"))
    payment = world.add_due_payment(account, 5_00)
    world.charge(payment)
    otto, page = dashboard.as_("operator"), f"/payments/{payment}"
    otto.post(f"{page}/void", page, reason="billed by mistake")
    assert world.payment(payment).pending_close_as == "void"
    assert send_old_form(dashboard, otto, f"{page}/cancel-ending", reason="it was right") == 200
    assert world.payment(payment).pending_close_as is None


def test_an_open_form_of_an_earlier_release_still_adds_a_user(dashboard: Dashboard) -> None:
    ada = dashboard.as_("admin")
    fields = {"name": "vic", "role": "viewer", "password": "another good password", "reason": "new here"}
    assert send_old_form(dashboard, ada, "/people/add", **fields) == 200
    assert "vic" in ada.get("/users").text
