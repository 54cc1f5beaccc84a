"""Operator tasks in a real browser: find, charge, rerun, requeue, pause; each one is in the audit log."""

import re
from collections import Counter
from collections.abc import Container
from uuid import UUID

import pytest
from playwright.sync_api import Page, expect
from sqlalchemy import text

from simulator.client import LedgerLine
from simulator.issuer.stories import AlwaysDeclines, Pays
from tests.browser.conftest import Office
from tests.browser.gallery import add_dead_letter, page_paths
from web.dashboard.request_context import ROOT

#: A little more than the refresh interval of page fragments.
REFRESH_MS = 5_100


def audit_entries(office: Office) -> list[tuple[str, str, str | None, str]]:
    """Actor, action, reason and outcome of each audit log entry, sign-ins excluded."""
    with office.diary.world.engine.connect() as connection:
        return [
            (row.actor, row.action, row.reason, row.outcome)
            for row in connection.execute(
                text("SELECT * FROM audit_log WHERE action NOT LIKE 'session.%' ORDER BY id")
            )
        ]


def ledger(office: Office, wanted: Container[UUID]) -> dict[UUID, list[LedgerLine]]:
    """Captured charges at the processor, by payment, for the wanted payments."""
    found: dict[UUID, list[LedgerLine]] = {}
    for line in office.diary.world.simulator.iter_ledger():
        payment = UUID(line.metadata["duecourse_payment_id"])
        if payment in wanted:
            found.setdefault(payment, []).append(line)
    return found


def wait_for_network(page: Page) -> None:
    page.wait_for_load_state("networkidle")


def hide(page: Page, *, is_hidden: bool) -> None:
    """Tell the page that its tab went to the background or came back."""
    page.evaluate(
        """hidden => {
            Object.defineProperty(document, "hidden", {get: () => hidden, configurable: true});
            document.dispatchEvent(new Event("visibilitychange"));
        }""",
        is_hidden,
    )


def test_declined_payment_is_found_in_two_clicks_and_charged_after_a_preview(office: Office) -> None:
    declined = office.accounts[2]  # declined twice, paid on day 3
    payment = office.diary.payment(office.accounts[0], "2026-10")
    page = office.sign_in("anna")
    page.get_by_role("link", name="insufficient_funds").first.click()
    page.get_by_role("row", name=re.compile("A-000")).get_by_role("link").first.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("$29.85")
    expect(page.get_by_text("insufficient_funds").first).to_be_visible()
    page.get_by_role("link", name=re.compile("Charge now")).click()
    expect(page.get_by_text("visa ending in")).to_be_visible()
    page.get_by_label(re.compile("^Reason")).fill("the customer is on the phone")
    page.get_by_role("button", name=re.compile(r"Charge \$29\.85 now")).click()
    page.wait_for_url(f"**{ROOT}/payments/{payment}**")
    attempts = len(office.diary.world.attempts(payment))
    office.diary.work()
    assert len(office.diary.world.attempts(payment)) == attempts + 1
    assert audit_entries(office) == [("operator:anna", "payment.charge", "the customer is on the phone", "done")]
    page.goto(f"{ROOT}/audit-log")
    expect(page.get_by_role("row", name=re.compile("payment.charge")).get_by_text("operator:anna")).to_be_visible()
    assert office.diary.money(office.diary.payment(declined, "2026-10")) == [("2026-11-03 09:00", 29_87)]


def test_one_bulk_action_charges_five_hundred_declined_payments(office: Office) -> None:
    diary = office.diary
    users = [diary.account(f"B-{number:03d}") for number in range(100)]
    outage = AlwaysDeclines(decline_code="processing_error")
    months = [f"2026-{month:02d}" for month in range(5, 10)]
    for month in months:
        for user in users:
            diary.fee(user, 10_00, month)
        diary.run_invoices_by_operator(month, "global")
    cards = [diary.world.register_card(user, story=outage) for user in users]  # which charges each month
    diary.work()
    owed = {diary.payment(user, month): 10_00 for user in users for month in months}
    assert Counter(map(diary.state, owed)) == {"retry_scheduled": 500}
    for card in cards:
        diary.world.simulator.set_story("global", card.payment_method, Pays())

    page = office.sign_in("anna")
    page.get_by_role("link", name="Payments").first.click()
    page.get_by_label("Last decline code").fill("processing_error")
    page.get_by_label("retry scheduled").check()
    page.get_by_role("button", name="Filter").click()
    page.get_by_role("link", name="Charge now…").click()
    expect(page.get_by_text("of 500 matching payments")).to_be_visible()
    expect(page.get_by_text("No payments are excluded.")).to_be_visible()
    page.get_by_label(re.compile("^Reason")).fill("the processor was out of order")
    page.get_by_role("button", name="Charge now: 500 payments").click()
    expect(page.get_by_role("heading", name=re.compile("0 of 500"))).to_be_visible()
    diary.work()
    expect(page.get_by_role("heading", name="finished 500 of 500")).to_be_visible()  # the page refreshes itself
    assert {payment: [cents] for payment, cents in owed.items()} == {
        payment: [line.amount for line in lines] for payment, lines in ledger(office, owed).items()
    }
    assert audit_entries(office) == [
        ("operator:anna", "bulk.start", "the processor was out of order", "started"),
        ("operator:anna", "bulk.finish", "the processor was out of order", "finished"),
    ]


