"""The payment page: its history, and a manual charge after a preview."""

import html
import re
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy import func, select, text, update

from shared.db.tables.accounts import accounts
from shared.db.tables.operators import audit_log
from shared.db.tables.payments import payments
from shared.domain.calendar import UNTIL_RELEASED
from shared.gateway.port import Answer, Outcome
from shared.messaging.jobs import ChargePayment, SettleAttempt
from simulator.issuer.stories import AlwaysDeclines, DeclinesThenPays
from tests.dashboard.conftest import Browser, Dashboard
from tests.seed import Account, add_fee, add_run
from tests.world import World
from workers.use_cases.generate_invoices import generate_invoices


@pytest.fixture
def account(dashboard: Dashboard) -> Account:
    return dashboard.world.account("A-1", name="<script>alert(1)</script>", email="anna@example.com")


def owes(dashboard: Dashboard, account: Account, story: Any = None, amount_minor: int = 5_00) -> UUID:
    dashboard.world.add_primary_card(account, story=story)
    return dashboard.world.add_due_payment(account, amount_minor)


def words(response: httpx.Response) -> str:
    """The visible text of the page."""
    main = re.sub(r"<[^>]+>", " ", response.text.split("<main")[-1])
    return re.sub(r" (?=[.,:;])", "", " ".join(html.unescape(main).split()))


def hidden_fields(response: httpx.Response) -> dict[str, str]:
    """The hidden fields of the form that confirms a charge."""
    found = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', response.text.split("<main")[1])
    return {name: html.unescape(value) for name, value in found if name != "token"}


def confirm(
    browser: Browser, payment: UUID, snapshot: dict[str, str], reason: str = "she called"
) -> httpx.Response:
    return browser.post(f"/payments/{payment}/charge", reason=reason, **snapshot)


def audit_entries(world: World) -> list[tuple[str, str, str]]:
    with world.engine.connect() as connection:
        return [
            (row.action, row.actor, row.outcome)
            for row in connection.execute(select(audit_log).order_by(audit_log.c.id))
        ]


def lose_answers(world: World) -> None:
    """The processor captures the money, but its answer is lost."""
    gateway = world.runtime.gateways["global"]
    ask = gateway.confirm_payment_intent

    def confirm_without_answer(*arguments: str) -> Answer:
        ask(*arguments)
        return Answer(Outcome.UNKNOWN, "no_answer: timeout")

    gateway.confirm_payment_intent = confirm_without_answer


def test_decline_shows_every_code_and_the_next_step(dashboard: Dashboard, account: Account) -> None:
    payment = owes(dashboard, account, AlwaysDeclines(decline_code="insufficient_funds"))
    dashboard.world.charge(payment)
    response = dashboard.as_("viewer").get(f"/payments/{payment}")
    shown = words(response)
    (attempt,), (intent,) = dashboard.world.attempts(payment), dashboard.world.intents(payment)
    codes = ("error_type", "code", "decline_code", "advice_code", "network_advice_code", "network_decline_code")
    told = [value for name in codes if (value := getattr(attempt, name)) is not None]
    assert len(told) >= 3, "a decline has several codes"
    for value in (*told, attempt.stripe_request_id, attempt.stripe_charge_id, intent.stripe_payment_intent_id):
        assert value in shown
    assert "HTTP status 402" in shown
    assert "The card's funds are insufficient (insufficient_funds, advice try_again_later): the same" in shown
    assert "Next step At 2026-11-02 09:00 UTC visa ending in" in shown
    assert "Owner: Duecourse." in shown
    assert not re.search(r"revision|\blane\b|\bqueue\b", shown.split("Timeline")[1])
    assert "the account is marked for suspension on 2026-11-15 if unpaid or after 6 more declines" in shown
    pi, customer = intent.stripe_payment_intent_id, dashboard.world.customer_id(account)
    assert f'href="https://dashboard.stripe.com/test/payments/{pi}"' in response.text
    assert f'href="https://dashboard.stripe.com/test/customers/{customer}"' in response.text


