"""A worker is killed during a bulk action: every payment is handled once, and the action continues."""

import html
import re
from contextlib import ExitStack

import httpx
import pytest
from sqlalchemy import text

from shared.bulk.progress import CHUNK
from shared.clock import machine_now
from shared.domain.roles import Role
from shared.operations.sessions import begin_session
from shared.operations.users import add_user
from tests.dashboard.conftest import Browser
from tests.processes.conftest import RunningCompany
from web.dashboard.auth import SESSION_COOKIE

pytestmark = pytest.mark.processes

REASON = "the outage is over"


def operator(company: RunningCompany, stack: ExitStack) -> Browser:
    """An operator at the dashboard of the running web process."""
    with company.engine.begin() as connection:
        user = add_user(connection, "anna", Role.OPERATOR, None, "test", machine_now())
        token = begin_session(connection, user.id, None, "test", machine_now())
    client = httpx.Client(base_url=company.stack.web_url, timeout=30, cookies={SESSION_COOKIE: token})
    return Browser(stack.enter_context(client), user)


def confirm_charge_of_all_that_is_due(anna: Browser) -> str:
    """See the preview, confirm it, and return the bulk action's id."""
    snapshot = anna.get("/bulk/new", action="charge", state="due").text
    form = snapshot.split('action="/dashboard/bulk/new"')[1].split("</form>")[0]
    fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', form))
    fields.pop("token")
    answer = anna.post("/bulk/new", reason=REASON, **{name: html.unescape(value) for name, value in fields.items()})
    assert answer.status_code == 200, answer.text
    return answer.url.path.rsplit("/", 1)[1]


def test_a_worker_is_killed_between_two_chunks_of_a_bulk_action(company: RunningCompany) -> None:
    names = company.good_customers
    assert CHUNK < len(names) < 2 * CHUNK, "the second chunk is the last"
    company.add_fees(names)
    company.duecourse("queues", "pause", "batch", "--reason", "the processor is away")
    log = company.data / "logs" / "worker-batch.log"
    company.wait_until(lambda: "queue_pauses.changed" in log.read_text(), "the workers honour the pause")
    with ExitStack() as stack:
        period = company.end_month()
        due = "SELECT count(*) FROM payments WHERE state = 'due'"
        company.wait_until(lambda: company.scalar(due) == len(names), "invoices issued, and nothing is charged")
        items = "SELECT state, count(*) AS n FROM bulk_items GROUP BY state"
        with company.engine.connect() as gate:
            # The last of them all is ours, so that the second chunk waits in the middle of its transaction.
            gate.execute(text("SELECT id FROM payments ORDER BY id DESC LIMIT 1 FOR NO KEY UPDATE"))
            anna = operator(company, stack)
            bulk_id = confirm_charge_of_all_that_is_due(anna)
            waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            company.wait_until(lambda: company.scalar(waits) > 0, "a chunk waits for a payment")
            half = {row.state: row.n for row in company.rows(items)}
            restarts = company.supervisor.restarts("worker-batch")
            company.kill("worker-batch")
            company.wait_until(lambda: company.supervisor.restarts("worker-batch") > restarts, "a new worker")
            gate.rollback()
        assert half == {"done": CHUNK, "waiting": len(names) - CHUNK}
        through = "SELECT count(*) FROM bulk_actions WHERE state = 'finished'"
        company.wait_until(lambda: company.scalar(through), "the bulk action is through")
        assert {row.state: row.n for row in company.rows(items)} == {"done": len(names)}
        moved = company.rows(
            "SELECT payment_id FROM billing_events WHERE type = 'payment_rescheduled' AND reason = :reason",
            reason=REASON,
        )
        assert len(moved) == len({row.payment_id for row in moved}) == len(names), "decided about once each"
        company.duecourse("queues", "resume", "batch", "--reason", "it is back")
        company.wait_for_no_pending_work()
        company.assert_each_paid_once(period, len(names))
        audit_log = company.rows("SELECT * FROM audit_log WHERE subject = :id ORDER BY id", id=bulk_id)
        assert [(line.action, line.actor, line.reason, line.outcome) for line in audit_log] == [
            ("bulk.start", "operator:anna", REASON, "started"),
            ("bulk.finish", "operator:anna", REASON, "finished"),
        ]
        assert audit_log[-1].result["done"] == len(names)
        assert f"{len(names)} of {len(names)}" in " ".join(anna.get(f"/bulk/{bulk_id}").text.split())
