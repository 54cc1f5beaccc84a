"""Runs: list, preview, start and rerun, by one operator at a time."""

import re
import threading
from datetime import date, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy import Row, func, insert, select, text, update

from shared.db.tables.accounts import card_blocks
from shared.db.tables.invoices import fees
from shared.db.tables.operators import audit_log, sessions
from shared.db.tables.payments import payments
from shared.db.tables.system import billing_events, runs
from shared.domain.states import PaymentState, RunState
from shared.invoicing.month import Month
from shared.invoicing.preview import preview_month
from shared.messaging.jobs import DAILY_RETRIES, MONTHLY_INVOICES, GenerateInvoices, RetryPayments
from shared.operations.sessions import form_token
from shared.scheduling.retry_preview import preview_retries
from tests.dashboard.conftest import Browser, Dashboard
from tests.scheduler.test_sweep import add_attempt
from tests.seed import Account, add_account, add_card, add_fee, add_payment, add_run
from tests.world import World
from workers.use_cases.generate_invoices import generate_invoices
from workers.use_cases.retry_payments import retry_payments

MONTH = {"job": MONTHLY_INVOICES, "period": "2026-10", "coverage": "global"}
DAY = {"job": DAILY_RETRIES, "period": "2026-11-01", "coverage": "global"}
HIDDEN = re.compile(r'<input type="hidden" name="(digest|event|rows|amount)" value="([^"]*)">')


def preview(browser: Browser, key: dict[str, str]) -> dict[str, str]:
    """Get the preview; return the fields of its form."""
    page = browser.get("/runs/rerun", **key)
    assert page.status_code == 200, page.text
    return {**key, **dict(HIDDEN.findall(page.text))}


def confirm(browser: Browser, snapshot: dict[str, str], reason: str = "accounts were fixed") -> httpx.Response:
    return browser.post("/runs/rerun", **snapshot, reason=reason)


def add_account_with_fee(world: World, name: str, amount: int, coverage: str = "global") -> Account:
    with world.engine.begin() as connection:
        account = add_account(connection, name, coverage)
        add_fee(connection, account, amount)
        return account


def run_rows(world: World) -> list[Row[Any]]:
    with world.engine.connect() as connection:
        return list(connection.execute(select(runs).order_by(runs.c.created_at)))


def audit_entries(world: World) -> list[tuple[str, str, str]]:
    with world.engine.connect() as connection:
        found = connection.execute(
            select(audit_log).where(audit_log.c.subject_kind == "run").order_by(audit_log.c.id)
        )
        return [(row.actor, row.action, row.outcome) for row in found]


def test_month_is_previewed_run_and_audited(dashboard: Dashboard) -> None:
    world, browser = dashboard.world, dashboard.as_("operator")
    for number in range(3):
        add_account_with_fee(world, f"A-{number}", 10_00 + number)
    with world.engine.begin() as connection:
        add_account(connection, "idle")
    page = browser.get("/runs/rerun", **MONTH).text
    for said in ("$30.03", "A-2", "This run does not exist yet.", "has no active service", "idle", "Start run"):
        assert said in page, said
    assert run_rows(world) == [], "a preview changes nothing"
    answer = confirm(browser, preview(browser, MONTH))
    (run,) = run_rows(world)
    assert (run.state, run.requested_by, run.reason) == ("ready", "operator:otto", "accounts were fixed")
    assert str(answer.url).startswith(f"{dashboard.url}/dashboard/runs/{run.id}")
    assert world.enqueued == [GenerateInvoices(run.id)]
    with world.engine.connect() as connection:
        line = connection.execute(select(audit_log).where(audit_log.c.subject_kind == "run")).one()
    assert (line.action, line.subject, line.reason) == ("run.start", str(run.id), "accounts were fixed")
    assert line.snapshot["rows"] == 3
    assert line.snapshot["amount_minor"] == 30_03
    assert len(line.snapshot["digest"]) == 64
    generate_invoices(world.runtime, run.id)
    page = browser.get(f"/runs/{run.id}").text
    for said in ("operator:otto", "accounts were fixed", "$30.03", "run finished", "run scheduled", "invoices"):
        assert said in page, said


