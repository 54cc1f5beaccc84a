"""Pictures of every page, for people to look at: `GALLERY=/some/folder pytest tests/browser/gallery.py`."""

import os
from pathlib import Path

import pytest

from tests.browser.conftest import Office
from web.dashboard.visit import ROOT

SIZES = {"wide": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}


FOR_PEOPLE = pytest.mark.skipif("GALLERY" not in os.environ, reason="for people: set GALLERY to a folder")


@FOR_PEOPLE
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", list(SIZES))
def test_pictures(office: Office, size: str, scheme: str) -> None:
    folder = Path(os.environ["GALLERY"])
    folder.mkdir(parents=True, exist_ok=True)
    page = office.sit_down("ada", "admin", viewport=SIZES[size], color_scheme=scheme)
    for name, path in places(office).items():
        page.goto(f"{ROOT}{path}")
        page.screenshot(path=folder / f"{name}-{size}-{scheme}.png", full_page=True)


@FOR_PEOPLE
@pytest.mark.parametrize("size", list(SIZES))
def test_pictures_of_a_company_without_anybody(empty_office: Office, size: str) -> None:
    folder = Path(os.environ["GALLERY"])
    page = empty_office.sit_down("ada", "admin", viewport=SIZES[size])
    for path in ("", "/payments", "/accounts", "/bulk", "/runs", "/findings", "/unknown", "/stripe-events"):
        page.goto(f"{ROOT}{path}")
        page.screenshot(path=folder / f"empty-{path[1:] or 'overview'}-{size}.png", full_page=True)


def places(office: Office) -> dict[str, str]:
    """A page of each kind, by a name for its picture."""
    declined = office.diary.payment(office.accounts[0], "2026-10")
    paid = office.diary.payment(office.accounts[2], "2026-10")
    run = office.diary.runs("monthly-invoices", "global")[0].id
    return {
        "overview": "",
        "runs": "/runs",
        "run": f"/runs/{run}",
        "run-again": "/runs/again?job=monthly-invoices&period=2026-10&coverage=global",
        "payments": "/payments",
        "payments-filtered": "/payments?state=retry_scheduled",
        "payment-declined": f"/payments/{declined}",
        "payment-paid": f"/payments/{paid}",
        "charge": f"/payments/{declined}/charge",
        "accounts": "/accounts",
        "account": f"/accounts/{office.accounts[0].id}",
        "find": "/find?q=A-0",
        "bulk": "/bulk",
        "bulk-new": "/bulk/new?action=charge&state=retry_scheduled",
        "queues": "/queues",
        "stripe-events": "/stripe-events",
        "findings": "/findings",
        "unknown": "/unknown",
        "audit": "/audit",
        "people": "/people",
        "you": "/you",
    }
