"""The search field in the header: a single match redirects to its page, several are listed."""

import html
from uuid import UUID

import pytest
from sqlalchemy import select

from shared.db.tables.payments import payment_intents
from simulator.issuer.stories import AlwaysDeclines
from tests.dashboard.conftest import Dashboard
from tests.dashboard.test_payments import ATTACKS, add_invoice
from tests.seed import Account, add_account, add_payment, add_run
from web.dashboard.request_context import ROOT


@pytest.fixture
def account(dashboard: Dashboard) -> Account:
    account = dashboard.world.account("ACME-1", name="Acme Telecom", email="billing@acme.example")
    dashboard.world.add_primary_card(account, story=AlwaysDeclines(decline_code="insufficient_funds"))
    return account


@pytest.fixture
def payment(dashboard: Dashboard, account: Account) -> UUID:
    with dashboard.world.engine.begin() as connection:
        invoice_id = add_invoice(connection, account, 7)
        payment = add_payment(connection, account, 5_00, invoice_id=invoice_id)
    dashboard.world.charge(payment)
    return payment


def redirect_of(dashboard: Dashboard, wanted: str) -> str:
    response = dashboard.as_("viewer").get("/search", q=wanted)
    assert response.status_code == 303, (wanted, response.text)
    return response.headers["location"].removeprefix(ROOT)


def test_every_identifier_of_a_payment_leads_to_it(dashboard: Dashboard, payment: UUID) -> None:
    (attempt,) = dashboard.world.attempts(payment)
    with dashboard.world.engine.connect() as connection:
        intent = connection.scalar(select(payment_intents.c.stripe_payment_intent_id))
    assert str(intent).startswith("pi_")
    invoice_id = dashboard.world.payment(payment).invoice_id
    for wanted in (
        str(payment),
        f"  {str(payment).upper()} ",
        payment.hex,
        str(attempt.id),
        str(invoice_id),
        "X-2026-000007",
        "x-2026-000007",
        str(intent),
        attempt.stripe_charge_id,
        attempt.stripe_request_id,
    ):
        assert redirect_of(dashboard, wanted) == f"/payments/{payment}", wanted


def test_every_identifier_of_an_account_leads_to_it(dashboard: Dashboard, account: Account) -> None:
    with dashboard.world.engine.begin() as connection:
        add_account(connection, "ACME-12")
    customer = dashboard.world.customer_id(account)
    for wanted in (str(account.id), "ACME-1", "acme t", "Billing@Acme", customer):
        assert redirect_of(dashboard, wanted) == f"/accounts/{account.id}", wanted


def test_a_run_is_found_by_its_id(dashboard: Dashboard) -> None:
    with dashboard.world.engine.begin() as connection:
        run_id = add_run(connection)
    assert redirect_of(dashboard, str(run_id)) == f"/runs/{run_id}"


def test_several_matches_are_listed_with_their_state(dashboard: Dashboard, account: Account) -> None:
    with dashboard.world.engine.begin() as connection:
        other = add_account(connection, "ACME-2", name="<script>alert(1)</script>")
    page = dashboard.as_("viewer").get("/search", q="acme").text
    for found in (account, other):
        assert f'href="/dashboard/accounts/{found.id}"' in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script>alert" not in page


def test_long_result_list_is_truncated_with_a_note(dashboard: Dashboard) -> None:
    with dashboard.world.engine.begin() as connection:
        for n in range(30):
            add_account(connection, f"ACME-{n:03}")
    page = dashboard.as_("viewer").get("/search", q="acme").text
    assert page.count('<a href="/dashboard/accounts/') == 20
    assert "More results exist" in page


def test_no_match_shows_the_query_and_search_hints(dashboard: Dashboard, account: Account) -> None:
    page = html.unescape(dashboard.as_("viewer").get("/search", q="pi_123").text)
    assert "Search results for “pi_123”" in page
    assert "PaymentIntent ID (pi_…)" in page
    assert "start of an account's number, name or email" in page
    assert "request ID (req_…)" not in page


def test_empty_and_invalid_queries_are_explained(dashboard: Dashboard) -> None:
    viewer = dashboard.as_("viewer")
    assert "Enter a search text" in viewer.get("/search").text
    assert "Enter a search text" in viewer.get("/search", q="   ").text
    for odd, why in (("a\x00b", "contains invalid characters"), ("9" * 10_000, "is too long")):
        response = viewer.get("/search", q=odd)
        assert (response.status_code, why in response.text) == (400, True)


def test_attacks_match_nothing_and_redirect_nowhere(dashboard: Dashboard, account: Account) -> None:
    for attack in (*ATTACKS, "//evil.example", "https://evil.example/", "../../etc/passwd", "%", "_", "\\"):
        response = dashboard.as_("viewer").get("/search", q=attack)
        assert response.status_code == 200, attack
        assert "No results" in response.text
        assert "<script>alert" not in response.text
        assert "<img src=x>" not in response.text
