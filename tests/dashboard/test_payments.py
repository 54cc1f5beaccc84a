"""The list of payments: each filter against a plain Python filter, paging, totals, CSV export."""

import csv
import html
import io
import json
import random
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from sqlalchemy import Row, func, insert, select, text

from shared.db.tables.accounts import accounts
from shared.db.tables.invoices import invoices
from shared.db.tables.operators import audit_log
from shared.db.tables.payments import payment_attempts, payment_intents, payments
from shared.domain.declines import category_of_code
from shared.domain.money import Money
from shared.domain.states import ENDED, PaymentState, Trigger
from simulator.issuer.stories import AlwaysDeclines
from tests.dashboard.conftest import Browser, Dashboard
from tests.seed import Account, add_account, add_payment, default_policy
from tests.world import START, World
from web.dashboard.csv_export import FORMULA_STARTS
from web.dashboard.queries.payments import PaymentFilter, describe, select_ids

NAMES = (
    "Anna Smith",
    "<script>alert(1)</script>",
    "'; DROP TABLE payments;--",
    "=HYPERLINK(1)",
    "100%_real\\",
    "株式会社　山田",
)
CODES = (None, "insufficient_funds", "do_not_honor", "stolen_card", "card_velocity_exceeded")
HELD = START + timedelta(days=2)


@pytest.fixture
def many(dashboard: Dashboard) -> Dashboard:
    """120 payments of all kinds, from a fixed random seed."""
    dice = random.Random(7)
    with dashboard.world.engine.begin() as connection:
        users = [
            add_account(connection, f"A-{n}", ("global", "japan")[n % 2], name=name, email=f"Person{n}@example.com")
            for n, name in enumerate(NAMES)
        ]
        for n in range(120):
            user = dice.choice(users)
            state = dice.choice(list(PaymentState))
            waits = state in (PaymentState.NEEDS_PAYMENT_METHOD, PaymentState.NEEDS_AUTHENTICATION)
            payment = add_payment(
                connection,
                user,
                dice.randrange(1, 200_000),
                state=state,
                trigger=dice.choice(list(Trigger)),
                due_on=(START - timedelta(days=dice.randrange(0, 60))).date(),
                created_at=START - timedelta(hours=dice.randrange(0, 60)),
                held_until=dice.choice((None, None, HELD, START - timedelta(days=1))),
                last_decline_code=dice.choice(CODES),
                paid_at=START if state == PaymentState.PAID else None,
                waiting_for_revision_after=0 if waits else None,
                invoice_id=add_invoice(connection, user, n) if n % 3 == 0 else None,
            )
            if n % 10 == 0:
                add_attempt(connection, payment, user, dice.choice(("started", "unknown", "declined")))
    return dashboard


def add_invoice(connection: Any, user: Account, n: int) -> UUID:
    return connection.execute(
        insert(invoices)
        .values(
            account_id=user.id, coverage=user.coverage, period=START.date(), number=f"X-2026-{n:06}",
            number_year=2026, number_sequence=n, currency=user.currency, total_minor=1, issued_on=START.date(),
            due_on=START.date(), billing_snapshot={}, corrects_invoice_id=uuid4(),
        )
        .returning(invoices.c.id)
    ).scalar_one()  # fmt: skip


def add_attempt(connection: Any, payment: UUID, user: Account, state: str) -> None:
    intent = connection.execute(
        insert(payment_intents)
        .values(
            payment_id=payment, ordinal=1, coverage=user.coverage, amount_minor=1, currency=user.currency,
            stripe_customer_id="cus_1", create_parameters={}, api_version="1",
        )
        .returning(payment_intents.c.id)
    ).scalar_one()  # fmt: skip
    connection.execute(
        insert(payment_attempts).values(
            payment_id=payment, number=1, kind="charge", state=state, payment_intent_id=intent, lane="batch",
            coverage=user.coverage, trigger="month_start", card_revision=1, started_at=START,
            lease_expires_at=START,
        )
    )  # fmt: skip


def everything(world: World) -> list[Row[Any]]:
    """All payments as plain rows, newest first, for the filter in Python."""
    has_open = (
        select(func.count())
        .where(payment_attempts.c.payment_id == payments.c.id, payment_attempts.c.state.in_(("started", "unknown")))
        .scalar_subquery()
    )
    with world.engine.connect() as connection:
        return list(
            connection.execute(
                select(payments, accounts.c.external_id, accounts.c.name, accounts.c.email, invoices.c.number,
                       has_open.label("open_attempts"))
                .join(accounts, accounts.c.id == payments.c.account_id)
                .join(invoices, invoices.c.id == payments.c.invoice_id, isouter=True)
                .order_by(payments.c.created_at.desc(), payments.c.id.desc())
            )
        )  # fmt: skip


