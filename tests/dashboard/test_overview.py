"""The overview: its metrics against plain sums over two months of a small company, its caching, its queries."""

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
import redis
from sqlalchemy import Row, event, insert, select, update

from shared.db.tables.operators import queue_pauses
from shared.db.tables.payments import payment_attempts, payments
from shared.db.tables.system import runs
from shared.domain.states import UNPAID, PaymentKind, PaymentState, RunState
from shared.messaging.broker import NAMESPACE, make_broker
from shared.messaging.jobs import BATCH, RUNS, SETTLEMENT
from shared.scheduling.retry_preview import preview_retries
from simulator.issuer.stories import AlwaysDeclines, DeclinesThenPays, NeedsAuthentication, Story
from tests.dashboard.conftest import Dashboard
from tests.scheduler.test_sweep import add_attempt
from tests.seed import Account, add_account, add_payment, add_run
from tests.web.conftest import web_settings
from tests.web.serving import running
from tests.world import World
from web.app import build_app
from web.dashboard.queries.alerts import gather_alert_facts
from web.dashboard.queries.attempt_metrics import Attempts, gather_attempt_metrics
from web.dashboard.queries.money_metrics import MoneyMetrics, Sum, gather_money_metrics
from web.dashboard.queries.overview import gather_overview
from web.dashboard.queries.queue_metrics import gather_queue_metrics
from web.dashboard.queries.run_progress import gather_run_progress, time_left

OCTOBER, NOVEMBER = date(2026, 10, 1), date(2026, 11, 1)
P = PaymentState


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


NOW = at("2026-12-04T12:00:00")
SHORT = DeclinesThenPays(decline_code="insufficient_funds", times=1)


@pytest.fixture
def company(world: World) -> World:
    """Two months of invoices in two coverages: paid at once, after retries or never, and some never charged."""
    _month(world, OCTOBER, at("2026-11-01T09:30:00"), days=4)
    _month(world, NOVEMBER, at("2026-12-01T09:30:00"), days=3)
    with world.engine.begin() as connection:
        anna = add_account(connection, "besides")
        owed: dict[str, Any] = {"period": NOVEMBER, "due_on": date(2026, 12, 1)}
        add_payment(connection, anna, 0, state=P.PAID, paid_at=at("2026-12-01T00:00:00"), **owed)
        add_payment(connection, anna, 17, state=P.CARRIED_FORWARD, **owed)
        add_payment(connection, anna, 9_00, state=P.VOID, **owed)
        add_payment(connection, anna, 8_00, state=P.UNCOLLECTIBLE, first_declined_at=NOW, **owed)
        add_payment(connection, anna, 7_00, state=P.NEEDS_PAYMENT_METHOD, waiting_for_revision_after=0, **owed)
        add_payment(connection, anna, 6_00, state=P.AWAITING_TRANSFER, period=NOVEMBER, due_on=date(2027, 1, 1))
        add_payment(connection, anna, 5_00, period=NOVEMBER, due_on=date(2026, 12, 4), next_attempt_at=NOW)
        add_payment(connection, anna, 4_00, kind=PaymentKind.ORDER, next_attempt_at=NOW)
        won = add_payment(  # both instants fall on another day and month in Tokyo
            connection,
            add_account(connection, "besides", "japan"),
            900,
            state=P.PAID,
            first_declined_at=at("2026-11-30T16:00:00"),
            decline_count=1,
            paid_at=at("2026-12-01T14:00:00"),
            **owed,
        )
        japan = Account(anna.id, anna.settings_id, "besides", "japan")
        add_attempt(connection, japan, won, "succeeded", kind="cancel", finished_at=at("2026-12-01T14:00:00"))
    world.clock.set(NOW)
    return world


