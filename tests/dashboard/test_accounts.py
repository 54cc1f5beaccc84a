"""Accounts: the list with prefix search and standing filter, and the page of one account."""

import html
import re
from datetime import timedelta
from uuid import UUID

import httpx
import pytest
from sqlalchemy import func, insert, select, update

from shared.db.tables.accounts import accounts, card_blocks, cards
from shared.domain.states import Standing
from simulator.issuer.stories import AlwaysDeclines
from tests.dashboard.conftest import Browser, Dashboard
from tests.dashboard.test_payments import ATTACKS, link
from tests.seed import add_account, add_card, add_payment
from tests.world import START


@pytest.fixture
def many(dashboard: Dashboard) -> Dashboard:
    """120 accounts; every third is past due, every seventh of those left marked for suspension."""
    with dashboard.world.engine.begin() as connection:
        for n in range(120):
            name = ("Anna Smith", "Bob <script>alert(1)</script>", "'; DROP TABLE accounts;--", "李")[n % 4]
            account = add_account(connection, f"A-{n:03}", name=name, email=f"p{n}@example.com")
            standing = Standing.PAST_DUE if n % 3 == 0 else Standing.GOOD
            standing = Standing.MARKED_FOR_SUSPENSION if n % 7 == 0 else standing
            since = None if standing is Standing.GOOD else START - timedelta(hours=n % 50)
            connection.execute(
                update(accounts)
                .where(accounts.c.id == account.id)
                .values(standing=standing, standing_since_at=since, created_at=START - timedelta(minutes=n % 40))
            )
    return dashboard


def shown(response: httpx.Response) -> list[UUID]:
    assert response.status_code == 200, response.text
    return [
        UUID(found) for found in re.findall(r'<td><a href="/dashboard/accounts/([0-9a-f-]{36})"', response.text)
    ]


def all_pages(browser: Browser, **query: str) -> list[UUID]:
    response = browser.get("/accounts", **query)
    rows = shown(response)
    while (older := link(response, "next")) is not None:
        response = browser.client.get(older)
        rows += shown(response)
    newer, last = link(response, "prev"), shown(response)
    while newer is not None:
        response = browser.client.get(newer)
        newer, last = link(response, "prev"), shown(response) + last
    assert last == rows, "paging forwards and back must show the same rows"
    return rows


def words(response: httpx.Response) -> str:
    main = re.sub(r"<[^>]+>", " ", response.text.split("<main")[-1])
    return " ".join(html.unescape(main).split())


@pytest.mark.parametrize(
    ("query", "begins", "standing"),
    [
        ({}, "", None),
        ({"text": "a-01"}, "a-01", None),
        ({"text": "ANNA "}, "anna ", None),
        ({"text": "p11@"}, "p11@", None),
        ({"text": "'; drop"}, "'; drop", None),
        ({"text": "李"}, "李", None),
        ({"text": "%"}, "%", None),
        ({"standing": "past_due"}, "", "past_due"),
        ({"standing": "good"}, "", "good"),
        ({"standing": "marked_for_suspension", "text": "bob"}, "bob", "marked_for_suspension"),
    ],
)
def test_each_search_matches_a_plain_python_filter(
    many: Dashboard, query: dict[str, str], begins: str, standing: str | None
) -> None:
    with many.world.engine.connect() as connection:
        rows = connection.execute(select(accounts)).all()
    at = "created_at" if standing in (None, "good") else "standing_since_at"
    expected = sorted(
        (
            row
            for row in rows
            if any(
                value.lower().startswith(begins)
                for value in (row.external_id, row.name, row.email if "@" in begins else "")
            )
            and standing in (None, row.standing)
        ),
        key=lambda row: (getattr(row, at), row.id),
        reverse=True,
    )
    assert all_pages(many.as_("viewer"), **query) == [row.id for row in expected]


def test_list_masks_email_addresses(many: Dashboard) -> None:
    for role in ("viewer", "operator"):
        page = many.as_(role).get("/accounts", text="A-011").text
        assert "p•••@example.com" in page
        assert "p11@example.com" not in page


def test_invalid_filter_is_explained_beside_its_field(many: Dashboard) -> None:
    response = many.as_("viewer").get("/accounts", standing="odd", text="anna")
    assert response.status_code == 400
    assert '<span class="wrong" id="wrong-standing">has an unknown value: “odd”</span>' in response.text
    assert 'value="anna"' in response.text


def test_attacks_in_filters_are_escaped_and_change_nothing(many: Dashboard) -> None:
    browser = many.as_("viewer")
    for attack in ATTACKS:
        for field in ("text", "standing", "after", "before"):
            response = browser.get("/accounts", **{field: attack})
            assert response.status_code in (200, 400)
            assert "<script>alert" not in response.text
            assert "<img src=x>" not in response.text
    with many.world.engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(accounts)) == 120


