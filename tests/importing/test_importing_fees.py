"""Fees come in once, change until they are invoiced, and then never again."""

import json
from datetime import date
from uuid import UUID

import pytest
from sqlalchemy import select, text

from shared.db.tables.accounts import accounts
from shared.db.tables.invoices import fees
from tests.importing.desk import Desk, add_invoice, wait_until_something_waits

TWO_FEES = (
    "id,account,coverage,amount,description,date\nF-1,A-1,global,29.85,Line,2026-10-03\nF-2,A-1,japan,1200,電話,\n"
)
OCTOBER = date(2026, 10, 1)
#: Only a superuser may say so; without it the one that waits longest notices, which is the import too.
LET_THE_IMPORT_NOTICE = text(
    "SELECT set_config('deadlock_timeout', '60s', false) FROM pg_roles WHERE rolname = current_user AND rolsuper"
)


def test_fees_are_stored_in_minor_units_of_their_coverage(stocked: Desk) -> None:
    told = stocked.fees(TWO_FEES)
    assert told.code == 0
    assert stocked.fee_rows() == {
        "F-1": ("A-1", 2985, "Line", date(2026, 10, 3), OCTOBER),
        "F-2": ("A-1", 1200, "電話", None, OCTOBER),
    }
    assert "2 rows · new 2 · changed 0 · unchanged 0 · bad 0" in told.text
    assert "global: 1 good fees, USD 29.85\njapan: 1 good fees, JPY 1,200" in told.text


def test_the_same_file_twice_changes_nothing_at_all(stocked: Desk) -> None:
    stocked.fees(TWO_FEES)
    before = stocked.everything()
    told = stocked.fees(TWO_FEES)
    assert told.code == 0
    assert "new 0 · changed 0 · unchanged 2 · bad 0" in told.text
    assert stocked.everything() == before


def test_other_content_under_the_same_id_replaces_a_fee_that_is_not_invoiced(stocked: Desk) -> None:
    stocked.fees(TWO_FEES)
    told = stocked.fees(TWO_FEES.replace("29.85,Line,2026-10-03", "30.00,Line,2026-10-04"))
    assert "new 0 · changed 1 · unchanged 1" in told.text
    assert stocked.fee_rows()["F-1"] == ("A-1", 3000, "Line", date(2026, 10, 4), OCTOBER)


def test_columns_that_a_file_lacks_stay_as_they_are(stocked: Desk) -> None:
    stocked.fees(TWO_FEES)
    stocked.fees("id,account,coverage,amount\nF-1,A-1,global,31\n")
    assert stocked.fee_rows()["F-1"] == ("A-1", 3100, "Line", date(2026, 10, 3), OCTOBER)


def test_a_fee_on_an_invoice_is_a_bad_row_when_its_content_differs(stocked: Desk) -> None:
    stocked.fees(TWO_FEES)
    put_on_invoice(stocked, "F-1", "G-2026-000007")
    told = stocked.fees(TWO_FEES.replace("29.85", "30.00"))
    assert told.code == 1
    assert told.problems == [
        (
            "line 2, id: 'F-1' is already on invoice G-2026-000007, with another amount; what is issued stays, "
            "so give "
            "the difference as a new fee with an id of its own"
        )
    ]
    assert stocked.fee_rows()["F-1"][1] == 2985


def test_a_fee_on_an_invoice_is_unchanged_when_it_comes_again(stocked: Desk) -> None:
    stocked.fees(TWO_FEES)
    put_on_invoice(stocked, "F-1", "G-2026-000007")
    told = stocked.fees(TWO_FEES)
    assert (told.code, told.problems) == (0, [])
    assert "unchanged 2" in told.text


def test_fee_that_month_start_invoices_during_an_import_is_not_changed(stocked: Desk) -> None:
    """Month start holds the row; the import waits for it, looks again, and finds the fee issued."""
    stocked.fees(TWO_FEES)
    path = stocked.write(TWO_FEES.replace("29.85", "30.00"))
    with stocked.engine.begin() as month_start:
        fee = month_start.execute(select(fees).where(fees.c.external_id == "F-1").with_for_update()).one()
        importing = stocked.start("fees", path, "--period", "2026-10", "--keep-good")
        wait_until_something_waits(stocked.engine)
        add_invoice(month_start, fee.account_id, "G-2026-000008", OCTOBER, fee_id=fee.id)
    said, _ = importing.communicate(timeout=30)
    assert said.startswith("line 2, id: 'F-1' is already on invoice G-2026-000008")
    assert stocked.fee_rows()["F-1"][1] == 2985


def test_two_concurrent_imports_of_one_file_store_each_fee_once(stocked: Desk) -> None:
    path = stocked.write(TWO_FEES)
    with stocked.engine.begin() as other:
        other.execute(text("LOCK TABLE fees IN SHARE MODE"))  # one gets as far as writing, the other waits for it
        runs = [stocked.start("fees", path, "--period", "2026-10", "--json") for _ in range(2)]
        wait_until_something_waits(stocked.engine, 2)
    reports = [json.loads(run.communicate(timeout=30)[0]) for run in runs]
    assert sorted(report["new"] for report in reports) == [0, 2]
    assert [run.returncode for run in runs] == [0, 0]


