"""Bulk actions, holds, closes and marks on their pages: preview, confirmation, audit log, roles."""

import html
import re
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select

from shared.bulk import preview as previewing
from shared.db.tables.operators import audit_log, bulk_actions, bulk_items
from shared.db.tables.payments import payments
from shared.messaging.jobs import ApplyBulkAction, ClosePayment
from shared.operations.audit_log import AuditAction
from simulator.issuer.stories import AlwaysDeclines
from tests.dashboard.conftest import Browser, Dashboard
from tests.seed import Account
from workers import use_cases


@pytest.fixture
def account(dashboard: Dashboard) -> Account:
    account = dashboard.world.account("A-1")
    dashboard.world.add_primary_card(account)
    return account


def owed(dashboard: Dashboard, account: Account, *amounts: int) -> list[UUID]:
    return [dashboard.world.add_due_payment(account, amount) for amount in amounts]


def audit_entries(dashboard: Dashboard) -> list[Any]:
    with dashboard.world.engine.connect() as connection:
        return list(connection.execute(select(audit_log).order_by(audit_log.c.id)))


def bulks(dashboard: Dashboard) -> list[Any]:
    with dashboard.world.engine.connect() as connection:
        return list(connection.execute(select(bulk_actions).order_by(bulk_actions.c.created_at)))


def plain(text: str) -> str:
    return html.unescape(" ".join(re.sub(r"<[^>]+>", " ", text).split()))


def hidden(text: str) -> dict[str, str]:
    """The hidden fields of the confirmation form."""
    form = text.split('action="/dashboard/bulk/new"')[1].split("</form>")[0]
    found = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', form))
    found.pop("token")
    return {name: value.replace("&amp;", "&") for name, value in found.items()}


def confirm(browser: Browser, query: str, reason: str = "month end", **fields: str) -> Any:
    """Get a preview and confirm it."""
    page = browser.get(f"/bulk/new?{query}")
    assert page.status_code == 200, plain(page.text)
    return browser.post("/bulk/new", reason=reason, **hidden(page.text), **fields)


def work(dashboard: Dashboard) -> None:
    world = dashboard.world
    while world.enqueued:
        match world.enqueued.pop(0):
            case ApplyBulkAction(bulk_id):
                use_cases.apply_bulk_action(world.runtime, bulk_id)
            case ClosePayment(payment_id):
                use_cases.close_payment(world.runtime, payment_id)
            case job:
                use_cases.charge_payment(world.runtime, job.payment_id)


# -- bulk actions


def test_bulk_charge_is_previewed_confirmed_applied_and_audited(dashboard: Dashboard, account: Account) -> None:
    owed(dashboard, account, 5_00, 7_00)
    owed(dashboard, account, 9_00)
    held = dashboard.world.add_due_payment(account, 1_00, held_until=None, state="void")
    otto = dashboard.as_("operator")
    page = plain(otto.get("/bulk/new?action=charge&coverage=global").text)
    assert "Charge now 3 of 4 matching payments" in page
    assert "$21.00" in page
    assert "1 not collected any more: written off, void or carried forward" in page
    answer = confirm(otto, "action=charge&coverage=global")
    (bulk,) = bulks(dashboard)
    assert str(answer.url).endswith(f"/bulk/{bulk.id}")
    assert (bulk.requested_by, bulk.reason, bulk.expected) == ("operator:otto", "month end", 3)
    assert bulk.filter["coverage"] == "global"
    assert dashboard.world.enqueued == [ApplyBulkAction(bulk.id)]
    assert "0 of 3" in plain(answer.text)
    work(dashboard)
    told = plain(otto.get(f"/bulk/{bulk.id}").text)
    assert "finished 3 of 3" in told
    assert f"/audit-log?subject={bulk.id}" in otto.get(f"/bulk/{bulk.id}").text
    assert sorted(line.amount for line in dashboard.world.simulator.iter_ledger()) == [5_00, 7_00, 9_00]
    started, finished = audit_entries(dashboard)
    assert (started.action, started.outcome, started.actor, started.role) == (
        AuditAction.BULK_START,
        "started",
        "operator:otto",
        "operator",
    )
    assert (started.snapshot["count"], started.snapshot["sums"], started.snapshot["digest"]) == (
        3,
        {"USD": 21_00},
        bulk.digest,
    )
    assert started.subject == finished.subject == str(bulk.id)
    assert (finished.action, finished.result["done"]) == (AuditAction.BULK_FINISH, 3)
    assert dashboard.world.captured_amounts(held) == []
    assert "Charge now" in plain(otto.get("/bulk").text)