def _month(world: World, period: date, first: datetime, days: int) -> None:
    world.clock.set(first)
    stories: list[tuple[str, int, Story | None]] = [
        ("global", 10_00, None),
        ("global", 20_00, SHORT),
        ("global", 30_00, DeclinesThenPays(decline_code="card_velocity_exceeded", times=3)),
        ("global", 40_00, AlwaysDeclines(decline_code="lost_card")),
        ("japan", 5_000, None),
        ("japan", 6_000, SHORT),
        ("japan", 7_000, NeedsAuthentication()),
    ]
    owed = []
    for number, (coverage, amount, story) in enumerate(stories):
        account = world.account(f"{period}-{number}", coverage)
        world.add_primary_card(account, story=story)
        owed.append(world.add_due_payment(account, amount, period=period))
    for day in range(days):
        world.clock.set(first + timedelta(days=day))
        for payment_id in owed:
            row = world.payment(payment_id)
            if row.next_attempt_at is not None and row.next_attempt_at <= world.clock.now():
                world.charge(payment_id)


def all_payments(world: World) -> list[Row[Any]]:
    with world.engine.connect() as connection:
        return list(connection.execute(select(payments)))


def money(world: World) -> MoneyMetrics:
    with world.engine.connect() as connection:
        return gather_money_metrics(connection, world.policy, world.clock.now())


def test_money_of_a_month_equals_a_sum_over_its_payments(company: World) -> None:
    today = {"global": date(2026, 12, 4), "japan": date(2026, 12, 4)}
    rows = all_payments(company)

    def total(coverage: str, period: date, wanted: Callable[[Row[Any]], bool]) -> Sum:
        of = [r for r in rows if (r.coverage, r.period) == (coverage, period) and wanted(r)]
        return Sum(len(of), sum(row.amount_minor for row in of))

    found = money(company).months
    assert [(m.coverage, str(m.period), m.currency) for m in found] == [
        ("global", "2026-11", "USD"),
        ("global", "2026-10", "USD"),
        ("japan", "2026-11", "JPY"),
        ("japan", "2026-10", "JPY"),
    ]
    for month in found:
        of = (month.coverage, month.period.first_day)
        assert month.invoiced == total(*of, lambda r: r.state not in (P.VOID, P.CARRIED_FORWARD))
        assert month.collected == total(*of, lambda r: r.state == P.PAID)
        assert month.outstanding == total(*of, lambda r: r.state in UNPAID)
        assert month.written_off == total(*of, lambda r: r.state == P.UNCOLLECTIBLE)
        assert month.recovered == total(*of, lambda r: r.state == P.PAID and r.decline_count > 0)
        assert month.at_risk == total(
            *of,
            lambda r: r.state in UNPAID and (r.decline_count > 0 or r.due_on < today[r.coverage]),
        )
        assert month.invoiced == month.collected + month.outstanding + month.written_off
    assert found[0].recovered == Sum(1, 20_00), "the month has payments with and without declines"
    assert found[0].at_risk.payments == 3
    assert found[2].recovered == Sum(2, 6_900)


def test_recovery_curve_is_the_share_of_declined_money_recovered_by_each_day(company: World) -> None:
    rows = [r for r in all_payments(company) if r.first_declined_at is not None and r.state not in (P.VOID,)]
    for curve in money(company).curves:
        zone = company.policy.coverage(curve.coverage).zone
        own = [
            row
            for row in rows
            if row.coverage == curve.coverage
            and row.first_declined_at.astimezone(zone).date().replace(day=1) == curve.month.first_day
        ]
        declined = sum(row.amount_minor for row in own)
        assert curve.declined == Sum(len(own), declined)
        for day, share in enumerate(curve.shares):
            won = sum(
                row.amount_minor
                for row in own
                if row.state == P.PAID
                and (row.paid_at.astimezone(zone).date() - row.first_declined_at.astimezone(zone).date()).days
                <= day
            )
            assert share == won / declined
    present, before = money(company).curves[:2]
    assert (str(present.month), str(before.month)) == ("2026-12", "2026-11")
    assert len(present.shares) == 4, "day 5 is still in the future on December 4"
    assert before.shares[:4] == (0.0, 20_00 / 90_00, 20_00 / 90_00, 50_00 / 90_00)


