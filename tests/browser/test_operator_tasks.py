"""What operators do, in a real browser: see, find, charge, run again, requeue, pause; and all of it is booked."""

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
from tests.browser.gallery import a_dead_letter, places
from web.dashboard.request_context import ROOT

#: A little more than a page's parts wait before they refresh themselves.
REFRESH_MS = 5_100


def booked(office: Office) -> list[tuple[str, str, str | None, str]]:
    """The book without sign-ins: who, what, why, and what came of it."""
    with office.diary.world.engine.connect() as connection:
        return [
            (row.actor, row.action, row.reason, row.outcome)
            for row in connection.execute(
                text("SELECT * FROM audit_log WHERE action NOT LIKE 'session.%' ORDER BY id")
            )
        ]


def ledger(office: Office, wanted: Container[UUID]) -> dict[UUID, list[LedgerLine]]:
    """What the processor took, by payment; of those that are wanted."""
    found: dict[UUID, list[LedgerLine]] = {}
    for line in office.diary.world.simulator.iter_ledger():
        payment = UUID(line.metadata["duecourse_payment_id"])
        if payment in wanted:
            found.setdefault(payment, []).append(line)
    return found


def settle_down(page: Page) -> None:
    page.wait_for_load_state("networkidle")


def hide(page: Page, *, is_hidden: bool) -> None:
    """What a browser tells a page when its tab goes to the background, or comes back."""
    page.evaluate(
        """hidden => {
            Object.defineProperty(document, "hidden", {get: () => hidden, configurable: true});
            document.dispatchEvent(new Event("visibilitychange"));
        }""",
        is_hidden,
    )


def test_a_declined_payment_is_found_in_two_clicks_and_charged_after_a_preview(office: Office) -> None:
    declined = office.accounts[2]  # pays at the third time; two declines are behind it by day 3
    payment = office.diary.payment(office.accounts[0], "2026-10")
    page = office.sit_down("anna")
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
    assert booked(office) == [("operator:anna", "payment.charge", "the customer is on the phone", "done")]
    page.goto(f"{ROOT}/audit-log")
    expect(page.get_by_role("row", name=re.compile("payment.charge")).get_by_text("operator:anna")).to_be_visible()
    assert office.diary.money(office.diary.payment(declined, "2026-10")) == [("2026-11-03 09:00", 29_87)]


def test_five_hundred_declined_payments_are_charged_again_by_one_decision(office: Office) -> None:
    diary = office.diary
    users = [diary.account(f"B-{number:03d}") for number in range(100)]
    outage = AlwaysDeclines(decline_code="processing_error")
    cards = [diary.world.register_card(user, story=outage) for user in users]
    months = [f"2026-{month:02d}" for month in range(5, 10)]
    for month in months:
        for user in users:
            diary.fee(user, 10_00, month)
        diary.run_invoices_by_operator(month, "global")
    owed = {diary.payment(user, month): 10_00 for user in users for month in months}
    assert Counter(map(diary.state, owed)) == {"retry_scheduled": 500}
    for card in cards:
        diary.world.simulator.set_story("global", card.payment_method, Pays())

    page = office.sit_down("anna")
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
    expect(page.get_by_role("heading", name="finished 500 of 500")).to_be_visible()  # it refreshed itself
    assert {payment: [cents] for payment, cents in owed.items()} == {
        payment: [line.amount for line in lines] for payment, lines in ledger(office, owed).items()
    }
    assert booked(office) == [
        ("operator:anna", "bulk.start", "the processor was out of order", "started"),
        ("operator:anna", "bulk.finish", "the processor was out of order", "finished"),
    ]