def test_bulk_action_covers_the_whole_filter_not_one_page(dashboard: Dashboard, account: Account) -> None:
    owed(dashboard, account, *range(1_00, 1_60))
    otto = dashboard.as_("operator")
    page = otto.get("/payments", state="due")
    link = re.search(r'href="(/dashboard/bulk/new\?action=hold[^"]*)"', page.text)
    assert link is not None
    query = link[1].split("?")[1].replace("&amp;", "&")
    confirm(otto, query, until="")
    work(dashboard)
    with dashboard.world.engine.connect() as connection:
        held = connection.scalars(select(payments.c.held_until).where(payments.c.held_until.is_not(None))).all()
    assert len(held) == 60


def test_stale_preview_is_shown_again_and_not_started(dashboard: Dashboard, account: Account) -> None:
    owed(dashboard, account, 5_00)
    otto = dashboard.as_("operator")
    snapshot = otto.get("/bulk/new?action=charge&state=due")
    owed(dashboard, account, 7_00)
    answer = otto.post("/bulk/new", reason="month end", **hidden(snapshot.text))
    assert answer.status_code == 409
    assert "Not started: the matching payments have changed since the preview" in plain(answer.text)
    assert "Charge now 2 of 2" in plain(answer.text)
    assert bulks(dashboard) == []
    (line,) = audit_entries(dashboard)
    assert (line.outcome, line.result["now"]["count"]) == ("refused", 2)
    assert otto.post("/bulk/new", reason="month end", **hidden(answer.text)).status_code == 200
    assert len(bulks(dashboard)) == 1


def test_second_operator_sees_who_started_first(dashboard: Dashboard, account: Account) -> None:
    owed(dashboard, account, 5_00, 7_00)
    otto, olga = dashboard.as_("operator"), dashboard.as_("operator", "olga")
    snapshot = [browser.get("/bulk/new?action=charge&state=due") for browser in (otto, olga)]
    assert otto.post("/bulk/new", reason="mine", **hidden(snapshot[0].text)).status_code == 200
    answer = olga.post("/bulk/new", reason="mine too", **hidden(snapshot[1].text))
    assert answer.status_code == 409
    (bulk,) = bulks(dashboard)
    assert "2 in another unfinished bulk action: started by operator:otto" in plain(answer.text)
    assert f"/dashboard/bulk/{bulk.id}" in answer.text
    assert 'action="/dashboard/bulk/new"' not in answer.text, "no payment is left to confirm"


def test_refused_payment_is_listed_with_reason_and_link(dashboard: Dashboard, account: Account) -> None:
    paid, _ = owed(dashboard, account, 5_00, 7_00)
    otto = dashboard.as_("operator")
    confirm(otto, "action=charge&state=due")
    dashboard.world.charge(paid)
    work(dashboard)
    (bulk,) = bulks(dashboard)
    told = otto.get(f"/bulk/{bulk.id}")
    assert "1 it was paid at 2026-11-01 09:00 UTC" in plain(told.text)
    assert f'href="/dashboard/payments/{paid}"' in told.text


def test_bulk_action_is_stopped_and_resumed_with_a_reason(dashboard: Dashboard, account: Account) -> None:
    owed(dashboard, account, 5_00, 7_00)
    otto, ada = dashboard.as_("operator"), dashboard.as_("admin")
    confirm(otto, "action=void&state=due")
    (bulk,) = bulks(dashboard)
    here = f"/bulk/{bulk.id}"
    assert "Bulk action stopped" in plain(ada.post(f"{here}/stop", here, reason="wrong filter").text)
    work(dashboard)
    assert dashboard.world.enqueued == []
    assert "stopped 0 of 2" in plain(ada.get(here).text)
    assert "Bulk action resumed" in plain(otto.post(f"{here}/resume", here, reason="it was right").text)
    work(dashboard)
    assert "finished 2 of 2" in plain(otto.get(here).text)
    kinds = [(line.action, line.actor, line.reason) for line in audit_entries(dashboard)]
    assert kinds[1:3] == [
        (AuditAction.BULK_STOP, "operator:ada", "wrong filter"),
        (AuditAction.BULK_RESUME, "operator:otto", "it was right"),
    ]
    assert "/stop" not in otto.get(here).text, "a finished action can't be stopped"
    stale = ada.send(f"{here}/stop", token=ada.forms[f"/dashboard{here}/stop"], reason="late")
    assert stale.status_code == 409
    assert audit_entries(dashboard)[-1].outcome == "refused"