def test_attempt_and_decline_counts_match_our_records(company: World) -> None:
    with company.engine.connect() as connection:
        found = gather_attempt_metrics(connection, company.policy, NOW)
        rows = list(connection.execute(select(payment_attempts)))
    since = at("2026-11-21T00:00:00")
    lately = [row for row in rows if row.finished_at >= since and row.kind == "charge"]
    by_day = Counter((row.finished_at.date(), row.state) for row in lately)
    assert [slot.begins_at for slot in found.days] == [since + timedelta(days=n) for n in range(14)]
    for slot in found.days:
        day = slot.begins_at.date()
        assert slot.attempts == Attempts(
            by_day[day, "succeeded"], by_day[day, "declined"], by_day[day, "authentication_needed"], 0
        )
    assert len(found.hours) == 24
    assert found.hours[-1].begins_at == NOW
    assert sum(slot.attempts.answered for slot in found.hours) == found.last_24_hours.answered == 0
    codes = Counter(row.decline_code for row in lately if row.state == "declined")
    assert {row.code: row.declines for row in found.declines} == codes
    assert set(codes) == {"insufficient_funds", "card_velocity_exceeded", "lost_card"}
    assert all("card" in row.description or "issuer" in row.description for row in found.declines)
    with company.engine.connect() as connection:
        earlier = gather_attempt_metrics(connection, company.policy, at("2026-12-01T10:10:00"))
    assert earlier.hours[-2].attempts.answered == 7, "in the hour from 09:00"


def test_queue_metrics_count_due_in_flight_and_completed_work(world: World) -> None:
    now = world.clock.now()
    with world.engine.begin() as connection:
        anna = add_account(connection, "anna")
        for minutes in (5, 60):
            bob = add_account(connection, f"bob-{minutes}")
            add_payment(connection, bob, 1, next_attempt_at=now - timedelta(minutes=minutes))
        add_payment(connection, anna, 1, next_attempt_at=now + timedelta(minutes=1))
        busy = add_payment(connection, anna, 1, next_attempt_at=now)
        add_attempt(connection, anna, busy, "started", lease_expires_at=world.machine() + timedelta(minutes=5))
        for seconds in (30, 200, 400):
            done = add_payment(connection, anna, 1, state=P.PAID, paid_at=now)
            add_attempt(connection, anna, done, "succeeded", finished_at=now - timedelta(seconds=seconds))
        unknown = add_payment(connection, anna, 1, next_attempt_at=now)
        add_attempt(connection, anna, unknown, "unknown", look_up_at=world.machine() + timedelta(minutes=1))
        add_run(connection, state=RunState.RUNNING)
        connection.execute(insert(queue_pauses).values(queue=RUNS, paused_by="otto", reason="why", paused_at=now))
        queues = {queue.queue: queue for queue in gather_queue_metrics(connection, now, world.machine())}
    batch = queues[BATCH]
    assert (batch.due, batch.later, batch.oldest, batch.in_flight) == (2, 1, timedelta(hours=1), 1)
    assert (queues[SETTLEMENT].later, queues[RUNS].later) == (1, None)
    assert (batch.last_minute, batch.last_5_minutes) == (1, 2)
    assert (queues[RUNS].in_flight, queues[RUNS].due, queues[RUNS].is_paused) == (1, 1, True)


def test_run_progress_shows_its_share_and_the_time_left_if_known(world: World) -> None:
    now = world.clock.now()
    with world.engine.begin() as connection:
        run_id = add_run(connection, state=RunState.RUNNING)
        connection.execute(
            update(runs)
            .where(runs.c.id == run_id)
            .values(
                started_at=now - timedelta(minutes=10),
                cursor={"after_account_id": "40000000-0000-4000-8000-000000000000"},
                counts={"accounts_seen": 100},
            )
        )
        mine, japan = gather_run_progress(connection, world.policy, now)
    assert mine.share == pytest.approx(0.25)
    assert mine.left == timedelta(minutes=30)
    assert japan.run is None
    assert time_left(0.25, timedelta(0)) is None, "a virtual clock stands still during a run"
    assert time_left(0.001, timedelta(minutes=1)) is None