def test_rerun_of_a_month_bills_late_fees_after_a_preview(office: Office) -> None:
    late = office.accounts[9]
    newcomer = office.diary.account("A-new")
    office.diary.fee(newcomer, 12_34)
    page = office.sign_in("anna")
    page.get_by_role("link", name="Runs").first.click()
    page.get_by_label("Month or day").fill("2026-10")
    page.get_by_role("button", name=re.compile("Preview")).click()
    expect(page.get_by_text("$12.34").first).to_be_visible()
    page.get_by_label(re.compile("^Reason")).fill("a customer was imported late")
    page.get_by_role("button", name=re.compile("Rerun")).click()
    wait_for_network(page)
    office.diary.work()
    assert office.diary.lines(newcomer, "2026-10") == [12_34]
    assert len(office.diary.lines(late, "2026-10")) == 1
    assert [line[:3] for line in audit_entries(office)] == [
        ("operator:anna", "run.again", "a customer was imported late"),
    ]


def test_dead_letter_is_requeued_once_and_paused_queue_shows_who_paused_it(office: Office) -> None:
    add_dead_letter(office)
    client = office.broker.client
    page = office.sign_in("anna")
    page.get_by_role("link", name="Queues").first.click()
    page.get_by_role("row", name=re.compile("^batch")).get_by_role("link", name="1").click()
    expect(page.get_by_text("charge_payment").first).to_be_visible()
    page.get_by_role("checkbox").first.check()
    page.get_by_label(re.compile("^Reason")).first.fill("Redis was full")
    page.get_by_role("button", name=re.compile("^Requeue")).first.click()
    wait_for_network(page)
    assert client.zcard("duecourse:batch.XQ") == 0
    assert client.llen("duecourse:batch") == 1
    page.goto(f"{ROOT}/queues")
    page.get_by_label("Reason for pausing").nth(1).fill("the processor is being moved")
    page.get_by_role("button", name="Pause batch").click()
    wait_for_network(page)
    expect(page.get_by_text("the processor is being moved").first).to_be_visible()
    assert audit_entries(office) == [
        (
            "operator:anna",
            "dead_letter.requeue",
            "Redis was full",
            "started",
        ),  # Redis has no transaction
        ("operator:anna", "dead_letter.requeue", "Redis was full", "finished"),
        ("operator:anna", "lane.pause", "the processor is being moved", "done"),
    ]


def test_viewer_sees_every_page_and_no_action(office: Office) -> None:
    payment = office.diary.payment(office.accounts[0], "2026-10")
    page = office.sign_in("vera", "viewer")
    for path in (
        "",
        "/payments",
        f"/payments/{payment}",
        "/runs",
        "/queues",
        "/findings",
        "/unknown",
        "/audit-log",
    ):
        answer = page.goto(f"{ROOT}{path}")
        assert answer is not None
        assert answer.status == 200
        forms = page.locator("main form[method=post]")
        expect(forms).to_have_count(0)
    for path in (f"/payments/{payment}/charge", "/runs/rerun?job=monthly-invoices&period=2026-10&coverage=global"):
        answer = page.goto(f"{ROOT}{path}")
        assert answer is not None
        assert answer.status == 403
        expect(page.get_by_role("heading", level=1)).to_contain_text("needs the role operator")
    assert audit_entries(office) == []


@pytest.mark.parametrize("input_method", ["keyboard only", "no JavaScript", "phone"])
def test_charge_works_without_mouse_javascript_or_wide_screen(office: Office, input_method: str) -> None:
    payment = office.diary.payment(office.accounts[1], "2026-10")
    how = {
        "keyboard only": {},
        "no JavaScript": {"java_script_enabled": False},
        "phone": {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True},
    }[input_method]
    page = office.sign_in("anna", **how)
    page.goto(f"{ROOT}/payments/{payment}/charge")
    if input_method == "phone":
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, "the page must not scroll sideways"
    if input_method == "keyboard only":
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.name") == "reason":
                break
        page.keyboard.type("by hand")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
    else:
        page.get_by_label(re.compile("^Reason")).fill("by hand")
        page.get_by_role("button", name=re.compile("^Charge")).click()
    page.wait_for_url(f"**{ROOT}/payments/{payment}")
    assert audit_entries(office) == [("operator:anna", "payment.charge", "by hand", "done")]


def test_overview_refreshes_itself_unless_its_tab_is_hidden(office: Office) -> None:
    """Controls the browser's clock and records the requests that htmx sends."""
    page = office.sign_in("vera", "viewer")
    page.clock.install()
    page.goto(ROOT)
    wait_for_network(page)
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url) if "hx-request" in request.headers else None)
    with page.expect_request(lambda request: "hx-request" in request.headers):
        page.clock.run_for(REFRESH_MS)
    wait_for_network(page)
    hide(page, is_hidden=True)
    requests.clear()
    page.clock.run_for(20 * REFRESH_MS)
    wait_for_network(page)
    assert requests == [], "a hidden tab must not refresh"
    with page.expect_request(lambda request: "hx-request" in request.headers):
        hide(page, is_hidden=False)


def test_no_page_violates_the_content_security_policy(office: Office) -> None:
    page = office.sign_in("ada", "admin")
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    for path in page_paths(office).values():
        page.goto(f"{ROOT}{path}")
    wait_for_network(page)
    assert complaints == []
