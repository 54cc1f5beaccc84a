"""Queues: depth, workers, pauses, and dead letters that two operators handle at once."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any
from uuid import uuid4

import pytest
from dramatiq.brokers.redis import RedisBroker
from sqlalchemy import select

from shared.db.billing_events import Cause
from shared.db.tables.operators import audit_log, queue_pauses
from shared.db.tables.system import billing_events
from shared.domain.states import Lane
from shared.messaging.broker import NAMESPACE, enqueue, make_broker, waiting_messages
from shared.messaging.dead_letters import list_dead_letters, requeue_dead_letters
from shared.messaging.jobs import BATCH, SETTLEMENT, ChargePayment, SettleAttempt
from shared.messaging.queue_pauses import pause_queue
from shared.operations.heartbeats import WORKER, Heartbeats
from tests.broker.conftest import dead_letters
from tests.dashboard.conftest import Dashboard
from tests.web.conftest import web_settings
from tests.web.serving import running
from tests.world import World
from web.app import build_app

DEAD_LETTERS = "/queues/batch/dead-letters"


@pytest.fixture
def broker(redis_url: str) -> RedisBroker:
    return make_broker(redis_url)


@pytest.fixture
def client(broker: RedisBroker) -> Any:
    return broker.client


@pytest.fixture
def open_with(world: World, database_url: str) -> Iterator[Callable[[RedisBroker | None], Dashboard]]:
    with ExitStack() as stack:

        def open_(broker: RedisBroker | None) -> Dashboard:
            app = build_app(web_settings(database_url), world.runtime, broker)
            return Dashboard(world, stack.enter_context(running(app)), stack)

        yield open_


@pytest.fixture
def dashboard(open_with: Callable[[RedisBroker | None], Dashboard], broker: RedisBroker) -> Dashboard:
    return open_with(broker)


def add_dead_letters(broker: RedisBroker, count: int, queue: str = BATCH) -> list[str]:
    """Add dead letters; returns their IDs, oldest first."""
    consumer = broker.consume(queue, prefetch=count, timeout=1)
    job: Any = ChargePayment(uuid4(), Lane.BATCH) if queue == BATCH else SettleAttempt(uuid4())
    enqueue(broker, [job] * count)
    ids = []
    for _ in range(count):
        message = next(consumer)
        assert message is not None
        ids.append(message.options["redis_message_id"])
        consumer.nack(message)
    return ids


def audit_entries(dashboard: Dashboard) -> list[Any]:
    with dashboard.world.engine.connect() as connection:
        return list(
            connection.execute(select(audit_log).where(audit_log.c.actor != "test").order_by(audit_log.c.id))
        )


def test_page_shows_each_queue_with_messages_rows_and_processes(
    dashboard: Dashboard, broker: RedisBroker, world: World
) -> None:
    account = world.account("A-1")
    world.add_primary_card(account)
    world.add_due_payment(account)
    enqueue(broker, [ChargePayment(uuid4(), Lane.BATCH)] * 7)
    broker.do_fetch(BATCH, 3)
    add_dead_letters(broker, 2, SETTLEMENT)
    heartbeats_sender = Heartbeats(
        lambda: world.engine, WORKER, {"queues": ["batch", "runs"], "threads": 8}, world.machine
    )
    heartbeats_sender.send()
    page = dashboard.as_("viewer").get("/queues").text
    cells = [" ".join(cell.split()) for cell in page.split('<td class="number">')]
    row = next(n for n, cell in enumerate(cells) if "<strong>batch</strong>" in cell)
    assert [cell.split("<")[0] for cell in cells[row + 1 : row + 6]] == ["1", "0 s", "0", "4", "3"]
    assert 'aria-label="2 dead letters of settlement">2<' in page
    assert "batch, runs" in page
    assert "8 threads" in page
    assert "<form method" not in page.split("<main")[1], "viewers get no forms"


def test_page_without_redis_explains_the_consequence(
    open_with: Callable[[RedisBroker | None], Dashboard],
) -> None:
    dashboard = open_with(make_broker("redis://127.0.0.1:1/0"))
    page = dashboard.as_("viewer").get("/queues")
    assert page.status_code == 200
    assert "Redis doesn’t respond" in page.text
    assert "Nothing is lost: rows are due in the database" in page.text
    dead_letters = dashboard.as_("viewer").get(DEAD_LETTERS)
    assert dead_letters.status_code == 503
    assert "Nothing is lost" in dead_letters.text
    assert open_with(None).as_("viewer").get("/queues").status_code == 200


def test_fragment_refreshes_itself(dashboard: Dashboard) -> None:
    viewer = dashboard.as_("viewer")
    viewer.client.headers["HX-Request"] = "true"
    part = viewer.get("/queues").text
    assert part.lstrip().startswith('<div id="now" hx-get="/dashboard/queues"')
    assert "<html" not in part


def test_queue_pause_and_resume_are_recorded_in_audit_log_and_billing_events(dashboard: Dashboard) -> None:
    otto = dashboard.as_("operator")
    page = otto.post("/queues/batch/pause", page="/queues", reason="issuer <is> away")
    assert "Paused by operator:otto" in page.text
    assert "issuer &lt;is&gt; away" in page.text
    with dashboard.world.engine.connect() as connection:
        assert connection.scalars(select(queue_pauses.c.queue)).all() == [BATCH]
    assert "resumes within 3 s" in otto.post("/queues/batch/resume", page="/queues", reason="it is back").text
    with dashboard.world.engine.connect() as connection:
        assert connection.scalars(select(queue_pauses.c.queue)).all() == []
        recorded = connection.execute(
            select(billing_events.c.type, billing_events.c.actor, billing_events.c.reason).order_by(
                billing_events.c.id
            )
        )
        assert [tuple(row) for row in recorded] == [
            ("lane_paused", "operator:otto", "issuer <is> away"),
            ("lane_resumed", "operator:otto", "it is back"),
        ]
    assert [(line.action, line.subject, line.reason, line.outcome) for line in audit_entries(dashboard)] == [
        ("lane.pause", BATCH, "issuer <is> away", "done"),
        ("lane.resume", BATCH, "it is back", "done"),
    ]


def test_second_operator_sees_who_paused_the_queue(dashboard: Dashboard) -> None:
    otto = dashboard.as_("operator")
    otto.get("/queues")
    with dashboard.world.engine.begin() as connection:
        pause_queue(connection, BATCH, Cause("operator:anna", dashboard.world.clock.now(), "mine"))
    answer = otto.post("/queues/batch/pause", reason="me too")
    assert "batch is already paused by operator:anna: mine" in answer.text
    assert [line.outcome for line in audit_entries(dashboard)] == ["refused"]


def test_unknown_queue_and_missing_reason_are_refused(dashboard: Dashboard) -> None:
    otto = dashboard.as_("operator")
    assert otto.get("/queues/mail/dead-letters").status_code == 404
    assert otto.post("/queues/batch/pause", page="/queues", reason=" ").status_code == 400
    assert audit_entries(dashboard) == []


def test_viewer_sees_dead_letters_and_may_change_none(dashboard: Dashboard, broker: RedisBroker) -> None:
    (dead_letter,) = add_dead_letters(broker, 1)
    viewer = dashboard.as_("viewer")
    assert dead_letter in viewer.get(DEAD_LETTERS).text
    assert viewer.send(DEAD_LETTERS, what="requeue", letter=dead_letter, reason="please").status_code == 403
    assert viewer.send("/queues/batch/pause", reason="please").status_code == 403
    assert viewer.get(f"{DEAD_LETTERS}/all").status_code == 403
    assert len(list_dead_letters(broker, BATCH)[0]) == 1


def test_dead_letters_are_listed_newest_first_fifty_a_page_and_by_job(
    dashboard: Dashboard, broker: RedisBroker, client: Any
) -> None:
    died = add_dead_letters(broker, 53)
    for number, one in enumerate(died):
        client.zadd(f"{NAMESPACE}:{BATCH}.XQ", {one: 1_800_000_000_000 + number // 3})
    viewer = dashboard.as_("viewer")
    first = viewer.get(DEAD_LETTERS).text
    assert first.count("charge_payment<") == 50
    older = first.split('rel="next"')[0].rsplit('href="', 1)[1].split('"')[0].replace("&amp;", "&")
    second = viewer.get(older.removeprefix("/dashboard")).text
    shown = [one for one in died if one in first], [one for one in died if one in second]
    assert [len(part) for part in shown] == [50, 3]
    assert sorted(shown[0] + shown[1]) == sorted(died), "each is on exactly one page"
    assert "No dead letters of settle_attempt" in viewer.get(DEAD_LETTERS, job="settle_attempt").text


def test_requeued_dead_letter_gets_a_new_id_and_leaves_the_list(
    dashboard: Dashboard, broker: RedisBroker, client: Any
) -> None:
    (dead_letter,) = add_dead_letters(broker, 1)
    body = json.loads(dead_letters(client, BATCH)[dead_letter])
    client.hset(
        f"{NAMESPACE}:{BATCH}.XQ.msgs", dead_letter, json.dumps({**body, "options": {"traceback": "x" * 7_000}})
    )
    page = dashboard.as_("operator").post(
        DEAD_LETTERS, page=DEAD_LETTERS, what="requeue", letter=dead_letter, reason="fixed"
    )
    assert "1 dead letter requeued." in page.text
    assert dead_letters(client, BATCH) == {}
    (waiting,) = (one.decode() for one in client.lrange(f"{NAMESPACE}:{BATCH}", 0, -1))
    assert waiting != dead_letter
    fresh = json.loads(client.hget(f"{NAMESPACE}:{BATCH}.msgs", waiting))
    assert fresh == {**body, "options": {"redis_message_id": waiting}}
    assert broker.do_fetch(BATCH, 1) != []
    assert [(line.action, line.outcome, line.result) for line in audit_entries(dashboard)] == [
        ("dead_letter.requeue", "started", {"count": 1, "ids": [dead_letter]}),
        ("dead_letter.requeue", "finished", {"count": 1, "ids": [dead_letter]}),
    ]


def test_of_two_requeues_of_a_dead_letter_one_succeeds_and_the_other_is_reported(
    dashboard: Dashboard, broker: RedisBroker
) -> None:
    dead_letters = add_dead_letters(broker, 1)
    anna, otto = dashboard.as_("operator", "anna"), dashboard.as_("operator")
    anna.get(DEAD_LETTERS)
    otto.get(DEAD_LETTERS)
    assert (
        "1 dead letter requeued"
        in anna.post(DEAD_LETTERS, what="requeue", letter=dead_letters[0], reason="fixed").text
    )
    assert (
        "another user resolved them"
        in otto.post(DEAD_LETTERS, what="requeue", letter=dead_letters[0], reason="too").text
    )
    assert waiting_messages(broker, BATCH) == 1
    assert [
        (line.actor, line.result["count"]) for line in audit_entries(dashboard) if line.outcome == "finished"
    ] == [
        ("operator:anna", 1),
        ("operator:otto", 0),
    ]


def test_concurrent_requeues_of_a_dead_letter_enqueue_it_once(broker: RedisBroker, client: Any) -> None:
    add_dead_letters(broker, 3)
    found, _ = list_dead_letters(broker, BATCH)
    assert [len(requeue_dead_letters(broker, BATCH, found)) for _ in range(2)] == [3, 0]
    assert waiting_messages(broker, BATCH) == 3
    assert client.hlen(f"{NAMESPACE}:{BATCH}.msgs") == 3


def test_discarding_a_filter_leaves_dead_letters_newer_than_the_preview(
    dashboard: Dashboard, broker: RedisBroker, client: Any
) -> None:
    died = add_dead_letters(broker, 120)
    client.zadd(f"{NAMESPACE}:{BATCH}.XQ", dict.fromkeys(died, 1_800_000_000_000))
    otto = dashboard.as_("operator")
    page = otto.get(f"{DEAD_LETTERS}/all", job="charge_payment").text
    assert "This applies to <strong>120</strong> dead letters" in page
    up_to = page.split('name="up_to" value="')[1].split('"')[0]
    (later,) = add_dead_letters(broker, 1)
    client.zadd(f"{NAMESPACE}:{BATCH}.XQ", {later: 1_800_000_000_001})
    answer = otto.post(
        DEAD_LETTERS, what="discard", job="charge_payment", up_to=up_to, count="120", reason="a bad release"
    )
    assert "120 dead letters discarded." in answer.text
    assert list(dead_letters(client, BATCH)) == [later]
    line = audit_entries(dashboard)[-1]
    assert (line.result["count"], len(line.result["ids"])) == (120, 100)
    assert audit_entries(dashboard)[0].snapshot["filter"] == "charge_payment"


def test_unreadable_dead_letter_is_shown_and_can_only_be_discarded(
    dashboard: Dashboard, broker: RedisBroker, client: Any
) -> None:
    for name, body in (("one", b"\xff\xfe"), ("two", b'["<script>"]'), ("three", b'{"args": [{}], "options": 5}')):
        client.zadd(f"{NAMESPACE}:{BATCH}.XQ", {name: 1})
        client.hset(f"{NAMESPACE}:{BATCH}.XQ.msgs", name, body)
    otto = dashboard.as_("operator")
    assert otto.get(DEAD_LETTERS).text.count("unreadable</span>") == 3
    assert "No dead letters requeued" in otto.post(DEAD_LETTERS, what="requeue", letter="one", reason="try").text
    assert len(list_dead_letters(broker, BATCH)[0]) == 3
    assert "1 dead letter discarded" in otto.post(DEAD_LETTERS, what="discard", letter="one", reason="junk").text
    assert sorted(dead_letters(client, BATCH)) == ["three", "two"]


def test_tracebacks_are_escaped(dashboard: Dashboard, broker: RedisBroker, client: Any) -> None:
    (dead_letter,) = add_dead_letters(broker, 1)
    body = json.loads(dead_letters(client, BATCH)[dead_letter])
    spoiled = {**body, "args": ["<img src=x>"], "options": {"traceback": "<script>alert(1)</script>"}}
    client.hset(f"{NAMESPACE}:{BATCH}.XQ.msgs", dead_letter, json.dumps(spoiled))
    page = dashboard.as_("viewer").get(DEAD_LETTERS).text
    assert "<script>alert" not in page
    assert "<img src=x>" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_empty_selection_and_unknown_action_are_refused(dashboard: Dashboard, broker: RedisBroker) -> None:
    add_dead_letters(broker, 1)
    otto = dashboard.as_("operator")
    otto.get(DEAD_LETTERS)
    assert otto.post(DEAD_LETTERS, what="requeue", reason="why").status_code == 400
    assert otto.post(DEAD_LETTERS, what="eat", letter="x", reason="why").status_code == 400
    assert audit_entries(dashboard) == []