def test_a_month_is_run_again_after_a_preview_and_bills_what_came_late(office: Office) -> None:
    late = office.accounts[9]
    newcomer = office.diary.account("A-new")
    office.diary.fee(newcomer, 12_34)
    page = office.sit_down("anna")
    page.get_by_role("link", name="Runs").first.click()
    page.get_by_label("Month or day").fill("2026-10")
    page.get_by_role("button", name=re.compile("Preview")).click()
    expect(page.get_by_text("$12.34").first).to_be_visible()
    page.get_by_label(re.compile("^Reason")).fill("a customer was imported late")
    page.get_by_role("button", name=re.compile("Rerun")).click()
    settle_down(page)
    office.diary.work()
    assert office.diary.lines(newcomer, "2026-10") == [12_34]
    assert len(office.diary.lines(late, "2026-10")) == 1
    assert [line[:3] for line in booked(office)] == [
        ("operator:anna", "run.again", "a customer was imported late"),
    ]


def test_a_dead_letter_is_requeued_once_and_a_paused_lane_says_who_paused_it(office: Office) -> None:
    a_dead_letter(office)
    client = office.broker.client
    page = office.sit_down("anna")
    page.get_by_role("link", name="Queues").first.click()
    page.get_by_role("row", name=re.compile("^batch")).get_by_role("link", name="1").click()
    expect(page.get_by_text("charge_payment").first).to_be_visible()
    page.get_by_role("checkbox").first.check()
    page.get_by_label(re.compile("^Reason")).first.fill("Redis was full")
    page.get_by_role("button", name=re.compile("^Requeue")).first.click()
    settle_down(page)
    assert client.zcard("duecourse:batch.XQ") == 0
    assert client.llen("duecourse:batch") == 1
    page.goto(f"{ROOT}/queues")
    page.get_by_label("Reason for pausing").nth(1).fill("the processor is being moved")
    page.get_by_role("button", name="Pause batch").click()
    settle_down(page)
    expect(page.get_by_text("the processor is being moved").first).to_be_visible()
    assert booked(office) == [
        ("operator:anna", "dead_letter.requeue", "Redis was full", "started"),  # Redis knows no transaction of ours
        ("operator:anna", "dead_letter.requeue", "Redis was full", "finished"),
        ("operator:anna", "lane.pause", "the processor is being moved", "done"),
    ]


def test_a_viewer_sees_everything_and_may_do_none_of_it(office: Office) -> None:
    payment = office.diary.payment(office.accounts[0], "2026-10")
    page = office.sit_down("vera", "viewer")
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
    assert booked(office) == []


@pytest.mark.parametrize("hands", ["keyboard only", "no JavaScript", "phone"])
def test_a_charge_needs_neither_mouse_nor_javascript_nor_a_wide_screen(office: Office, hands: str) -> None:
    payment = office.diary.payment(office.accounts[1], "2026-10")
    how = {
        "keyboard only": {},
        "no JavaScript": {"java_script_enabled": False},
        "phone": {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True},
    }[hands]
    page = office.sit_down("anna", **how)
    page.goto(f"{ROOT}/payments/{payment}/charge")
    if hands == "phone":
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, "nothing sticks out of the screen"
    if hands == "keyboard only":
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
    assert booked(office) == [("operator:anna", "payment.charge", "by hand", "done")]


def test_the_overview_refreshes_itself_and_rests_while_hidden(office: Office) -> None:
    """The browser's clock is ours; what htmx asks for is heard at the page."""
    page = office.sit_down("vera", "viewer")
    page.clock.install()
    page.goto(ROOT)
    settle_down(page)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "hx-request" in request.headers else None)
    with page.expect_request(lambda request: "hx-request" in request.headers):
        page.clock.run_for(REFRESH_MS)
    settle_down(page)
    hide(page, is_hidden=True)
    asked.clear()
    page.clock.run_for(20 * REFRESH_MS)
    settle_down(page)
    assert asked == [], "nobody looks"
    with page.expect_request(lambda request: "hx-request" in request.headers):
        hide(page, is_hidden=False)


def test_nothing_on_any_page_is_refused_by_the_content_policy(office: Office) -> None:
    page = office.sit_down("ada", "admin")
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    for path in places(office).values():
        page.goto(f"{ROOT}{path}")
    settle_down(page)
    assert complaints == []