def shown(response: httpx.Response) -> list[UUID]:
    assert response.status_code == 200, response.text
    table = re.search(r'aria-label="List of payments">(.*?)</table>', response.text, re.DOTALL)
    return [] if table is None else [UUID(found) for found in re.findall(r'/payments/([0-9a-f-]{36})"', table[1])]


def link(response: httpx.Response, rel: str) -> str | None:
    found = re.search(rf'<a href="([^"]+)" rel="{rel}"', response.text)
    return None if found is None else html.unescape(found[1])


def all_pages(browser: Browser, query: dict[str, Any]) -> list[UUID]:
    """Every row from the first page to the last."""
    response = browser.client.get("/dashboard/payments", params=query)
    rows = shown(response)
    while (older := link(response, "next")) is not None:
        response = browser.client.get(older)
        rows += shown(response)
    return rows


def begins(words: str) -> Callable[[Row[Any]], bool]:
    words = words.lower()
    return lambda row: (
        any(
            value is not None and value.lower().startswith(words)
            for value in (row.external_id, row.name, row.email if "@" in words else None)
        )
        or (row.number or "").lower() == words
    )


FILTERS: list[tuple[dict[str, Any], Callable[[Row[Any]], bool]]] = [
    ({}, lambda _row: True),
    ({"state": "due"}, lambda row: row.state == "due"),
    ({"state": ["due", "paid", "void"]}, lambda row: row.state in ("due", "paid", "void")),
    ({"code": "do_not_honor"}, lambda row: row.last_decline_code == "do_not_honor"),
    ({"category": "retry_daily"}, lambda row: category_of_code().get(row.last_decline_code) == "retry_daily"),
    ({"coverage": "japan"}, lambda row: row.coverage == "japan"),
    ({"trigger": "operator"}, lambda row: row.trigger == "operator"),
    ({"coverage": "global", "amount_from": "500.00"},
     lambda row: row.coverage == "global" and row.amount_minor >= 500_00),
    ({"coverage": "japan", "amount_to": "60000"},
     lambda row: row.coverage == "japan" and row.amount_minor <= 60_000),
    ({"older_than": "30"}, lambda row: row.due_on < START.date() - timedelta(days=30) and row.state not in ENDED),
    ({"older_than": "0"}, lambda row: row.due_on < START.date() and row.state not in ENDED),
    ({"account": "A-3"}, lambda row: row.external_id == "A-3"),
    ({"account": "A-"}, lambda _row: False),
    ({"text": "x-2026-000003"}, lambda row: row.number == "X-2026-000003"),
    ({"text": "anna"}, begins("anna")),
    ({"text": "A-"}, begins("a-")),
    ({"text": "PERSON4@"}, begins("person4@")),
    ({"text": "100%_"}, begins("100%_")),
    ({"text": "100%_real\\"}, begins("100%_real\\")),
    ({"text": "%"}, lambda _row: False),
    ({"text": "株式会社　"}, begins("株式会社　")),
    ({"held": "yes"}, lambda row: row.held_until == HELD and row.state not in ENDED),
    ({"open": "yes"}, lambda row: row.open_attempts > 0),
    ({"state": ["due", "retry_scheduled"], "code": "insufficient_funds"},
     lambda row: row.state in ("due", "retry_scheduled") and row.last_decline_code == "insufficient_funds"),
    ({"category": "retry_daily", "text": "a-1"},
     lambda row: category_of_code().get(row.last_decline_code) == "retry_daily" and row.external_id == "A-1"),
    ({"open": "yes", "coverage": "japan"}, lambda row: row.open_attempts > 0 and row.coverage == "japan"),
    ({"category": "retry_daily", "code": "do_not_honor"}, lambda _row: False),
]  # fmt: skip


def test_each_filter_and_each_pair_match_a_plain_python_filter(many: Dashboard) -> None:
    rows, browser, met = everything(many.world), many.as_("viewer"), 0
    for query, matches in FILTERS:
        expected = [row.id for row in rows if matches(row)]
        assert all_pages(browser, query) == expected, query
        met += len(expected)
    assert met > 500, "filters without matches would prove nothing"


