"""The audit log page: search by actor, action, subject and day, CSV export; entries can't be changed."""

import csv
import io
import re
from datetime import timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from shared.operations.audit_log import AuditAction, AuditEntry, record_action
from tests.dashboard.conftest import Dashboard
from tests.seed import Account


@pytest.fixture
def account(dashboard: Dashboard) -> Account:
    return dashboard.world.account("A-1")


def add_entries(dashboard: Dashboard, count: int, actor: str = "operator:anna", days_ago: int = 0) -> None:
    """Add this many entries, each with its own subject."""
    at = dashboard.world.clock.now() - timedelta(days=days_ago)
    with dashboard.world.engine.begin() as connection:
        for number in range(count):
            subject = f"{actor}-{number}"
            action = AuditEntry(
                AuditAction.PAYMENT_CHARGE, actor, at, subject_kind="payment", subject=subject, reason="late"
            )
            record_action(connection, action)


def subjects(page: str) -> list[str]:
    return re.findall(r'href="/dashboard/payments/([^"]+)"', page)


def test_entry_shows_actor_action_reason_and_snapshot(dashboard: Dashboard, account: Account) -> None:
    payment = dashboard.world.add_due_payment(account, 5_00)
    otto, here = dashboard.as_("operator"), f"/payments/{payment}"
    otto.post(f"{here}/hold", here, until="2026-11-20", reason="disputed <b>")
    page = dashboard.as_("viewer").get("/audit-log").text
    for shown in ("operator:otto", "127.0.0.1", "payment.hold", str(payment), "disputed &lt;b&gt;", "2026-11-20"):
        assert shown in page, shown


def test_search_by_actor_action_subject_and_day(dashboard: Dashboard) -> None:
    add_entries(dashboard, 2)
    add_entries(dashboard, 1, "operator:bob", days_ago=3)
    viewer = dashboard.as_("viewer")
    bobs = ["operator:bob-0"]
    assert subjects(viewer.get("/audit-log", actor="operator:bob").text) == bobs
    assert subjects(viewer.get("/audit-log", subject="operator:bob-0").text) == bobs
    assert len(subjects(viewer.get("/audit-log", action="payment.charge").text)) == 3
    assert subjects(viewer.get("/audit-log", action="payment.void").text) == []
    today = dashboard.world.clock.now().date()
    assert subjects(viewer.get("/audit-log", until=str(today - timedelta(days=1))).text) == bobs
    assert len(subjects(viewer.get("/audit-log", since=str(today)).text)) == 2
    for nonsense in ("yesterday", "2026-02-30", "0000-01-01", "9999-12-31"):
        assert viewer.get("/audit-log", since=nonsense, until=nonsense).status_code == 200, nonsense


def test_paging_in_both_directions_shows_every_entry_once(dashboard: Dashboard) -> None:
    add_entries(dashboard, 120)
    viewer = dashboard.as_("viewer")

    def beside(page: str, way: str) -> str | None:
        found = re.search(rf'href="/dashboard/audit-log\?([^"]*)"[^>]*>[^<]*{way}', page)
        return found[1].replace("&amp;", "&") if found else None

    listed, page = [], viewer.get("/audit-log").text
    pages = [subjects(page)]
    while (older := beside(page, "Older")) is not None:
        page = viewer.get(f"/audit-log?{older}").text
        pages.append(subjects(page))
    listed = [subject for one in pages for subject in one]
    assert [len(one) for one in pages] == [50, 50, 20]
    assert listed == [f"operator:anna-{number}" for number in reversed(range(120))]
    newer = beside(page, "Newer")
    assert newer is not None
    assert subjects(viewer.get(f"/audit-log?{newer}").text) == pages[1]


def test_csv_has_the_same_entries_and_no_formula(dashboard: Dashboard) -> None:
    add_entries(dashboard, 1, "=cmd()")
    add_entries(dashboard, 60)
    otto = dashboard.as_("operator")
    answer = otto.get("/audit-log.csv", actor="operator:anna")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [row["subject"] for row in rows] == [f"operator:anna-{number}" for number in range(60)]
    assert rows[0]["action"] == "payment.charge"
    everything = otto.get("/audit-log.csv").text
    assert "cmd()" in everything
    assert not any(cell.startswith("=") for row in csv.reader(io.StringIO(everything)) for cell in row)
    assert "/audit-log.csv" in otto.get("/audit-log").text
    viewer = dashboard.as_("viewer")
    assert "/audit-log.csv" not in viewer.get("/audit-log").text
    assert viewer.get("/audit-log.csv").status_code == 403


@pytest.mark.parametrize("sql", ["UPDATE audit_log SET actor = 'x'", "DELETE FROM audit_log", "TRUNCATE audit_log"])
def test_database_rejects_changes_to_the_audit_log(dashboard: Dashboard, sql: str) -> None:
    add_entries(dashboard, 1)
    with (
        pytest.raises(DBAPIError, match="audit_log rows are never changed or deleted"),
        dashboard.world.engine.begin() as connection,
    ):
        connection.execute(text(sql))
    assert len(subjects(dashboard.as_("viewer").get("/audit-log").text)) == 1


def test_empty_audit_log_shows_a_message(dashboard: Dashboard) -> None:
    assert "No audit log entries" in dashboard.as_("viewer").get("/audit-log", actor="operator:nobody").text
