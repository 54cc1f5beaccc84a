"""Findings and attempts with unknown outcome: lists with descriptions and next steps, resolving, look-ups."""

from typing import Any
from uuid import UUID

from sqlalchemy import select, text

from shared.db.billing_events import Cause
from shared.db.tables.operators import audit_log
from shared.db.tables.system import billing_events, findings
from shared.explain.descriptions import FINDING_DESCRIPTIONS
from shared.messaging.jobs import SettleAttempt
from shared.payments.receipts import Finding, resolve_finding_by_id, write_finding
from tests.cli.test_payment_commands import lose_answers
from tests.dashboard.conftest import Dashboard
from tests.world import World


def open_finding(world: World, kind: str = "amount_differs", subject: str = "ch_1", **details: Any) -> UUID:
    facts = {"booked_minor": 123456, "charged_minor": 2000, "currency": "USD", "charge_id": subject, **details}
    with world.engine.begin() as connection:
        write_finding(
            connection,
            Finding(kind, "global", subject, facts),
            Cause("worker", world.clock.now(), "reconciliation"),
        )
        return UUID(str(connection.scalar(select(findings.c.id).where(findings.c.subject == subject))))


def audit_entries(world: World) -> list[Any]:
    with world.engine.connect() as connection:
        return list(connection.execute(select(audit_log).order_by(audit_log.c.id)))


def test_page_without_findings_shows_a_message(dashboard: Dashboard) -> None:
    assert "No open findings" in dashboard.as_("viewer").get("/findings").text


def test_findings_are_grouped_by_kind_with_description_and_amount(dashboard: Dashboard) -> None:
    for subject in ("ch_1", "ch_2"):
        open_finding(dashboard.world, subject=subject)
    open_finding(dashboard.world, "charge_without_payment", "ch_3", name="<b>x</b>")
    viewer = dashboard.as_("viewer")
    page = viewer.get("/findings").text
    assert "amount differs (2)" in page
    assert "charge without payment (1)" in page
    assert "$1,234.56" in page
    assert "<b>x</b>" not in page
    assert FINDING_DESCRIPTIONS["amount_differs"].what_to_do.split(":")[0] in page.replace("&#39;", "'")
    assert "/resolve" not in page, "viewers may not resolve findings"


def test_resolved_finding_keeps_operator_and_reason(dashboard: Dashboard) -> None:
    finding = open_finding(dashboard.world)
    page = dashboard.as_("operator").post(f"/findings/{finding}/resolve", page="/findings", reason="paid back")
    assert "Finding amount_differs resolved." in page.text
    assert "operator:otto" in page.text
    assert "paid back" in page.text
    with dashboard.world.engine.connect() as connection:
        row = connection.execute(select(findings)).one()
        assert (row.resolved_by, row.resolution) == ("operator:otto", "paid back")
        assert (
            connection.scalar(select(billing_events.c.type).order_by(billing_events.c.id.desc()).limit(1))
            == "finding_resolved"
        )
    (line,) = audit_entries(dashboard.world)
    assert (line.action, line.subject, line.reason, line.outcome) == (
        "finding.resolve",
        str(finding),
        "paid back",
        "done",
    )


def test_second_resolver_sees_who_resolved_first(dashboard: Dashboard) -> None:
    world = dashboard.world
    finding = open_finding(world)
    otto = dashboard.as_("operator")
    otto.get("/findings")
    with world.engine.begin() as connection:
        assert resolve_finding_by_id(connection, finding, Cause("operator:anna", world.clock.now(), "billed it"))
    answer = otto.post(f"/findings/{finding}/resolve", reason="mine")
    assert "Already resolved by operator:anna: billed it" in answer.text
    (line,) = audit_entries(world)
    assert (line.outcome, line.result) == ("refused", {"resolved_already_by": "operator:anna"})
    with world.engine.connect() as connection:
        assert connection.scalar(select(findings.c.resolution)) == "billed it"


def test_resolved_findings_are_paged(dashboard: Dashboard) -> None:
    with dashboard.world.engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO findings"
                " (kind, coverage, subject, details, found_at, resolved_at, resolved_by, resolution)"
                " SELECT 'amount_differs', 'global', 'ch_' || lpad(n::text, 3, '0'), '{}', '2026-11-01',"
                " '2026-11-02', 'operator:anna', 'done' FROM generate_series(1, 60) n"
            )
        )
    viewer = dashboard.as_("viewer")
    first = viewer.get("/findings").text
    older = first.split('rel="next"')[0].rsplit('href="', 1)[1].split('"')[0].replace("&amp;", "&")
    second = viewer.get(older.removeprefix("/dashboard")).text
    parts = [{n for n in range(1, 61) if f">ch_{n:03}<" in page} for page in (first, second)]
    assert [len(part) for part in parts] == [50, 10]
    assert parts[0] | parts[1] == set(range(1, 61))


