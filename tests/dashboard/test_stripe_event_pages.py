"""Stripe events: search, reading the payload without storing it, applying again."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import insert, select, text, update

import shared.operations.stripe_events
from shared.db.tables.operators import audit_log
from shared.db.tables.system import billing_events, stripe_events
from shared.domain.calendar import UNTIL_RELEASED
from shared.domain.states import StripeEventState
from shared.messaging.jobs import ApplyStripeEvent
from shared.operations.stripe_events import Wanted, events_page
from tests.dashboard.conftest import Dashboard
from tests.web.conftest import web_settings
from tests.web.serving import running
from tests.world import World, api_key, make_gateways
from web.app import build_app
from web.dashboard.payload import masked
from workers.use_cases.apply_stripe_event import apply_stripe_event

START = datetime(2026, 11, 1, tzinfo=UTC)


def store(world: World, stripe_event_id: str, **columns: Any) -> str:
    """Store an event as the webhook does."""
    values = {
        "coverage": "global",
        "type": "payment_intent.succeeded",
        "stripe_object_id": "pi_1",
        "is_livemode": False,
        "stripe_created_at": START,
        "state": "received",
        **columns,
    }
    with world.engine.begin() as connection:
        connection.execute(insert(stripe_events).values(stripe_event_id=stripe_event_id, **values))
    return f"/stripe-events/{values['coverage']}/{stripe_event_id}"


def event_of(world: World, stripe_event_id: str) -> Any:
    with world.engine.connect() as connection:
        return connection.execute(
            select(stripe_events).where(stripe_events.c.stripe_event_id == stripe_event_id)
        ).one()


def latest_event_at_stripe(dashboard: Dashboard, event_type: str) -> dict[str, Any]:
    """The simulator's latest event of this type."""
    url = f"{dashboard.world.simulator.url}/v1/events?limit=1&type={event_type}"
    (found,) = httpx.get(url, auth=(api_key("global"), "")).json()["data"]
    return dict(found)


def audit_entries(dashboard: Dashboard) -> list[Any]:
    with dashboard.world.engine.connect() as connection:
        return list(connection.execute(select(audit_log).order_by(audit_log.c.id)))


def test_events_are_filtered_by_state_type_coverage_and_object(dashboard: Dashboard) -> None:
    world = dashboard.world
    store(world, "evt_a")
    store(
        world, "evt_b", coverage="japan", type="setup_intent.succeeded", stripe_object_id="seti_9", state="applied"
    )
    store(world, "evt_c", state="trouble", trouble="LookupError: no key", tries=20, try_again_at=UNTIL_RELEASED)
    store(world, "evt_d", state="ignored", stripe_object_id="pi_100%")
    viewer = dashboard.as_("viewer")

    def shown(**query: str) -> set[str]:
        page = viewer.get("/stripe-events", **query).text
        return {one for one in ("evt_a", "evt_b", "evt_c", "evt_d") if f">{one}<" in page}

    assert shown() == {"evt_a", "evt_b", "evt_c", "evt_d"}
    assert shown(state="trouble") == {"evt_c"}
    assert shown(state="received") == {"evt_a"}
    assert shown(state="applied") == {"evt_b"}
    assert shown(type="setup_intent.succeeded") == {"evt_b"}
    assert shown(coverage="japan") == {"evt_b"}
    assert shown(about="pi_1") == {"evt_a", "evt_c", "evt_d"}
    assert shown(about="pi_100%") == {"evt_d"}
    assert shown(about="%") == set()
    assert shown(about="evt_b") == {"evt_b"}
    assert shown(state="nonsense") == {"evt_a", "evt_b", "evt_c", "evt_d"}
    page = viewer.get("/stripe-events").text
    assert "needs manual retry" in page
    assert "LookupError: no key" in page


def test_paging_is_stable_for_events_of_the_same_instant(dashboard: Dashboard) -> None:
    world = dashboard.world
    for number in range(60):
        store(world, f"evt_{number:02}", created_at=START)
    viewer = dashboard.as_("viewer")
    first = viewer.get("/stripe-events").text
    older = first.split('rel="next"')[0].rsplit('href="', 1)[1].split('"')[0].replace("&amp;", "&")
    second = viewer.get(older.removeprefix("/dashboard")).text
    assert [sum(f">evt_{n:02}<" in page for n in range(60)) for page in (first, second)] == [50, 10]
    assert ">evt_59<" in first
    assert ">evt_00<" in second
    assert viewer.get("/stripe-events", older_than="nonsense").status_code == 200