def test_skipped_attempt_shows_its_reason(dashboard: Dashboard, account: Account) -> None:
    payment = dashboard.world.add_due_payment(account)
    dashboard.world.charge(payment)
    shown = words(dashboard.as_("viewer").get(f"/payments/{payment}"))
    assert "Not attempted needs payment method 2026-11-01 09:00 UTC: no card is registered." in shown
    assert "Owner: customer." in shown


def test_instants_are_in_the_users_zone_beside_the_business_zone(dashboard: Dashboard) -> None:
    account = dashboard.world.account("J-1", "japan")
    payment = owes(dashboard, account, AlwaysDeclines(decline_code="insufficient_funds"))
    dashboard.world.charge(payment)
    assert "2026-11-01 09:00 UTC (2026-11-01 18:00 JST)" in words(
        dashboard.as_("viewer").get(f"/payments/{payment}")
    )


def test_names_are_escaped(dashboard: Dashboard, account: Account) -> None:
    page = dashboard.as_("viewer").get(f"/payments/{dashboard.world.add_due_payment(account)}").text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script>alert" not in page


def test_page_offers_the_actions_of_the_cli(dashboard: Dashboard, account: Account) -> None:
    payment = owes(dashboard, account, AlwaysDeclines(decline_code="expired_card"))
    dashboard.world.charge(payment)
    operator = dashboard.as_("operator").get(f"/payments/{payment}")
    assert "the same card is charged again only by “Charge now”." in words(operator)
    assert f"/payments/{payment}/charge" in operator.text
    assert "duecourse payment" not in operator.text


def test_viewers_see_the_history_and_no_action(dashboard: Dashboard, account: Account) -> None:
    payment = owes(dashboard, account)
    viewer = dashboard.as_("viewer")
    page = viewer.get(f"/payments/{payment}").text.split("<main")[1]
    assert "<form" not in page
    assert "/charge" not in page
    assert "anna@example.com" not in page
    assert viewer.get(f"/payments/{payment}/charge").status_code == 403
    for action in ("charge", "look-up"):
        assert viewer.send(f"/payments/{payment}/{action}", reason="x").status_code == 403
    assert audit_entries(dashboard.world) == []
    assert dashboard.world.billing_events(payment) == []


def test_confirmed_charge_moves_money_once_and_is_audited(dashboard: Dashboard, account: Account) -> None:
    world, payment = dashboard.world, owes(dashboard, account, amount_minor=29_85)
    operator = dashboard.as_("operator")
    preview = operator.get(f"/payments/{payment}/charge")
    assert "This charges $29.85 to the card visa ending in 4242" in words(preview)
    answer = confirm(operator, payment, hidden_fields(preview))
    assert "Charge requested: a worker charges the card within seconds." in words(answer)
    assert world.enqueued == [ChargePayment(payment, "interactive")]
    row = world.payment(payment)
    assert (row.lane, row.trigger, row.requested_by) == ("interactive", "operator", "operator:otto")
    world.charge(payment)
    world.charge(payment)
    assert world.captured_amounts(payment) == [29_85]
    with world.engine.connect() as connection:
        line = connection.execute(select(audit_log)).one()
    assert (line.action, line.actor, line.subject, line.reason, line.outcome) == (
        "payment.charge", "operator:otto", str(payment), "she called", "done",
    )  # fmt: skip
    assert line.snapshot["amount"] == "USD 29.85"
    assert line.snapshot["card_id"] == hidden_fields(preview)["card"]


def test_viewing_changes_nothing(dashboard: Dashboard, account: Account) -> None:
    payment = owes(dashboard, account)
    before = dashboard.world.payment(payment)
    for _ in range(2):
        dashboard.as_("operator").get(f"/payments/{payment}")
        dashboard.as_("operator").get(f"/payments/{payment}/charge")
    assert dashboard.world.payment(payment) == before
    assert (dashboard.world.billing_events(payment), audit_entries(dashboard.world)) == ([], [])