def test_page_shows_standing_payment_methods_and_debts(dashboard: Dashboard) -> None:
    world = dashboard.world
    account = world.account("A-1", name="<script>alert(1)</script>", email="anna@example.com")
    world.add_primary_card(account, story=AlwaysDeclines(decline_code="insufficient_funds"))
    world.charge(world.add_due_payment(account, 29_85))
    with world.engine.begin() as connection:
        in_japan = add_account(connection, "A-1", "japan", kind="bank_transfer")
        add_payment(
            connection, in_japan, 1_500, state="awaiting_transfer", due_on=(START - timedelta(days=3)).date()
        )
        add_payment(connection, account, 9_99, state="paid", paid_at=START)
        blocked = add_card(connection, account, is_primary=False, last4="0002", fingerprint="fp_blocked")
        connection.execute(update(cards).where(cards.c.id == blocked).values(detached_at=START))
        connection.execute(
            insert(card_blocks).values(
                coverage="global", fingerprint="fp_blocked", reason="stolen_card", attempt_id=account.id,
                blocked_at=START,
            )
        )  # fmt: skip
    response = dashboard.as_("operator").get(f"/accounts/{account.id}")
    said = words(response)
    assert "Standing past due since 2026-11-01 09:00 UTC" in said
    assert "$29.85 USD, coverage global, 1 payment, oldest due on 2026-11-01" in said
    assert "¥1,500 JPY, coverage japan, 1 payment, oldest due on 2026-10-29" in said
    assert "anna@example.com" in said
    assert "japan bank transfer" in said
    assert f"dashboard.stripe.com/test/customers/{world.customer_id(account)}" in response.text
    assert "•••• 0002, expires 12/2030 detached must not be charged again stolen_card" in said
    assert "default" in said
    assert len(re.findall(r"<code>insufficient_funds</code>", response.text)) == 1
    assert "attempt started" in said
    assert "standing changed past due worker" in said
    assert "<script>alert" not in response.text


def test_viewers_see_a_masked_email_and_no_form(dashboard: Dashboard) -> None:
    account = dashboard.world.account("A-1", email="anna@example.com")
    page = dashboard.as_("viewer").get(f"/accounts/{account.id}").text.split("<main")[1]
    assert "a•••@example.com" in page
    assert "anna@example.com" not in page
    assert "<form" not in page


def test_payments_and_billing_events_of_an_account_are_paged_independently(dashboard: Dashboard) -> None:
    world = dashboard.world
    account = world.account("A-1")
    with world.engine.begin() as connection:
        for n in range(60):
            add_payment(connection, account, n + 1, created_at=START - timedelta(hours=n))
    for _ in range(60):
        world.charge(world.add_due_payment(account, trigger="operator"))
    browser = dashboard.as_("viewer")

    def before_the_events(response: httpx.Response) -> str:
        return response.text.split('id="events"')[0]

    def payments_on(response: httpx.Response) -> list[str]:
        cell = r'<td class="short"><a href="/dashboard/payments/([0-9a-f-]{36})"'
        return re.findall(cell, before_the_events(response))

    response = browser.get(f"/accounts/{account.id}")
    rows = payments_on(response)
    next_links = re.findall(r'<a href="([^"]+)" rel="next"', response.text)
    assert len(next_links) == 2, "one for the payments, one for the billing events"
    while (older := re.search(r'<a href="([^"]+)" rel="next"', before_the_events(response))) is not None:
        response = browser.client.get(html.unescape(older[1]))
        rows += payments_on(response)
    assert len(rows) == len(set(rows)) == 120
    second = browser.client.get(html.unescape(next_links[1])).text.split('id="events"')[1]
    first = browser.get(f"/accounts/{account.id}").text.split('id="events"')[1]
    payments_of_pages = [set(re.findall(r"/payments/([0-9a-f-]{36})", part)) for part in (first, second)]
    assert len(payments_of_pages[0] | payments_of_pages[1]) > len(payments_of_pages[0])
    assert payments_on(browser.client.get(html.unescape(next_links[1]))) == rows[:50]


def test_unknown_account_is_not_found(dashboard: Dashboard) -> None:
    browser = dashboard.as_("viewer")
    for id_ in ("1", "9" * 10_000, "00000000-0000-0000-0000-000000000000", "'; DROP TABLE accounts;--"):
        assert browser.client.get(f"/dashboard/accounts/{id_}").status_code == 404


def test_email_search_needs_the_whole_local_part(dashboard: Dashboard) -> None:
    dashboard.world.account("A-1", name="Customer", email="anna@example.com")
    viewer = dashboard.as_("viewer")
    assert "A-1" not in viewer.get("/accounts", text="ann").text
    assert "A-1" not in viewer.get("/search", q="ann").text
    assert "A-1" in viewer.get("/accounts", text="anna@").text, "a complete local part may be searched"