def test_change_since_the_preview_is_refused_and_shown(dashboard: Dashboard) -> None:
    world, browser = dashboard.world, dashboard.as_("operator")
    add_account_with_fee(world, "A-1", 10_00)
    snapshot = preview(browser, MONTH)
    add_account_with_fee(world, "A-2", 5_00)
    answer = confirm(browser, snapshot)
    assert answer.status_code == 409
    assert (
        "Not started. The preview has changed: it was 1 with a total of $10.00 and is now 2 with a total of $15.00."
        in (answer.text)
    )
    assert run_rows(world) == []
    assert world.enqueued == []
    assert audit_entries(world) == [("operator:otto", "run.start", "refused")]
    fresh = {**MONTH, **dict(HIDDEN.findall(answer.text))}
    assert fresh["digest"] != snapshot["digest"]
    assert confirm(browser, fresh).status_code == 200
    assert len(run_rows(world)) == 1


def test_digest_differs_for_the_same_sum_of_another_account(world: World) -> None:
    anna = add_account_with_fee(world, "A-1", 10_00)
    month = Month.of(world.policy, "global", "2026-10")
    before = preview_month(world.engine, month)
    assert preview_month(world.engine, month).digest == before.digest
    with world.engine.begin() as connection:
        ben = add_account(connection, "A-2")
        connection.execute(update(fees).where(fees.c.account_id == anna.id).values(account_id=ben.id))
    after = preview_month(world.engine, month)
    assert (after.counts.total_minor, after.counts.invoices) == (before.counts.total_minor, before.counts.invoices)
    assert after.digest != before.digest


def test_rerun_of_a_finished_month_bills_fixed_accounts(dashboard: Dashboard) -> None:
    world, browser = dashboard.world, dashboard.as_("operator")
    add_account_with_fee(world, "A-1", 10_00)
    with world.engine.begin() as connection:
        run_id = add_run(connection)
    generate_invoices(world.runtime, run_id)
    add_account_with_fee(world, "A-2", 7_00)
    page = browser.get("/runs/rerun", **MONTH).text
    assert "It has finished" in page
    assert "already has its invoice of this period" in page
    assert confirm(browser, preview(browser, MONTH)).status_code == 200
    generate_invoices(world.runtime, run_id)
    with world.engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(payments)) == 2
    assert audit_entries(world) == [("operator:otto", "run.again", "done")]


def test_late_run_is_confirmed_after_its_preview(dashboard: Dashboard) -> None:
    world, browser = dashboard.world, dashboard.as_("operator")
    with world.engine.begin() as connection:
        run_id = add_run(connection, "2026-09", state=RunState.AWAITING_CONFIRMATION)
    key = {**MONTH, "period": "2026-09"}
    assert f"/dashboard/runs/{run_id}" in browser.get("/runs").text
    assert "and confirm" in browser.get(f"/runs/{run_id}").text
    assert "Confirm run" in browser.get("/runs/rerun", **key).text
    assert confirm(browser, preview(browser, key)).status_code == 200
    (run,) = run_rows(world)
    assert (run.state, run.confirmed_by) == ("ready", "operator:otto")
    assert audit_entries(world) == [("operator:otto", "run.confirm", "done")]


def test_running_run_shows_who_requested_it(dashboard: Dashboard) -> None:
    world, first = dashboard.world, dashboard.as_("operator", "otto")
    add_account_with_fee(world, "A-1", 10_00)
    confirm(first, preview(first, MONTH), "the scheduler was away")
    page = dashboard.as_("operator", "olga").get("/runs/rerun", **MONTH).text
    assert "It waits for a worker; operator:otto requested it at 2026-11-01 09:00:00 UTC" in page
    assert "the scheduler was away" in page
    assert "already in progress" in page
    assert 'name="digest"' not in page