def test_bulk_selection_matches_the_filter_in_id_order(many: Dashboard) -> None:
    rows = everything(many.world)
    for query, matches in FILTERS:
        pairs = httpx.QueryParams(query).multi_items()
        parsed = PaymentFilter.from_query(pairs, default_policy(), START)
        assert not parsed.errors
        stored = PaymentFilter.from_json(json.loads(json.dumps(parsed.filter.as_json())))
        again = [(name, value) for name, values in parsed.filter.to_query().items() for value in values]
        assert stored == parsed.filter == PaymentFilter.from_query(again, default_policy(), START).filter
        with many.world.engine.connect() as connection:
            found = list(connection.scalars(select_ids(stored)))
        assert found == sorted(row.id for row in rows if matches(row)), query


def test_paging_forwards_and_back_shows_every_row_once(many: Dashboard) -> None:
    browser = many.as_("viewer")
    expected = [row.id for row in everything(many.world)]
    response = browser.get("/payments")
    forwards, pages = shown(response), 1
    assert link(response, "prev") is None
    while (older := link(response, "next")) is not None:
        response = browser.client.get(older)
        forwards, pages = forwards + shown(response), pages + 1
    assert (forwards, pages) == (expected, 3)
    back = shown(response)
    while (newer := link(response, "prev")) is not None:
        response = browser.client.get(newer)
        back = shown(response) + back
    assert back == expected


def test_invalid_cursor_starts_at_the_newest(many: Dashboard) -> None:
    browser = many.as_("viewer")
    for place in ("x", "_", "2026-11-01_1", f"2026-11-01_{uuid4()}", "9" * 10_000, f"{START.isoformat()}_9"):
        assert len(shown(browser.get("/payments", after=place))) == 50


def test_totals_show_match_count_and_sum_by_currency(many: Dashboard) -> None:
    rows = [row for row in everything(many.world) if row.state == "due"]
    said = " ".join(re.sub(r"<[^>]+>", "", many.as_("viewer").get("/payments", state="due").text).split())
    assert f"{len(rows)} payments match:" in said
    dollars = sum(row.amount_minor for row in rows if row.currency == "USD")
    yen = sum(row.amount_minor for row in rows if row.currency == "JPY")
    assert f"¥{yen:,} JPY and ${dollars / 100:,.2f} USD." in said


def test_invalid_fields_are_explained_and_input_is_preserved(many: Dashboard) -> None:
    browser = many.as_("viewer")
    for field, value, why in (
        ("state", "gone", "has an unknown value: “gone”"),
        ("category", "nice", "has an unknown value"),
        ("coverage", "mars", "has an unknown value"),
        ("trigger", "moon", "has an unknown value"),
        ("amount_from", "12.50", "needs a coverage"),
        ("amount_to", "1", "needs a coverage"),
        ("older_than", "-1", "must be a whole number"),
        ("older_than", "9" * 200, "must be a whole number"),
        ("older_than", "9" * 10_000, "is too long"),
        ("text", "x" * 201, "is too long"),
        ("text", "a\x00b", "contains invalid characters"),
        ("account", "a\nb", "contains invalid characters"),
        ("held", "perhaps", "has an unknown value"),
    ):
        response = browser.get("/payments", **{field: value, "code": "do_not_honor"})
        said = html.unescape(response.text)
        assert response.status_code == 400, field
        assert "List of payments" not in said
        assert re.search(rf'<span class="wrong" id="wrong-{field}">[^<]*{re.escape(why)}', said), (field, said)
        assert 'value="do_not_honor"' in said
        if field in ("amount_from", "amount_to", "older_than", "text") and "\x00" not in value:
            assert f'value="{value}"' in said or len(value) > 200


def test_amount_filter_uses_the_currency_of_its_coverage(many: Dashboard) -> None:
    browser = many.as_("viewer")
    yen = browser.get("/payments", coverage="japan", amount_from="12.50")
    assert (yen.status_code, "JPY has no minor unit" in yen.text) == (400, True)
    turned = browser.get("/payments", coverage="global", amount_from="2", amount_to="1")
    assert (turned.status_code, "is less than the minimum amount" in turned.text) == (400, True)


def test_text_matching_too_many_accounts_is_refused(dashboard: Dashboard) -> None:
    with dashboard.world.engine.begin() as connection:
        connection.execute(
            text("INSERT INTO accounts (external_id, name) SELECT 'acct-' || n, '' FROM generate_series(1, 1001) n")
        )
    response = dashboard.as_("viewer").get("/payments", text="acct")
    assert (response.status_code, "matches more than 1,000 accounts" in response.text) == (400, True)
    assert dashboard.as_("viewer").get("/payments", text="acct-10").status_code == 200


ATTACKS = ("<script>alert(1)</script>", "'; DROP TABLE payments;--", '"><img src=x>', "%' OR 1=1 --", "{{ 7*7 }}")


