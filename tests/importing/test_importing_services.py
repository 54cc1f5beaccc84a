"""Services change freely until they are invoiced; then only what no issued line was computed from."""

from datetime import date

import pytest
from sqlalchemy import select, text

from shared.db.tables.invoices import services
from tests.importing.desk import Desk, add_invoice, wait_until_something_waits

HEADER = "id,account,coverage,description,price,pricing,starts_on,ends_on,protected\n"
LINE = HEADER + "S-1,A-1,global,Line rental,10.00,monthly,2026-09-10,,yes\n"


def test_importing_services_twice_changes_nothing(stocked: Desk) -> None:
    assert stocked.services(LINE).code == 0
    row = stocked.service("S-1")
    assert (row.price_minor, row.pricing, row.currency, row.is_protected) == (1000, "monthly", "USD", True)
    assert (row.starts_on, row.ends_on) == (date(2026, 9, 10), None)
    before = stocked.everything()
    assert "unchanged 1" in stocked.services(LINE).text
    assert stocked.everything() == before


def test_a_service_that_is_not_invoiced_yet_may_change_in_everything(stocked: Desk) -> None:
    stocked.services(LINE)
    told = stocked.services(HEADER + "S-1,A-2,global,Other,0.40,daily,2026-10-01,2026-12-31,no\n")
    assert (told.code, "changed 1" in told.text) == (0, True)
    row = stocked.service("S-1")
    assert (row.price_minor, row.pricing, row.ends_on, row.is_protected) == (40, "daily", date(2026, 12, 31), False)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (
            "S-1,A-1,global,Line rental,12.00,monthly,2026-09-10,,yes",
            (
                "line 2, price: '12.00' differs from what invoice G-2026-000002 was computed from; "
                "end this service and give the new price a new id"
            ),
        ),
        (
            "S-1,A-1,global,Line rental,10.00,daily,2026-09-10,,yes",
            (
                "line 2, pricing: 'daily' differs from what invoice G-2026-000002 was computed from; "
                "end this service and give the new pricing a new id"
            ),
        ),
        (
            "S-1,A-1,global,Line rental,10.00,monthly,2026-09-01,,yes",
            (
                "line 2, starts_on: '2026-09-01' differs from what invoice G-2026-000002 was computed from; "
                "bill other days as a fee"
            ),
        ),
        (
            "S-1,A-2,global,Line rental,10.00,monthly,2026-09-10,,yes",
            (
                "line 2, account: 'A-2' differs from what invoice G-2026-000002 was computed from; "
                "end this service; the other account gets one with a new id"
            ),
        ),
        (
            "S-1,A-1,global,Line rental,10.00,monthly,2026-09-10,2026-10-30,yes",
            (
                "line 2, ends_on: '2026-10-30' would alter what invoice G-2026-000002 was computed from; "
                "the end may be 2026-10-31 or later"
            ),
        ),
    ],
)
def test_values_behind_an_issued_line_cannot_change(stocked: Desk, row: str, problem: str) -> None:
    stocked.services(LINE)
    invoice_two_months(stocked)
    before = stocked.everything()
    told = stocked.services(HEADER + row + "\n", "--keep-good")
    assert (told.code, told.problems) == (1, [problem])
    assert stocked.everything() == before


@pytest.mark.parametrize("ends_on", ["2026-10-31", "2026-11-15"])
def test_an_invoiced_service_may_still_end_and_be_renamed(stocked: Desk, ends_on: str) -> None:
    stocked.services(LINE)
    invoice_two_months(stocked)
    told = stocked.services(HEADER + f"S-1,A-1,global,New name,10.00,monthly,2026-09-10,{ends_on},no\n")
    assert (told.code, told.problems) == (0, [])
    assert stocked.service("S-1").ends_on == date.fromisoformat(ends_on)
    assert stocked.services(LINE).code == 0  # and go on after all: no invoiced day is touched


def test_service_that_ended_within_an_invoiced_month_cannot_continue(stocked: Desk) -> None:
    ended = LINE.replace("2026-09-10,", "2026-09-10,2026-10-15")
    stocked.services(ended)
    invoice_two_months(stocked)
    told = stocked.services(LINE)
    assert told.problems == [
        (
            "line 2, ends_on: '' would alter what invoice G-2026-000002 was computed from; "
            "a service that starts again gets a new id"
        )
    ]
    assert stocked.services(ended.replace("Line rental", "Line")).code == 0