def test_of_two_concurrent_confirmations_one_runs_and_the_other_sees_by_whom(dashboard: Dashboard) -> None:
    world = dashboard.world
    add_account_with_fee(world, "A-1", 10_00)
    with world.engine.begin() as connection:
        run_id = add_run(connection)
    generate_invoices(world.runtime, run_id)
    add_account_with_fee(world, "A-2", 7_00)
    browsers = [dashboard.as_("operator", name) for name in ("otto", "olga")]
    snapshot = [preview(browser, MONTH) for browser in browsers]
    together, answers = threading.Barrier(2), {}

    def confirm_as(place: int) -> None:
        together.wait()
        answers[place] = confirm(browsers[place], snapshot[place], f"reason {place}")

    threads = [threading.Thread(target=confirm_as, args=(place,)) for place in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    statuses = {place: answer.status_code for place, answer in answers.items()}
    assert sorted(statuses.values()) == [200, 409]
    winner = next(place for place, status in statuses.items() if status == 200)
    name = browsers[winner].user.name  # type: ignore[union-attr]
    assert f"operator:{name} requested it at 2026-11-01 09:00:00 UTC: reason {winner}" in answers[1 - winner].text
    assert world.enqueued == [GenerateInvoices(run_id)]
    with world.engine.connect() as connection:
        reopened = connection.scalars(
            select(billing_events.c.actor).where(billing_events.c.type == "run_reopened")
        ).all()
    assert reopened == [f"operator:{name}"]
    assert sorted(outcome for _, _, outcome in audit_entries(world)) == ["done", "refused"]


def test_confirmation_after_the_first_run_finished_is_refused_with_who_ran_it(dashboard: Dashboard) -> None:
    world = dashboard.world
    with world.engine.begin() as connection:
        run_id = add_run(connection, state=RunState.FINISHED)
    first, second = dashboard.as_("operator", "otto"), dashboard.as_("operator", "olga")
    snapshot = preview(second, MONTH)
    confirm(first, preview(first, MONTH))
    generate_invoices(world.runtime, run_id)
    answer = confirm(second, snapshot)
    assert answer.status_code == 409
    assert "It has finished; operator:otto requested it" in answer.text


@pytest.mark.parametrize("key", [MONTH, DAY], ids=["month", "day"])
def test_viewer_sees_runs_and_may_start_none(dashboard: Dashboard, key: dict[str, str]) -> None:
    world, viewer = dashboard.world, dashboard.as_("viewer")
    with world.engine.begin() as connection:
        run_id = add_run(connection, state=RunState.FINISHED)
    assert viewer.get("/runs").status_code == 200
    assert "Rerun" not in viewer.get("/runs").text
    assert viewer.get(f"/runs/{run_id}").status_code == 200
    assert "rerun" not in viewer.get(f"/runs/{run_id}").text.split("<main")[1].split("</main")[0]
    assert viewer.get("/runs/rerun", **key).status_code == 403
    with world.engine.connect() as connection:
        csrf_key = connection.execute(select(sessions.c.csrf_key)).scalar_one()
    token = form_token(csrf_key, "/dashboard/runs/rerun")
    answer = viewer.send("/runs/rerun", token=token, reason="y", event="0", digest="", **key)
    assert answer.status_code == 403
    assert "This needs the role operator; your role is viewer." in answer.text


def test_unfinished_month_can_be_previewed_but_not_run(dashboard: Dashboard) -> None:
    browser, key = dashboard.as_("operator"), {**MONTH, "period": "2026-11"}
    page = browser.get("/runs/rerun", **key)
    assert page.status_code == 200
    assert "it will run by itself" in page.text
    assert 'name="digest"' not in page.text
    snapshot = preview(browser, MONTH)
    assert confirm(browser, {**snapshot, "period": "2026-11"}).status_code == 400
    assert run_rows(dashboard.world) == []


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"job": "reconciliation"}, "Unknown job"),
        ({"coverage": "mars"}, "Unknown coverage"),
        ({"period": "2026-13"}, "Invalid month or day"),
        ({"period": "9999-12"}, "Invalid month or day"),
        ({"period": "0000-01"}, "Invalid month or day"),
        ({"period": "9" * 10_000}, "Invalid month or day"),
        ({"job": DAILY_RETRIES, "period": "2026-02-30"}, "Invalid month or day"),
        ({"job": DAILY_RETRIES, "period": "9999-12-31"}, "Invalid month or day"),
    ],
)
def test_invalid_run_parameters_are_explained(dashboard: Dashboard, wrong: dict[str, str], says: str) -> None:
    answer = dashboard.as_("operator").get("/runs/rerun", **{**MONTH, **wrong})
    assert answer.status_code == 400
    assert says in answer.text


