"""Files that are read without an error, and mean something else than they say."""

import pytest

from tests.importing.desk import Desk


def test_same_file_with_another_period_moves_no_fee_unless_told_to(stocked: Desk) -> None:
    file = "id,account,coverage,amount\nF-1,A-1,global,10\n"
    assert stocked.fees(file, period="2026-09").code == 0
    told = stocked.fees(file, period="2026-10")
    assert told.code == 1
    assert (
        "line 2, period: '2026-10' would move this fee from 2026-09, where it waits for its invoice; "
        "if that is meant, add --move-period"
    ) in told.text
    assert stocked.fee_rows()["F-1"][4].isoformat() == "2026-09-01"
    assert stocked.fees(file, "--move-period", period="2026-10").code == 0
    assert stocked.fee_rows()["F-1"][4].isoformat() == "2026-10-01"


@pytest.mark.parametrize("sign", [*"=+-@", "＝"])
def test_id_that_a_spreadsheet_runs_is_refused(stocked: Desk, sign: str) -> None:
    told = stocked.fees(f"id,account,coverage,amount\n{sign}1,A-1,global,10\n")
    assert told.code == 1
    assert (
        f"line 2, id: '{sign}1' is a formula to a spreadsheet, because it begins with {sign}; an id may not"
        in told.text
    )


def test_two_spellings_of_an_id_are_one(stocked: Desk) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    assert stocked.fees(f"id,account,coverage,amount\n{decomposed},A-1,global,10\n").code == 0
    told = stocked.fees(f"id,account,coverage,amount\n{composed},A-1,global,10\n")
    assert "unchanged 1" in told.text
    assert set(stocked.fee_rows()) == {composed}


def test_unused_columns_are_named_and_the_nearest_of_ours_suggested(stocked: Desk) -> None:
    told = stocked.fees("id,account,coverage,amount,descripton,colour\nF-1,A-1,global,10,Data,red\n")
    assert told.code == 0
    assert "Note: columns that are not used: descripton, colour." in told.text
    assert "Note: if 'descripton' is our column description, give --columns description=descripton." in told.text


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_mark_is_recognized_and_no_raw_byte_is_shown(stocked: Desk, encoding: str) -> None:
    told = stocked.fees("account,coverage,amount\nA-1,global,10\n".encode(encoding))
    assert told.code == 2
    assert f"looks like UTF-16; convert it first: iconv -f {encoding.replace('16-', '16')} -t utf-8" in told.errors
    assert "\0" not in told.errors + told.text


@pytest.mark.parametrize("rows", [10, 5_000])
def test_rows_that_are_misread_after_an_open_quote_are_told_once(stocked: Desk, rows: int) -> None:
    lines = ["id,account,coverage,amount", "F-1,A-1,global,10", 'F-2,"A-1,global,10', 'F-3,A-1",global']
    lines += [f"F-{n},A-1,global,1,000" for n in range(4, rows)]
    told = stocked.fees("\n".join(lines) + "\n")
    assert told.code == 1
    assert [line[:8] for line in told.text.splitlines() if line.startswith("line ")] == ["line 3: "]
    assert "is a quote in line 3 never closed?" in told.text
    assert f"Note: {rows - 4:,} rows after line 3 can't be read: close the quote there." in told.text
    assert f"bad {rows - 3:,}" in told.text