def test_too_many_matches_are_refused_with_the_next_step(
    dashboard: Dashboard, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    owed(dashboard, account, 5_00, 7_00)
    monkeypatch.setattr(previewing, "CAP", 1)
    page = dashboard.as_("operator").get("/bulk/new?action=charge")
    assert "Not possible: more than 1 payments match. To do: narrow the filter" in plain(page.text)
    assert "<form" not in page.text.split("<main")[1]


@pytest.mark.parametrize(
    "query",
    [
        "action=steal&state=due",
        "action=&state=due",
        "state=due",
        "action=charge&state=rich",
        "action=charge&amount_from=x",
        "action=charge&coverage=mars",
    ],
)
def test_unknown_action_or_filter_is_explained(dashboard: Dashboard, query: str) -> None:
    assert dashboard.as_("operator").get(f"/bulk/new?{query}").status_code == 400


def test_empty_list_explains_how_to_start(dashboard: Dashboard) -> None:
    assert "No bulk actions" in plain(dashboard.as_("viewer").get("/bulk").text)


def test_page_refreshes_itself_only_while_the_action_runs(dashboard: Dashboard, account: Account) -> None:
    owed(dashboard, account, 5_00)
    otto = dashboard.as_("operator")
    confirm(otto, "action=charge&state=due")
    (bulk,) = bulks(dashboard)
    otto.client.headers["HX-Request"] = "true"
    part = otto.get(f"/bulk/{bulk.id}").text
    assert "<html" not in part
    assert f'hx-get="/dashboard/bulk/{bulk.id}"' in part
    work(dashboard)
    assert "hx-get" not in otto.get(f"/bulk/{bulk.id}").text
    assert "<html" not in otto.get("/bulk").text


def test_email_in_a_filter_is_not_stored(dashboard: Dashboard) -> None:
    account = dashboard.world.account("A-1")
    with dashboard.world.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE accounts SET email = 'ann@example.com'")
    owed(dashboard, account, 5_00)
    otto = dashboard.as_("operator")
    confirm(otto, "action=hold&text=ann@example.com")
    (bulk,), lines = bulks(dashboard), audit_entries(dashboard)
    assert bulk.filter["text"] == "(an e-mail address)"
    assert all("ann@" not in str(line._mapping) for line in lines)


def test_viewer_sees_bulk_actions_and_may_start_none(dashboard: Dashboard, account: Account) -> None:
    (payment,) = owed(dashboard, account, 5_00)
    otto, vera = dashboard.as_("operator"), dashboard.as_("viewer")
    confirm(otto, "action=hold&state=due")
    (bulk,) = bulks(dashboard)
    shown = vera.get(f"/bulk/{bulk.id}")
    assert shown.status_code == 200
    assert "/stop" not in shown.text
    assert vera.get("/bulk/new?action=charge").status_code == 403
    assert "/hold" not in vera.get(f"/payments/{payment}").text
    assert "/mark" not in vera.get(f"/accounts/{account.id}").text


# -- one payment, one account


def test_payment_is_held_and_released_on_its_page(dashboard: Dashboard, account: Account) -> None:
    (payment,) = owed(dashboard, account, 5_00)
    otto, here = dashboard.as_("operator"), f"/payments/{payment}"
    told = otto.post(f"{here}/hold", here, until="2026-11-20", reason="disputed")
    assert "Payment held until 2026-11-20 00:00 UTC." in plain(told.text)
    assert "Held until 2026-11-20 00:00 UTC: disputed (held by operator:otto" in plain(told.text)
    assert "Hold released." in plain(otto.post(f"{here}/release", here, reason="settled").text)
    assert dashboard.world.payment(payment).held_until is None
    assert [(line.action, line.subject, line.reason) for line in audit_entries(dashboard)] == [
        (AuditAction.PAYMENT_HOLD, str(payment), "disputed"),
        (AuditAction.PAYMENT_RELEASE, str(payment), "settled"),
    ]
    assert audit_entries(dashboard)[0].snapshot == {"until": "2026-11-20"}
    assert len(dashboard.world.enqueued) == 1, "a released payment is due at once"


@pytest.mark.parametrize(
    ("path", "act", "state"),
    [("write-off", AuditAction.PAYMENT_WRITE_OFF, "uncollectible"), ("void", AuditAction.PAYMENT_VOID, "void")],
)
def test_payment_is_closed_on_its_page(
    dashboard: Dashboard, account: Account, path: str, act: AuditAction, state: str
) -> None:
    charged, never_charged = owed(dashboard, account, 7_00, 5_00)
    dashboard.world.add_primary_card(account, story=AlwaysDeclines(decline_code="insufficient_funds"))
    dashboard.world.charge(charged)
    otto = dashboard.as_("operator")
    for payment in (never_charged, charged):
        otto.post(f"/payments/{payment}/{path}", f"/payments/{payment}", reason="gone")
    assert dashboard.world.payment(never_charged).state == state
    assert dashboard.world.payment(charged).pending_close_as == state
    assert dashboard.world.enqueued == [ClosePayment(charged)]
    assert "It is being " in plain(otto.get(f"/payments/{charged}").text)
    work(dashboard)
    assert dashboard.world.payment(charged).state == state
    assert [(line.action, line.outcome) for line in audit_entries(dashboard)] == [(act, "done")] * 2
    assert f"/{path}" not in otto.get(f"/payments/{charged}").text


def test_pending_close_is_cancelled_on_its_page(dashboard: Dashboard, account: Account) -> None:
    dashboard.world.add_primary_card(account, story=AlwaysDeclines(decline_code="insufficient_funds"))
    (payment,) = owed(dashboard, account, 5_00)
    dashboard.world.charge(payment)
    otto, here = dashboard.as_("operator"), f"/payments/{payment}"
    otto.post(f"{here}/void", here, reason="billed by mistake")
    told = otto.post(f"{here}/withdraw-close", here, reason="it was right")
    assert "Pending close canceled; collection continues." in plain(told.text)
    assert dashboard.world.payment(payment).pending_close_as is None
    assert audit_entries(dashboard)[-1].action == AuditAction.PAYMENT_WITHDRAW_CLOSE


def test_refusal_is_explained_and_audited(dashboard: Dashboard, account: Account) -> None:
    (payment,) = owed(dashboard, account, 5_00)
    otto, here = dashboard.as_("operator"), f"/payments/{payment}"
    answer = otto.post(f"{here}/hold", here, until="2026-10-01", reason="disputed")
    assert answer.status_code == 409
    assert "Nothing was changed: 2026-10-01 has already begun" in plain(answer.text)
    assert "To do: choose a later day." in plain(answer.text)
    (line,) = audit_entries(dashboard)
    assert line.outcome == "refused"
    assert line.result["refused"].startswith("2026-10-01 has already begun")
    for said, status in (("someday", 400), ("2026-11-31", 400)):
        assert otto.post(f"{here}/hold", here, until=said, reason="disputed").status_code == status


def test_account_is_marked_and_unmarked_on_its_page(dashboard: Dashboard, account: Account) -> None:
    otto, here = dashboard.as_("operator"), f"/accounts/{account.id}"
    assert "The account's standing is marked for suspension." in plain(
        otto.post(f"{here}/mark", here, reason="fraud?").text
    )
    assert "marked by operator:otto: fraud?" in plain(otto.get(here).text)
    assert "The account's standing is good." in plain(
        otto.post(f"{here}/unmark", here, until="2026-11-30", reason="it wasn't").text
    )
    assert [(line.action, line.subject_kind, line.snapshot) for line in audit_entries(dashboard)] == [
        (AuditAction.ACCOUNT_MARK, "account", {}),
        (AuditAction.ACCOUNT_UNMARK, "account", {"until": "2026-11-30"}),
    ]


def test_large_bulk_action_shows_at_most_two_hundred_items(dashboard: Dashboard, account: Account) -> None:
    owed(dashboard, account, *range(1_00, 3_05))
    otto = dashboard.as_("operator")
    confirm(otto, "action=hold&state=due")
    (bulk,) = bulks(dashboard)
    page = otto.get(f"/bulk/{bulk.id}").text
    assert "The first 200 payments" in plain(page)
    assert page.count('href="/dashboard/payments/') == 200
    with dashboard.world.engine.connect() as connection:
        assert len(connection.execute(select(bulk_items)).all()) == 205
    assert len(page) < 150_000