def test_amount_changed_since_the_preview_is_refused_and_shown_again(
    dashboard: Dashboard, account: Account
) -> None:
    world, payment = dashboard.world, owes(dashboard, account)
    operator = dashboard.as_("operator")
    snapshot = hidden_fields(operator.get(f"/payments/{payment}/charge"))
    with world.engine.begin() as connection:
        connection.execute(update(payments).where(payments.c.id == payment).values(amount_minor=7_00))
    again = confirm(operator, payment, snapshot)
    assert again.status_code == 409
    assert (
        "Not charged: the payment changed since you viewed it: the amount was USD 5.00 and is now USD 7.00."
        in words(again)
    )
    assert "This charges $7.00" in words(again)
    assert (world.enqueued, audit_entries(world)) == ([], [("payment.charge", "operator:otto", "refused")])
    assert confirm(operator, payment, hidden_fields(again)).status_code == 200
    world.charge(payment)
    assert world.captured_amounts(payment) == [7_00]


def test_card_changed_since_the_preview_is_refused_and_shown_again(dashboard: Dashboard, account: Account) -> None:
    world, payment = dashboard.world, owes(dashboard, account)
    operator = dashboard.as_("operator")
    snapshot = hidden_fields(operator.get(f"/payments/{payment}/charge"))
    world.add_primary_card(account, "pm_card_mastercard", brand="mastercard")
    again = confirm(operator, payment, snapshot)
    assert again.status_code == 409
    assert "the card was visa ending in 4242 and is now mastercard ending in 4444" in words(again)
    assert world.captured_amounts(payment) == []
    assert hidden_fields(again)["card"] != snapshot["card"]


def test_of_two_operators_one_charges_and_the_other_sees_who_did(dashboard: Dashboard, account: Account) -> None:
    world, payment = dashboard.world, owes(dashboard, account)
    otto, olga = dashboard.as_("operator"), dashboard.as_("operator", "olga")
    snapshot = [hidden_fields(user.get(f"/payments/{payment}/charge")) for user in (otto, olga)]
    assert confirm(otto, payment, snapshot[0]).status_code == 200
    told = confirm(olga, payment, snapshot[1])
    assert (told.status_code, len(world.enqueued)) == (409, 1)
    assert "Not charged: operator:otto already requested this charge at 2026-11-01 09:00:00 UTC." in words(told)
    world.charge(payment)
    assert "it was paid at 2026-11-01 09:00 UTC" in words(confirm(olga, payment, snapshot[1]))
    assert world.captured_amounts(payment) == [5_00]
    done = [(actor, outcome) for _, actor, outcome in audit_entries(world)]
    assert done == [("operator:otto", "done"), ("operator:olga", "refused"), ("operator:olga", "refused")]


def test_form_resent_after_a_decline_does_not_charge_again(dashboard: Dashboard, account: Account) -> None:
    world = dashboard.world
    payment = owes(dashboard, account, DeclinesThenPays(times=1, decline_code="insufficient_funds"))
    operator = dashboard.as_("operator")
    snapshot = hidden_fields(operator.get(f"/payments/{payment}/charge"))
    confirm(operator, payment, snapshot)
    world.charge(payment)
    assert "attempt 1 was started" in words(confirm(operator, payment, snapshot))
    world.charge(payment)
    assert (world.captured_amounts(payment), len(world.attempts(payment))) == ([], 1)


def test_charge_needs_a_reason_and_the_previewed_values(dashboard: Dashboard, account: Account) -> None:
    payment = owes(dashboard, account)
    operator = dashboard.as_("operator")
    snapshot = hidden_fields(operator.get(f"/payments/{payment}/charge"))
    assert confirm(operator, payment, snapshot, reason=" ").status_code == 400
    for name, value in (
        ("amount_minor", ""),
        ("amount_minor", "-1"),
        ("amount_minor", "9" * 10_000),
        ("currency", "XXX"),
        ("card", "none"),
        ("card_revision", "1.5"),
        ("attempts", "٣"),
    ):
        assert confirm(operator, payment, {**snapshot, name: value}).status_code == 400, (name, value)
    assert (dashboard.world.billing_events(payment), audit_entries(dashboard.world)) == ([], [])