def add_retry(world: World, name: str, amount: int, card: dict[str, Any] | None = None, **columns: Any) -> UUID:
    """Add a payment that is due for a retry, with a card unless `card` is None."""
    with world.engine.begin() as connection:
        account = add_account(connection, name, kind=columns.pop("kind", "card"), stripe_customer_id=f"cus_{name}")
        if card is not None:
            add_card(connection, account, **card)
        columns = {
            "state": PaymentState.RETRY_SCHEDULED,
            "next_attempt_at": world.clock.now() - timedelta(minutes=1),
            "first_declined_at": world.clock.now() - timedelta(days=1),
            **columns,
        }
        return add_payment(connection, account, amount, **columns)


def test_preview_of_a_day_shows_charges_and_why_others_are_excluded(dashboard: Dashboard) -> None:
    world, now = dashboard.world, dashboard.world.clock.now()
    add_retry(world, "good", 10_00, {})
    worn_out = add_retry(world, "worn-out", 2_00, {"fingerprint": "worn"})
    open_ = add_retry(world, "open", 3_00, {})
    add_retry(world, "held", 4_00, {}, held_until=now + timedelta(days=1))
    add_retry(world, "bare", 5_00)
    add_retry(world, "transfer", 6_00, {}, kind="bank_transfer")
    add_retry(world, "blocked", 7_00, {"fingerprint": "stolen"})
    add_retry(world, "tomorrow", 8_00, {}, next_attempt_at=now + timedelta(days=1))
    add_retry(world, "won", 9_00, {}, state=PaymentState.PAID, paid_at=now)
    waits = {"state": PaymentState.NEEDS_PAYMENT_METHOD, "waiting_for_revision_after": 1}
    add_retry(world, "waits", 11_00, {}, **waits)
    with world.engine.begin() as connection:
        account = add_account(connection, "worn-out", "japan")
        for number in range(2, 22):
            connection.execute(
                text(
                    "INSERT INTO payment_intents (payment_id, ordinal, coverage, amount_minor, currency,"
                    " stripe_customer_id, api_version, closed_reason, closed_at)"
                    " VALUES (:id, :n, 'global', 1, 'USD', 'cus', '1', 'abandoned', now())"
                ),
                {"id": worn_out, "n": number},
            )
        connection.execute(
            text(
                "INSERT INTO payment_attempts (payment_id, number, kind, state, payment_intent_id, coverage,"
                " trigger, lane, card_revision, started_at, lease_expires_at, finished_at, card_fingerprint)"
                " SELECT payment_id, ordinal, 'charge', 'declined', id, 'global', 'daily_retry', 'batch', 0,"
                " CAST(:at AS timestamptz), now(), CAST(:at AS timestamptz), 'worn' FROM payment_intents"
            ),
            {"at": now - timedelta(days=2)},
        )
        add_attempt(connection, Account(account.id, account.settings_id, "open", "global"), open_, "unknown")
        connection.execute(
            insert(card_blocks).values(
                coverage="global", fingerprint="stolen", reason="lost", attempt_id=open_, blocked_at=now
            )
        )
        found = preview_retries(connection, world.policy.coverage("global"), now, world.machine())
    assert (found.payments, found.amount_minor) == (1, 10_00)
    assert {row.reason: (row.payments, row.amount_minor) for row in found.skipped} == {
        "network_budget": (1, 2_00),
        "attempt_open": (1, 3_00),
        "held": (1, 4_00),
        "no_card": (1, 5_00),
        "bank_transfer": (1, 6_00),
        "card_blocked": (1, 7_00),
        "not_yet_due": (1, 8_00),
        "paid": (1, 9_00),
        "waits_for_customer": (1, 11_00),
    }
    page = dashboard.as_("operator").get("/runs/rerun", **DAY).text
    assert "$10.00" in page
    assert "as often as the network allows" in page


