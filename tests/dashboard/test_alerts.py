"""Alerts on the overview: each problem with its next step, never cached, gone once its cause is fixed."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import insert, update

from shared.db.billing_events import BillingEvent, record_event
from shared.db.tables.operators import heartbeats, queue_pauses
from shared.db.tables.system import findings, runs, stripe_events
from shared.domain.calendar import UNTIL_RELEASED
from shared.domain.states import RunState
from shared.operations.heartbeats import WORKER
from shared.scheduling.leader_lock import LEADER_LOCK
from tests.dashboard.conftest import Dashboard
from tests.scheduler.test_sweep import add_attempt
from tests.seed import Account, add_account, add_payment, add_run
from tests.world import World


def test_alerts_are_never_cached(dashboard: Dashboard) -> None:
    browser, world = dashboard.as_("viewer"), dashboard.world
    assert "Queue night is paused" not in browser.get().text
    with world.engine.begin() as connection:
        connection.execute(
            insert(queue_pauses).values(
                queue="night", paused_by="otto", reason="repairs", paused_at=world.clock.now()
            )
        )
    assert "Queue night is paused by otto: repairs." in browser.get().text


@pytest.fixture
def leader(world: World) -> Iterator[None]:
    """A leading scheduler: a connection holds the leader lock."""
    with world.engine.connect() as connection:
        connection.exec_driver_sql(f"SELECT pg_advisory_lock({LEADER_LOCK})")
        yield


def add_heartbeat(world: World, kind: str = WORKER, ago_s: float = 3) -> None:
    now = world.machine()
    with world.engine.begin() as connection:
        connection.execute(
            insert(heartbeats).values(
                process=f"{kind}-1",
                kind=kind,
                data={"host": "here", "pid": 1, "queues": ["batch"], "threads": 8, "release": "1"},
                started_at=now - timedelta(hours=1),
                seen_at=now - timedelta(seconds=ago_s),
            )
        )


def test_healthy_system_shows_no_alerts(dashboard: Dashboard, leader: None) -> None:
    add_heartbeat(dashboard.world)
    page = dashboard.as_("viewer").get().text
    assert "No alerts" in page
    assert 'class="alert"' not in page


@pytest.mark.parametrize("fragment", [False, True])
def test_each_problem_is_an_alert_with_its_next_step(dashboard: Dashboard, fragment: bool) -> None:
    world, now = dashboard.world, dashboard.world.clock.now()
    add_heartbeat(world, ago_s=31)
    with world.engine.begin() as connection:
        anna = add_account(connection, "anna")
        _add_problems(connection, world, anna, now)
        late = add_run(connection, "2026-09", state=RunState.AWAITING_CONFIRMATION)
        stuck = add_run(connection, "2026-10", state=RunState.RUNNING)
        connection.execute(update(runs).where(runs.c.id == stuck).values(trouble="Stripe doesn't answer"))
    browser = dashboard.as_("viewer")
    if fragment:
        browser.client.headers["HX-Request"] = "true"
    page = browser.get().text
    assert ("<h1>" in page) is not fragment
    for words in (
        "No leading scheduler",
        "No worker heartbeat in the last 30 seconds",
        "1 attempt with unknown outcome for more than 15 minutes",
        "1 payment due for more than 15 minutes",
        "monthly-invoices 2026-09 global is late and awaits confirmation",
        "monthly-invoices 2026-10 global is stalled: Stripe doesn&#39;t answer",
        "1 open finding: amount differs",
        "2 Stripe events could not be applied (oldest: 16 min); 1 of them is not retried any more",
        "1 Stripe event received more than 15 minutes ago and not applied",
        "2 processor errors in the last 24 hours: api_key_expired",
        "1 outcome not recorded in the last 24 hours: KeyError",
    ):
        assert words in page, words
    assert f"/dashboard/runs/{late}" in page
    assert page.count('class="alert"') == 11


def _add_problems(connection: Any, world: World, anna: Account, now: datetime) -> None:
    long_ago = world.machine() - timedelta(minutes=16)
    unknown = add_payment(connection, anna, 1, next_attempt_at=now)
    add_attempt(connection, anna, unknown, "unknown", look_up_at=long_ago, created_at=long_ago)
    fresh = add_payment(connection, anna, 1, next_attempt_at=now)
    add_attempt(connection, anna, fresh, "unknown", look_up_at=long_ago)
    bob = add_account(connection, "bob")
    due = add_payment(connection, bob, 1, next_attempt_at=now - timedelta(minutes=16))
    add_payment(connection, anna, 1, next_attempt_at=now - timedelta(days=1), held_until=now + timedelta(days=1))
    add_payment(connection, anna, 1, next_attempt_at=now - timedelta(minutes=14))
    connection.execute(
        insert(findings).values(
            [
                {"kind": "amount_differs", "coverage": "global", "subject": "ch_1", "details": {}, "found_at": now},
                {"kind": "amount_differs", "coverage": "japan", "subject": "ch_2", "details": {}, "found_at": now},
            ]
        )
    )
    connection.execute(
        update(findings)
        .where(findings.c.subject == "ch_2")
        .values(resolved_at=now, resolved_by="otto", resolution="seen")
    )
    _add_stripe_events(connection, world)
    for hours in (1, 23, 25):
        when = now - timedelta(hours=hours)
        record_event(
            connection,
            BillingEvent("attention_needed", when, "worker", reason="api_key_expired", payment_id=due),
        )
    record_event(
        connection,
        BillingEvent(
            "attention_needed", now, "worker", reason="KeyError", payment_id=due, data={"record_error": "KeyError"}
        ),
    )


def _add_stripe_events(connection: Any, world: World) -> None:
    """One is retried, one waits for an operator, one was received long ago; the others are no problem."""
    long_ago, now = world.machine() - timedelta(minutes=16), world.machine()
    rows: list[tuple[str, datetime, datetime | None]] = [
        ("trouble", now, now),
        ("trouble", long_ago, UNTIL_RELEASED),
        ("received", long_ago, now),
        ("received", now - timedelta(minutes=14), None),
        ("applied", long_ago, None),
        ("ignored", long_ago, None),
    ]
    connection.execute(
        insert(stripe_events),
        [
            {
                "coverage": "global",
                "stripe_event_id": f"evt_{number}",
                "type": "payment_intent.succeeded",
                "is_livemode": False,
                "stripe_created_at": created_at,
                "state": state,
                "try_again_at": try_again_at,
                "created_at": created_at,
            }
            for number, (state, created_at, try_again_at) in enumerate(rows)
        ],
    )