def test_paid_payment_offers_no_charge_and_explains_why(dashboard: Dashboard, account: Account) -> None:
    payment = owes(dashboard, account)
    dashboard.world.charge(payment)
    operator = dashboard.as_("operator")
    assert f"/payments/{payment}/charge" not in operator.get(f"/payments/{payment}").text
    answer = operator.get(f"/payments/{payment}/charge")
    assert "Not charged: it was paid at 2026-11-01 09:00 UTC. Nothing: it is never charged again." in words(answer)
    assert hidden_fields(answer) == {}


def test_hold_is_shown_with_a_warning(dashboard: Dashboard, account: Account) -> None:
    payment = owes(dashboard, account)
    with dashboard.world.engine.begin() as connection:
        connection.execute(update(payments).values(held_until=UNTIL_RELEASED, state_reason="looks odd"))
    operator = dashboard.as_("operator")
    assert "Held until an operator releases it" in words(operator.get(f"/payments/{payment}"))
    shown = words(operator.get(f"/payments/{payment}/charge"))
    assert "Warning: it is held; the charge releases the hold: looks odd." in shown


def test_unknown_attempt_is_looked_up_and_never_charged_again(dashboard: Dashboard, account: Account) -> None:
    world, payment = dashboard.world, owes(dashboard, account)
    lose_answers(world)
    world.charge(payment)
    operator = dashboard.as_("operator")
    page = operator.get(f"/payments/{payment}")
    assert "Open attempt attempt 1, unknown" in words(page)
    refused = operator.get(f"/payments/{payment}/charge")
    assert "has an unknown outcome" in words(refused)
    assert "“Look up at the processor”: a second charge could collect the money twice." in words(refused)
    answer = operator.post(f"/payments/{payment}/look-up", reason="the customer calls")
    assert "Look-up requested: a worker asks the processor within seconds." in words(answer)
    (attempt,) = world.attempts(payment)
    assert world.enqueued[-1] == SettleAttempt(attempt.id)
    world.settle(attempt.id)
    assert (world.payment(payment).state, world.captured_amounts(payment)) == ("paid", [5_00])
    assert operator.post(f"/payments/{payment}/look-up", reason="again").status_code == 409
    assert [line[0] + " " + line[2] for line in audit_entries(world)] == [
        "payment.look_up done",
        "payment.look_up refused",
    ]


def test_invoice_lines_are_shown(dashboard: Dashboard, account: Account) -> None:
    world = dashboard.world
    world.add_primary_card(account)
    with world.engine.begin() as connection:
        add_fee(connection, account, 29_85, description="<b>Calls</b>")
        run_id = add_run(connection)
    for _ in range(2):
        generate_invoices(world.runtime, run_id)
    with world.engine.connect() as connection:
        payment = connection.scalar(select(payments.c.id))
    page = dashboard.as_("viewer").get(f"/payments/{payment}")
    assert "<h1>Payment G-2026-000001: $29.85</h1>" in page.text
    assert "&lt;b&gt;Calls&lt;/b&gt;" in page.text
    assert "G-2026-000001 for 2026-10, coverage global" in words(page)
    assert "Invoice issued 2026-11-01" in words(page)


def test_only_the_changing_part_is_refreshed(dashboard: Dashboard, account: Account) -> None:
    payment = owes(dashboard, account)
    part = dashboard.as_("operator").client.get(f"/dashboard/payments/{payment}", headers={"HX-Request": "true"})
    assert part.text.startswith('<div id="live"')
    assert '<section id="next-live" class="card" aria-labelledby="next" hx-swap-oob="true">' in part.text
    assert "<form" not in part.text


def test_unknown_payment_is_not_found(dashboard: Dashboard, account: Account) -> None:
    operator = dashboard.as_("operator")
    for id_ in ("1", "9" * 10_000, "00000000-0000-0000-0000-000000000000", "'; DROP TABLE payments;--", "..%2f.."):
        assert operator.client.get(f"/dashboard/payments/{id_}").status_code == 404
        assert operator.client.get(f"/dashboard/payments/{id_}/charge").status_code == 404
    with dashboard.world.engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(accounts)) == 1
        assert connection.scalar(text("SELECT count(*) FROM payments")) == 0