def test_an_unknown_finding_and_a_viewer_are_refused(dashboard: Dashboard) -> None:
    finding = open_finding(dashboard.world)
    otto = dashboard.as_("operator")
    otto.get("/findings")
    assert otto.send(f"/findings/{finding}/resolve", reason="x").status_code == 403, "without a token"
    assert dashboard.as_("viewer").send(f"/findings/{finding}/resolve", reason="x").status_code == 403
    assert audit_entries(dashboard.world) == []


# -- unknown attempts


def add_unknown_attempts(world: World, *external_ids: str) -> list[UUID]:
    """Add payments whose charge succeeded at the processor but whose answer was lost."""
    accounts = [world.account(external_id) for external_id in external_ids]
    for account in accounts:
        world.add_primary_card(account)
    owed = [world.add_due_payment(account) for account in accounts]
    lose_answers(world)
    for payment in owed:
        world.charge(payment)
        assert [attempt.state for attempt in world.attempts(payment)] == ["unknown"]
    world.enqueued.clear()
    return owed


def test_page_without_unknown_attempts_shows_a_message(dashboard: Dashboard) -> None:
    assert "No unknown attempts" in dashboard.as_("viewer").get("/unknown").text


def test_unknown_attempts_are_listed_and_looked_up_on_request(dashboard: Dashboard) -> None:
    world = dashboard.world
    (owed,) = add_unknown_attempts(world, "A-1")
    (attempt,) = world.attempts(owed)
    viewer = dashboard.as_("viewer").get("/unknown").text
    assert "A-1" in viewer
    assert "$5.00" in viewer
    assert "/unknown/look-up" not in viewer
    otto = dashboard.as_("operator")
    page = otto.post("/unknown/look-up", page="/unknown", what="chosen", payment=str(owed), reason="customer calls")
    assert "Look-up requested for 1 attempt." in page.text
    assert world.enqueued == [SettleAttempt(attempt.id)]
    world.settle(attempt.id)
    assert "No unknown attempts" in otto.get("/unknown").text
    assert (world.payment(owed).state, world.captured_amounts(owed)) == ("paid", [5_00])
    (line,) = audit_entries(world)
    assert (line.action, line.subject, line.reason) == ("payment.look_up", str(owed), "customer calls")
    assert "look_up_requested" in {told for told, _ in world.billing_events(owed)}


def test_all_listed_attempts_are_looked_up_and_a_settled_one_is_reported(dashboard: Dashboard) -> None:
    world = dashboard.world
    owed = add_unknown_attempts(world, "A-1", "A-2", "A-3")
    otto = dashboard.as_("operator")
    page = otto.get("/unknown").text
    shown = page.split('name="shown" value="')[1].split('"')[0]
    assert sorted(shown.split()) == sorted(map(str, owed))
    (known,) = world.attempts(owed[0])
    with world.engine.begin() as connection:
        connection.execute(text("UPDATE payment_attempts SET look_up_at = :at"), {"at": world.machine()})
    world.settle(known.id)
    world.enqueued.clear()
    answer = otto.post("/unknown/look-up", what="all", shown=shown, reason="the line is back")
    assert "Look-up requested for 2 attempts." in answer.text
    assert "1 not looked up: no attempt has an unknown outcome" in answer.text
    assert len(world.enqueued) == 2
    assert sorted(line.outcome for line in audit_entries(world)) == ["done", "done", "refused"]


def test_empty_selection_and_invalid_payment_id_are_refused(dashboard: Dashboard) -> None:
    add_unknown_attempts(dashboard.world, "A-1")
    otto = dashboard.as_("operator")
    otto.get("/unknown")
    assert otto.post("/unknown/look-up", what="chosen", reason="x").status_code == 400
    assert otto.post("/unknown/look-up", what="chosen", payment="'; DROP TABLE x", reason="x").status_code == 400
    assert otto.post("/unknown/look-up", what="all", shown="", reason="x").status_code == 400
    assert audit_entries(dashboard.world) == []
