"""Screenshots of every page, for review by eye: `GALLERY=/some/folder pytest tests/browser/gallery.py`."""

import os
from pathlib import Path
from uuid import UUID

import pytest
from dramatiq import Message
from sqlalchemy import select

from shared.bulk.actions import BulkAction
from shared.db.tables.payments import payments
from shared.db.tables.system import stripe_events
from shared.domain.states import PaymentState
from tests.browser.conftest import Office
from tests.bulk.company import Desk
from web.dashboard.request_context import ROOT

SIZES = {"wide": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}


ON_REQUEST = pytest.mark.skipif("GALLERY" not in os.environ, reason="set GALLERY to a folder")


@ON_REQUEST
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", list(SIZES))
def test_screenshots_of_every_page(office: Office, size: str, scheme: str) -> None:
    folder = Path(os.environ["GALLERY"])
    folder.mkdir(parents=True, exist_ok=True)
    page = office.sign_in("ada", "admin", viewport=SIZES[size], color_scheme=scheme)
    for name, path in page_paths(office).items():
        page.goto(f"{ROOT}{path}")
        page.screenshot(path=folder / f"{name}-{size}-{scheme}.png", full_page=True)


@ON_REQUEST
@pytest.mark.parametrize("size", list(SIZES))
def test_screenshots_of_an_empty_company(empty_office: Office, size: str) -> None:
    folder = Path(os.environ["GALLERY"])
    page = empty_office.sign_in("ada", "admin", viewport=SIZES[size])
    for path in ("", "/payments", "/accounts", "/bulk", "/runs", "/findings", "/unknown", "/stripe-events"):
        page.goto(f"{ROOT}{path}")
        page.screenshot(path=folder / f"empty-{path[1:] or 'overview'}-{size}.png", full_page=True)


def apply_bulk_actions(office: Office) -> UUID:
    """Hold all payments that await a retry, then release them; returns the second bulk action's ID."""
    desk = Desk(office.diary.world)
    waiting = select(payments.c.id).where(payments.c.state == PaymentState.RETRY_SCHEDULED)
    for action in (BulkAction.HOLD, BulkAction.RELEASE):
        bulk_id = desk.begin(action, ids=waiting)
        desk.apply(bulk_id)
    return bulk_id


def add_dead_letter(office: Office) -> str:
    """Add a dead letter to the queue `batch`; returns the path of its page."""
    message: Message[None] = Message("batch", "charge_payment", ("no id",), {}, {"redis_message_id": "letter-1"})
    client = office.broker.client
    client.hset("duecourse:batch.XQ.msgs", "letter-1", message.encode())
    client.zadd("duecourse:batch.XQ", {"letter-1": message.message_timestamp})
    return "/queues/batch/dead-letters"


def page_paths(office: Office) -> dict[str, str]:
    """One path of each kind of page, by screenshot name. Adds the bulk actions and the dead letter they show."""
    bulk_id, dead_letters = apply_bulk_actions(office), add_dead_letter(office)
    with office.diary.world.engine.connect() as connection:
        event = connection.scalars(select(stripe_events.c.stripe_event_id).limit(1)).one()
    declined = office.diary.payment(office.accounts[0], "2026-10")
    paid = office.diary.payment(office.accounts[2], "2026-10")
    run = office.diary.runs("monthly-invoices", "global")[0].id
    return {
        "overview": "",
        "runs": "/runs",
        "run": f"/runs/{run}",
        "rerun": "/runs/rerun?job=monthly-invoices&period=2026-10&coverage=global",
        "payments": "/payments",
        "payments-filtered": "/payments?state=retry_scheduled",
        "payment-declined": f"/payments/{declined}",
        "payment-paid": f"/payments/{paid}",
        "charge": f"/payments/{declined}/charge",
        "accounts": "/accounts",
        "account": f"/accounts/{office.accounts[0].id}",
        "search": "/search?q=A-0",
        "bulk": "/bulk",
        "bulk-new": "/bulk/new?action=charge&state=retry_scheduled",
        "bulk-action": f"/bulk/{bulk_id}",
        "queues": "/queues",
        "dead-letters": dead_letters,
        "dead-letters-all": f"{dead_letters}/all?deed=requeue",
        "stripe-events": "/stripe-events",
        "stripe-event": f"/stripe-events/global/{event}",
        "findings": "/findings",
        "unknown": "/unknown",
        "audit-log": "/audit-log",
        "users": "/users",
        "profile": "/profile",
    }