def test_metrics_are_at_most_ten_seconds_old_by_the_machines_clock(dashboard: Dashboard) -> None:
    browser, world = dashboard.as_("viewer"), dashboard.world
    assert "$12.34" not in browser.get().text
    with world.engine.begin() as connection:
        add_payment(connection, add_account(connection, "anna"), 12_34, period=OCTOBER)
    world.machine.advance(seconds=9)
    assert "$12.34" not in browser.get().text
    world.machine.advance(seconds=1.5)
    assert "$12.34" in browser.get().text


def test_redis_messages_and_dead_letters_are_shown_or_a_dash_without_redis(
    world: World, database_url: str, redis_url: str
) -> None:
    broker = make_broker(redis_url)
    with ExitStack() as stack:
        app = build_app(web_settings(database_url), world.runtime, broker)
        dashboard = Dashboard(world, stack.enter_context(running(app)), stack)
        browser = dashboard.as_("viewer")
        broker.client.rpush(f"{NAMESPACE}:batch", *(str(n) for n in range(1_234)))
        broker.client.zadd(f"{NAMESPACE}:runs.XQ", {"a": 1, "b": 2})
        page = browser.get().text
        assert '<td class="number">1,234</td>' in page
        assert "Dead letters: 2 in runs." in page
        broker.client = redis.Redis(port=1)
        page = browser.get().text
        assert "Redis doesn&#39;t respond" in page
        assert '<td class="number">1,234</td>' not in page


def test_finding_kinds_and_decline_codes_are_escaped(company: World, database_url: str) -> None:
    with company.engine.begin() as connection:
        anna = add_account(connection, "anna")
        paid = add_payment(connection, anna, 1, state=P.PAID, paid_at=NOW)
        add_attempt(connection, anna, paid, "declined", decline_code="<script>alert(1)</script>", finished_at=NOW)
    with ExitStack() as stack:
        app = build_app(web_settings(database_url), company.runtime)
        dashboard = Dashboard(company, stack.enter_context(running(app)), stack)
        page = dashboard.as_("viewer").get()
    assert page.status_code == 200
    assert "<script>alert" not in page.text
    assert "unknown code" in page.text
    assert len(page.content) < 150_000
    assert "style=" not in page.text


BIG = ("payments", "payment_attempts", "invoices", "billing_events", "accounts", "findings", "payment_intents")


def test_no_metric_or_alert_scans_a_large_table(company: World) -> None:
    queries: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: Any) -> None:
        queries.append((statement, parameters))

    now, machine_now = NOW, company.machine()
    with company.engine.connect() as connection:
        connection.exec_driver_sql("SET LOCAL enable_seqscan = off")  # small tables would always be scanned
        event.listen(company.engine, "before_cursor_execute", note)
        gather_alert_facts(connection, now, machine_now)
        gather_overview(connection, company.policy, now, machine_now)
        preview_retries(connection, company.policy.coverage("global"), now, machine_now)
        event.remove(company.engine, "before_cursor_execute", note)
        plans = [
            "\n".join(line for (line,) in connection.exec_driver_sql(f"EXPLAIN {statement}", parameters))
            for statement, parameters in queries
            if statement.lstrip().startswith(("SELECT", "WITH", "\n")) and "set_config" not in statement
        ]
    assert len(plans) > 15
    for plan in plans:
        for table in BIG:
            assert f"Seq Scan on {table}" not in plan, plan
    assert any("Index Only Scan using ix_payments_period" in plan for plan in plans), "sums without the rows"