def test_rare_event_is_searched_one_window_at_a_time(dashboard: Dashboard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared.operations.stripe_events, "WINDOW", 10)
    world = dashboard.world
    for number in range(25):
        store(world, f"evt_{number:02}", created_at=START + timedelta(seconds=number // 2))
    store(world, "evt_old", created_at=START - timedelta(days=1), stripe_object_id="pi_rare")
    older_than, pages = None, []
    with world.engine.connect() as connection:
        while True:
            page = events_page(connection, Wanted(about="pi_rare"), older_than, 50)
            pages.append([row.stripe_event_id for row in page.rows])
            older_than = page.older_than
            if older_than is None:
                break
    assert pages == [[], [], ["evt_old"]]
    assert "events searched" in dashboard.as_("viewer").get("/stripe-events", about="pi_rare").text


def test_no_page_scans_all_stripe_events(dashboard: Dashboard) -> None:
    """Checks query plans with sequential scans disabled, as they would be too slow over a million rows."""
    world = dashboard.world
    plans: list[str] = []
    with world.engine.connect() as connection:
        connection.execute(text("SET enable_seqscan = off"))
        for wanted in (
            Wanted(),
            Wanted(state="trouble"),
            Wanted(about="evt_1"),
            Wanted(type="x", coverage="global"),
        ):
            query = shared.operations.stripe_events._window(wanted, (START, "evt_1"))
            sql = str(query.compile(connection, compile_kwargs={"literal_binds": True}))
            plans.append("\n".join(connection.exec_driver_sql(f"EXPLAIN {sql}").scalars()))
    assert all("Seq Scan" not in plan for plan in plans), plans
    assert "ix_stripe_events_created" in plans[0]
    assert "ix_stripe_events_open" in plans[1]


def test_payload_is_fetched_on_request_masked_and_not_stored(dashboard: Dashboard) -> None:
    world = dashboard.world
    account = world.account("A-1")
    world.add_primary_card(account)
    there = latest_event_at_stripe(dashboard, "payment_method.attached")
    path = store(world, there["id"], type=there["type"], stripe_object_id=there["data"]["object"]["id"])
    otto = dashboard.as_("operator")
    answer = otto.post(f"{path}/read", page=path)
    assert answer.status_code == 200
    assert "payment_method.attached" in answer.text
    assert "&#34;fingerprint&#34;" in answer.text
    assert "not stored" in answer.text
    (line,) = audit_entries(dashboard)
    assert (line.action, line.subject) == ("stripe_event.read", f"global/{there['id']}")
    viewer = dashboard.as_("viewer")
    assert f"{path}/read" not in viewer.get(path).text
    assert viewer.send(f"{path}/read", token="any").status_code == 403


def test_names_addresses_and_secrets_are_masked_for_every_role() -> None:
    raw = {
        "id": "evt_1",
        "data": {
            "object": {
                "client_secret": "pi_1_secret_2",
                "billing_details": {"address": {"line1": "Weg 1", "city": None}, "email": "e@m.example"},
                "receipt_email": "e@m.example",
                "amount": 500,
                "shipping": {"name": "Erika"},
                "metadata": {"duecourse_payment_id": "123", "who": "Erika"},
                "note": "write to e@m.example",
            },
            "previous_attributes": {"name": "Erika", "phone": None},
        },
    }
    snapshot = masked(raw)
    assert "Erika" not in json.dumps(snapshot)
    assert "e@m" not in json.dumps(snapshot)
    assert "secret_2" not in json.dumps(snapshot)
    assert "Weg" not in json.dumps(snapshot)
    assert snapshot["data"]["object"]["amount"] == 500
    assert snapshot["data"]["object"]["metadata"]["duecourse_payment_id"] == "123"
    assert snapshot["data"]["previous_attributes"]["phone"] is None


def test_expired_event_and_unreachable_stripe_are_explained(dashboard: Dashboard, database_url: str) -> None:
    path = store(dashboard.world, "evt_gone")
    gone = dashboard.as_("operator").post(f"{path}/read", page=path)
    assert gone.status_code == 404
    assert "keeps events for 30 days" in gone.text
    runtime = dashboard.world.runtime
    cut_off = replace(runtime, gateways=make_gateways("http://127.0.0.1:1", ["global"]))
    url = dashboard.stack.enter_context(running(build_app(web_settings(database_url), cut_off)))
    away = replace(dashboard, url=url).as_("operator").post(f"{path}/read", page=path)
    assert away.status_code == 502
    assert "Stripe doesn’t respond" in away.text
    assert "Traceback" not in away.text


def test_page_shows_what_applying_the_event_did(dashboard: Dashboard) -> None:
    world = dashboard.world
    path = store(world, "evt_1")
    for number in range(20):
        store(world, f"evt_x{number}")
        apply_stripe_event(world.runtime, "global", f"evt_x{number}")
    apply_stripe_event(world.runtime, "global", "evt_1")
    assert event_of(world, "evt_1").state == StripeEventState.APPLIED
    page = dashboard.as_("viewer").get(path).text
    assert page.count("not ours: no payment has this PaymentIntent") == 1
    assert "by stripe" in page


def test_parked_event_is_applied_after_an_operator_releases_it(dashboard: Dashboard) -> None:
    world = dashboard.world
    path = store(world, "evt_1", type="payment_intent.succeeded", stripe_object_id="pi_of_another_system")
    parked = {"state": "trouble", "tries": 20, "try_again_at": UNTIL_RELEASED, "trouble": "LookupError: no key"}
    with world.engine.begin() as connection:
        connection.execute(update(stripe_events).values(**parked))
    apply_stripe_event(world.runtime, "global", "evt_1")
    assert event_of(world, "evt_1").state == "trouble", "workers skip a parked event"
    otto = dashboard.as_("operator")
    assert "automatic retries have stopped" in otto.get(path).text
    assert "A worker applies it now" in otto.post(f"{path}/apply", reason="the key is there").text
    assert world.enqueued == [ApplyStripeEvent("global", "evt_1")]
    event = event_of(world, "evt_1")
    assert (event.state, event.tries, event.try_again_at, event.trouble) == ("received", 0, None, None)
    apply_stripe_event(world.runtime, "global", "evt_1")
    assert event_of(world, "evt_1").state == "applied"
    page = otto.get(path).text
    assert page.index("stripe event apply requested") < page.index("stripe event applied")
    (line,) = audit_entries(dashboard)
    assert (line.action, line.reason, line.snapshot) == (
        "stripe_event.apply",
        "the key is there",
        {"state": "trouble", "tries": 20},
    )


def test_applying_a_card_registration_again_registers_nothing_twice(dashboard: Dashboard) -> None:
    world = dashboard.world
    account = world.account("A-1")
    world.register_card(account)
    there = latest_event_at_stripe(dashboard, "setup_intent.succeeded")
    path = store(world, there["id"], type=there["type"], stripe_object_id=there["data"]["object"]["id"])
    apply_stripe_event(world.runtime, "global", there["id"])
    otto = dashboard.as_("operator")
    for _ in range(2):
        otto.post(f"{path}/apply", page=path, reason="to be sure")
        apply_stripe_event(world.runtime, "global", there["id"])
    with world.engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM card_registrations")) == 1
        assert connection.scalar(text("SELECT card_revision FROM payment_settings")) == 1
        notes = connection.scalars(
            select(billing_events.c.reason)
            .where(billing_events.c.type == "stripe_event_applied")
            .order_by(billing_events.c.id)
        ).all()
    assert notes[1:] == ["known already: this SetupIntent has registered its card"] * 2


def test_ignored_event_cannot_be_applied_and_unknown_event_is_not_found(dashboard: Dashboard) -> None:
    path = store(dashboard.world, "evt_1", state="ignored", type="customer.created")
    otto = dashboard.as_("operator")
    page = otto.get(path).text
    assert "Events of this type are ignored" in page
    assert f"{path}/apply" not in page
    assert otto.get("/stripe-events/mars/evt_1").status_code == 404
    assert otto.get("/stripe-events/global/" + "9" * 500).status_code == 404