def test_an_import_killed_while_it_writes_leaves_nothing_and_can_run_again(stocked: Desk) -> None:
    path = stocked.write(TWO_FEES)
    before = stocked.everything()
    with stocked.engine.begin() as other:
        other.execute(text("LOCK TABLE billing_events IN SHARE MODE"))  # the fees are written, the event isn't
        importing = stocked.start("fees", path, "--period", "2026-10")
        wait_until_something_waits(stocked.engine)
        importing.kill()
        importing.communicate(timeout=30)
    assert stocked.everything() == before
    assert "new 2" in stocked.run("fees", path, "--period", "2026-10").text


def test_deadlock_is_resolved_by_repeating_the_transaction(stocked: Desk) -> None:
    """We hold F-1 and want F-2, the other way round: PostgreSQL ends one of the two, and both changes come in."""
    stocked.fees(TWO_FEES)
    path = stocked.write(TWO_FEES.replace("29.85", "30.00").replace("1200", "1300"))
    first, second = fee_ids_in_lock_order(stocked)
    with stocked.engine.connect() as other:
        other.execute(LET_THE_IMPORT_NOTICE)
        other.execute(text("UPDATE fees SET occurred_on = NULL WHERE id = :id"), {"id": second})
        importing = stocked.start("fees", path, "--period", "2026-10")
        wait_until_something_waits(stocked.engine)
        other.execute(text("UPDATE fees SET occurred_on = NULL WHERE id = :id"), {"id": first})
        other.commit()
    said, _ = importing.communicate(timeout=30)
    assert (importing.returncode, "changed 2" in said) == (0, True)
    assert [fee[1] for fee in stocked.fee_rows().values()] == [3000, 1300]


def test_without_ids_an_account_has_one_fee_a_month(stocked: Desk) -> None:
    told = stocked.fees("account,coverage,amount\nA-1,global,10\nA-2,global,20\n")
    assert told.code == 0
    assert set(stocked.fee_rows()) == {"2026-10:A-1", "2026-10:A-2"}
    again = stocked.fees("account,coverage,amount\nA-1,global,10\nA-1,global,5\n")
    assert again.problems == [
        (
            "line 3, account: 'A-1' is a duplicate: line 2 is this account's fee of the month already; for more "
            "than one "
            "give the rows ids of their own, in a column id"
        )
    ]


def test_a_file_may_say_the_month_of_each_row(stocked: Desk) -> None:
    rows = "account,coverage,amount,period\nA-1,global,10,2026-09\nA-1,global,11,2026-10\n"
    assert stocked.fees(rows, period=None).code == 0
    assert {key: fee[4] for key, fee in stocked.fee_rows().items()} == {
        "2026-09:A-1": date(2026, 9, 1),
        "2026-10:A-1": OCTOBER,
    }
    assert stocked.fees(rows).problems == [
        "line 2, period: '2026-09' is not 2026-10, the month that --period gives"
    ]


def test_an_import_writes_one_event_with_its_counts(stocked: Desk) -> None:
    told = stocked.fees(TWO_FEES, "--json")
    [(kind, _, _, data)] = stocked.events()
    assert kind == "fees_imported"
    assert data["file_sha256"] == told.data["file_sha256"]
    assert (data["rows"], data["new"], data["bad_rows"]) == (2, 2, 0)
    assert data["sums"] == {"global": {"rows": 1, "amount_minor": 2985}, "japan": {"rows": 1, "amount_minor": 1200}}


def test_dry_run_reports_everything_and_writes_nothing(stocked: Desk) -> None:
    before = stocked.everything()
    told = stocked.fees(TWO_FEES, "--dry-run")
    assert told.code == 0
    assert "new 2" in told.text
    assert "Nothing was written: this was a dry run." in told.text
    assert stocked.everything() == before


def test_amount_carried_forward_cannot_be_overwritten(stocked: Desk) -> None:
    stocked.fees(TWO_FEES)
    with stocked.engine.begin() as connection:
        connection.execute(
            text("UPDATE fees SET carried_from_payment_id = gen_random_uuid() WHERE external_id = 'F-1'")
        )
    told = stocked.fees(TWO_FEES.replace("29.85", "0.01"))
    assert told.problems == ["line 2, id: 'F-1' is the id of an amount that we carried forward; take another"]


def test_fees_of_a_distant_month_are_imported_with_a_note(stocked: Desk) -> None:
    told = stocked.fees("account,coverage,amount\nA-1,global,10\n", period="2062-10")
    assert told.code == 0
    assert "Note: 1 fees are of months up to 2062-10 and wait until then; is the year right?" in told.text


@pytest.mark.parametrize("amount", ["0", "0.00", "999999.99", "12.5", ".5", "0007"])
def test_amounts_are_read_exactly(stocked: Desk, amount: str) -> None:
    expected = {"0": 0, "0.00": 0, "999999.99": 99_999_999, "12.5": 1250, ".5": 50, "0007": 700}
    assert stocked.fees(f"account,coverage,amount\nA-1,global,{amount}\n").code == 0
    assert stocked.fee_rows()["2026-10:A-1"][1] == expected[amount]


def put_on_invoice(desk: Desk, external_id: str, number: str) -> None:
    with desk.engine.begin() as connection:
        fee = connection.execute(
            select(fees.c.id, accounts.c.id.label("account_id"))
            .join(accounts, accounts.c.id == fees.c.account_id)
            .where(fees.c.external_id == external_id)
        ).one()
        add_invoice(connection, fee.account_id, number, OCTOBER, fee_id=fee.id)


def fee_ids_in_lock_order(desk: Desk) -> list[UUID]:
    with desk.engine.connect() as connection:
        return list(connection.scalars(select(fees.c.id).order_by(fees.c.id)))