def test_manual_run_of_a_day_charges_what_its_preview_showed(dashboard: Dashboard) -> None:
    world, browser = dashboard.world, dashboard.as_("operator")
    payment_id = add_retry(world, "good", 10_00, {})
    snapshot = preview(browser, DAY)
    assert (snapshot["rows"], snapshot["amount"]) == ("1", "1000")
    assert confirm(browser, snapshot).status_code == 200
    (run,) = run_rows(world)
    assert world.enqueued == [RetryPayments(run.id)]
    retry_payments(world.runtime, run.id)
    assert world.payment(payment_id).state == PaymentState.DUE
    assert audit_entries(world) == [("operator:otto", "run.start", "done")]


def test_run_is_refused_if_a_payment_was_paid_since_the_preview(dashboard: Dashboard) -> None:
    world, browser = dashboard.world, dashboard.as_("operator")
    payment_id = add_retry(world, "good", 10_00, {})
    add_retry(world, "other", 5_00, {})
    snapshot = preview(browser, DAY)
    with world.engine.begin() as connection:
        connection.execute(
            update(payments)
            .where(payments.c.id == payment_id)
            .values(state="paid", paid_at=world.clock.now(), next_attempt_at=None)
        )
    answer = confirm(browser, snapshot)
    assert answer.status_code == 409
    assert "it was 2 with a total of $15.00 and is now 1 with a total of $5.00" in answer.text
    assert "has been paid since that day began" in answer.text
    assert run_rows(world) == []


def test_runs_are_listed_by_page_and_filter(dashboard: Dashboard) -> None:
    browser = dashboard.as_("viewer")
    first = date(2026, 9, 1)
    with dashboard.world.engine.begin() as connection:
        for number in range(60):
            day = str(first + timedelta(days=number % 60))
            add_run(connection, day, job=DAILY_RETRIES, state="finished")
        add_run(connection, "2026-09", "japan", state="awaiting_confirmation")
    newest = browser.get("/runs").text
    assert newest.count("/dashboard/runs/") - newest.count("/dashboard/runs/rerun") == 50
    older = re.search(r'href="([^"]+)" rel="next"', newest)
    assert older is not None
    rest = browser.client.get(older[1].replace("&amp;", "&")).text
    assert rest.count('"/dashboard/runs/') == 11
    back = re.search(r'href="([^"]+)" rel="prev"', rest)
    assert back is not None
    assert browser.client.get(back[1].replace("&amp;", "&")).text.count('"/dashboard/runs/') == 50
    one = browser.get(
        "/runs", job=MONTHLY_INVOICES, period="2026-09", coverage="japan", state="awaiting_confirmation"
    )
    assert one.text.count('"/dashboard/runs/') == 1
    assert "No runs match" in browser.get("/runs", period="2031-01").text
    assert browser.get("/runs", after="nonsense").status_code == 200


def test_unknown_run_id_is_rejected(dashboard: Dashboard) -> None:
    browser = dashboard.as_("viewer")
    assert browser.get("/runs/7").status_code == 404
    assert browser.get("/runs/00000000-0000-4000-8000-000000000000").status_code == 404