def test_attacks_in_every_field_are_escaped_and_change_nothing(many: Dashboard) -> None:
    browser, before = many.as_("viewer"), len(everything(many.world))
    listed = browser.get("/payments").text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in listed
    for field in ("text", "account", "code", "state", "category", "coverage", "trigger", "amount_from", "amount_to",
                  "older_than", "held", "open", "after", "before"):  # fmt: skip
        for attack in ATTACKS:
            response = browser.get("/payments", **{field: attack})
            assert response.status_code in (200, 400)
            assert "<script>alert" not in response.text
            assert "<img src=x>" not in response.text
            assert ">49<" not in response.text
    assert len(everything(many.world)) == before


def test_only_operators_are_offered_bulk_actions_over_the_filter(many: Dashboard) -> None:
    snapshot = many.as_("viewer").get("/payments", state="due")
    assert "/bulk/new" not in snapshot.text
    assert "payments.csv" not in snapshot.text
    assert 'method="post"' not in snapshot.text.split("<main")[1]
    offered = html.unescape(many.as_("operator").get("/payments", state="due", held="yes").text)
    for action in ("charge", "hold", "release", "write_off", "void"):
        assert f"/dashboard/bulk/new?action={action}&state=due&held=yes" in offered
    assert many.as_("viewer").get("/payments.csv").status_code == 403


def test_csv_export_follows_the_filter_escapes_formulas_and_is_audited(many: Dashboard) -> None:
    rows = [row for row in everything(many.world) if row.coverage == "japan"]
    answer = many.as_("operator").get("/payments.csv", coverage="japan")
    read = list(csv.DictReader(io.StringIO(answer.text)))
    assert [UUID(line["id"]) for line in read] == [row.id for row in rows]
    for line, row in zip(read, rows, strict=True):
        assert line["account_name"] == (f"'{row.name}" if row.name.startswith(FORMULA_STARTS) else row.name)
        assert (line["amount"], line["amount_minor"]) == (str(row.amount_minor), str(row.amount_minor))
        assert (line["state"], line["invoice_number"]) == (row.state, row.number or "")
    assert any(line["account_name"].startswith("'=") for line in read), "at least one name must be a formula"
    with many.world.engine.connect() as connection:
        line = connection.execute(select(audit_log).where(audit_log.c.action == "export")).one()
    assert (line.actor, line.subject, line.snapshot["coverage"]) == ("operator:otto", "payments.csv", "japan")


def test_searched_email_is_not_stored_in_the_audit_log(many: Dashboard) -> None:
    assert many.as_("operator").get("/payments.csv", text="person1@example.com").status_code == 200
    assert many.as_("operator").get("/payments.csv", state="gone").status_code == 400
    with many.world.engine.connect() as connection:
        (line,) = connection.execute(select(audit_log).where(audit_log.c.action == "export"))
    assert line.snapshot["text"] == "(an e-mail address)"


def test_filter_is_described_in_words() -> None:
    at = datetime(2026, 11, 1, tzinfo=UTC)
    assert describe(PaymentFilter(at)) == "all payments"
    whole = PaymentFilter(
        at, states=(PaymentState.DUE, PaymentState.RETRY_SCHEDULED), code="do_not_honor", coverage="global",
        amount_from=Money(5_00, "USD"), older_than_days=1, account="A-1", text="anna", is_held=True,
        has_open_attempt=True, trigger=Trigger.MONTH_START,
    )  # fmt: skip
    assert describe(whole) == (
        "state due or retry scheduled; last decline code do_not_honor; coverage global; trigger month start; "
        "amount at least USD 5.00; unpaid and due more than 1 day ago; account A-1; "
        "invoice number or start of account “anna”; held; with an open attempt"
    )


def test_page_without_payments_explains_the_next_step(dashboard: Dashboard) -> None:
    assert "No payments match" in dashboard.as_("viewer").get("/payments").text


def test_list_shows_the_networks_date_where_the_planned_one_is_earlier(dashboard: Dashboard) -> None:
    world = dashboard.world
    token = world.simulator.make_card("global", AlwaysDeclines(decline_code="insufficient_funds")).token
    for number in range(20):
        account = world.account(f"A-{number}")
        world.add_primary_card(account, token)
        world.charge(world.add_due_payment(account))
    page = dashboard.as_("viewer").get("/payments", state="retry_scheduled").text
    assert page.count("2026-12-01 09:00 UTC") == 20, "30 days after the first of the 20 declines that Visa allows"
    of_account = dashboard.as_("viewer").get(f"/accounts/{account.id}").text
    assert "2026-12-01 09:00 UTC" in of_account