def test_price_that_month_start_uses_during_an_import_is_not_changed(stocked: Desk) -> None:
    """Month start holds the account's settings; the import waits for it, looks again, and finds the line issued."""
    stocked.services(LINE)
    path = stocked.write(LINE.replace("10.00", "12.00"))
    with stocked.engine.begin() as month_start:
        month_start.execute(text("SELECT FROM payment_settings WHERE coverage = 'global' FOR SHARE"))
        service = month_start.execute(select(services)).one()
        importing = stocked.start("services", path)
        wait_until_something_waits(stocked.engine)
        add_invoice(month_start, service.account_id, "G-2026-000001", date(2026, 10, 1), service_id=service.id)
    said, _ = importing.communicate(timeout=30)
    assert said.startswith("line 2, price: '12.00' differs from what invoice G-2026-000001 was computed from")
    assert stocked.service("S-1").price_minor == 1000


def test_voided_invoice_allows_changes(stocked: Desk) -> None:
    stocked.services(LINE)
    invoice_two_months(stocked)
    with stocked.engine.begin() as connection:
        connection.execute(text("UPDATE invoices SET voided_at = '2026-11-02T00:00:00Z'"))
    assert stocked.services(LINE.replace("10.00", "12.00")).code == 0


def test_service_imported_after_its_month_was_invoiced_is_noted(stocked: Desk) -> None:
    stocked.services(LINE)
    invoice_two_months(stocked)
    told = stocked.services(HEADER + "S-2,A-1,global,Late,5,monthly,2026-10-20,,no\n")
    assert told.code == 0
    assert "Note: 1 services (S-2, …) start in months that are already invoiced for their account" in told.text
    on_time = stocked.services(HEADER + "S-3,A-1,global,On time,5,monthly,2026-11-01,,no\n")
    assert "Note" not in on_time.text


def test_all_bad_cells_of_services_are_reported(stocked: Desk) -> None:
    told = stocked.services(
        HEADER
        + "S-1,A-1,global,,10.001,weekly,2026-10-05,2026-10-04,maybe\n"
        + "S-2,A-1,japan,x,10.5,daily,5.10.2026,,\n"
        + "S-3,A-1,global,x,1,daily,2026-10-05,,\n"
        + "S-3,A-1,global,x,2,daily,2026-10-05,,\n"
    )
    assert told.problems == [
        "line 2, description: '' is empty; every row needs a value here",
        (
            "line 2, pricing: 'weekly' is not a pricing: daily, monthly. Say which one it means, for example "
            '--value pricing:"weekly"=daily'
        ),
        "line 2, protected: 'maybe' is neither yes nor no",
        "line 2, price: '10.001' is a fraction of a minor unit: USD has 2 decimals",
        "line 2, ends_on: '2026-10-04' is before the start, 2026-10-05",
        "line 3, starts_on: '5.10.2026' is not a date like 2026-10-31",
        "line 3, price: '10.5' is a fraction of a minor unit: JPY has no minor unit",
        "line 5, id: 'S-3' is a duplicate id: line 4 has it already",
    ]


def test_a_new_start_may_not_pass_the_end_that_the_file_does_not_mention(stocked: Desk) -> None:
    stocked.services(LINE.replace("2026-09-10,", "2026-09-10,2026-10-15"))
    told = stocked.services(
        "id,account,coverage,description,price,pricing,starts_on\nS-1,A-1,global,x,10,monthly,2026-11-01\n"
    )
    assert told.problems == ["line 2, starts_on: '2026-11-01' is after the end that we know, 2026-10-15"]


def invoice_two_months(desk: Desk) -> None:
    """September and October are issued with S-1 on them."""
    with desk.engine.begin() as connection:
        service = connection.execute(select(services).where(services.c.external_id == "S-1")).one()
        for month in (9, 10):
            number = f"G-2026-{month - 8:06d}"
            add_invoice(connection, service.account_id, number, date(2026, month, 1), service_id=service.id)
