"""Every kind of bad input: what the user sees, and that nothing is lost or half written."""

import csv
import io

import pytest

from tests.importing.desk import Desk

HEADER = "id,account,coverage,amount,description,date,currency"


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (
            "F,NOBODY,global,1,,,",
            (
                "line 3, account: 'NOBODY' is an account that we don't have; bring it in first with duecourse "
                "import "
                "accounts"
            ),
        ),
        (
            "F,A-2,japan,1,,,",
            (
                "line 3, account: 'A-2' is an account without payment settings in coverage japan; bring it in "
                "first with "
                "duecourse import accounts"
            ),
        ),
        (
            "F,A-1,globl,1,,,",
            (
                "line 3, coverage: 'globl' is not a coverage of billing.toml: global, japan. Say which one it "
                "means, for "
                'example --value coverage:"globl"=global'
            ),
        ),
        (
            "F,A-1,global,1,,,XXX",
            "line 3, currency: 'XXX' is not a supported currency; write a code like USD or JPY",
        ),
        (
            "F,A-1,global,1,,,EUR",
            "line 3, currency: 'EUR' is not the currency of coverage global, which bills in USD",
        ),
        ("F,A-1,global,-5.00,,,", "line 3, amount: '-5.00' is negative; credit is not a fee"),
        ("F,A-1,global,1.005,,,", "line 3, amount: '1.005' is a fraction of a minor unit: USD has 2 decimals"),
        ("F,A-1,japan,10.50,,,", "line 3, amount: '10.50' is a fraction of a minor unit: JPY has no minor unit"),
        ("F,A-1,global,1e3,,,", "line 3, amount: '1e3' is not a plain decimal number like 29.85"),
        ("F,A-1,global,NaN,,,", "line 3, amount: 'NaN' is not a plain decimal number like 29.85"),
        ('F,A-1,global,"1,234.50",,,', "line 3, amount: '1,234.50' is not a plain decimal number like 29.85"),
        ("F,A-1,global,１２,,,", "line 3, amount: '１２' is not a plain decimal number like 29.85"),
        (
            "F,A-1,global,99999999999999999999,,,",
            "line 3, amount: '99999999999999999999' is larger than the largest supported amount",
        ),
        (
            "F,A-1,global,1000000.00,,,",
            ("line 3, amount: '1000000.00' is larger than any amount Stripe charges; the most is USD 999,999.99"),
        ),
        (
            "F,A-1,global,1.000000000000000000000000000001,,,",
            (
                "line 3, amount: '1.000000000000000000000000000001' is a number of more than 24 characters, "
                "larger than "
                "any amount"
            ),
        ),
        ("OK,A-1,global,1,,,", "line 3, id: 'OK' is a duplicate id: line 2 has it already"),
        ("F,A-1,global,1,,2026-11-01,", "line 3, date: '2026-11-01' is outside the period 2026-10"),
        ("F,A-1,global,1,,31/10/2026,", "line 3, date: '31/10/2026' is not a date like 2026-10-31"),
        ("F,A-1,global,1,,2026-02-30,", "line 3, date: '2026-02-30' is a date that the calendar doesn't have"),
        ("F,A-1,global", "line 3: 'F,A-1,global' has 3 cells where the first line has 7"),
        (
            "F,A-1,global,1,234,,,,",
            (
                "line 3: 'F,A-1,global,1,234,,,,' has 9 cells where the first line has 7; put a cell that holds "
                "the "
                "separator into quotes"
            ),
        ),
        ("F,,global,1,,,", "line 3, account: '' is empty; every row needs a value here"),
        ("F,A-1,global,,,,", "line 3, amount: '' is empty; every row needs a value here"),
        (
            "F\u200b1,A-1,global,1,,,",
            r"line 3, id: 'F\u200b1' holds the invisible character U+200B, which an id may not",
        ),
        ("F,A-1,global,1,a\0b,,", r"line 3, description: 'a\x00b' holds the control character U+0000"),
        ("F,A-1,global,1,\x1b[2J,,", r"line 3, description: '\x1b[2J' holds the control character U+001B"),
        (
            "F,A-1,global,1,caf�,,",
            (
                "line 3, description: 'caf�' holds the sign � for a letter that was lost when the file was "
                "made; export "
                "it as UTF-8"
            ),
        ),
        (
            'F,A-1,global,1,"a"b,,',
            (
                "line 3: 'F,A-1,global,1,\"a\"b,,' has text after a closing quote; write a quote inside a "
                "quoted cell "
                'as ""'
            ),
        ),
        ('F,A-1,global,1,"a,,', "line 3: 'F,A-1,global,1,\"a,,' has a quote that is never closed"),
    ],
)
def test_bad_row_is_reported_and_rejects_the_whole_file(stocked: Desk, row: str, problem: str) -> None:
    before = stocked.everything()
    told = stocked.fees(f"{HEADER}\nOK,A-1,global,1.00,fine,2026-10-31,USD\n{row}\n")
    assert told.problems == [problem]
    assert told.code == 1
    assert "Nothing was written: 1 row can't be used." in told.text
    assert stocked.everything() == before


def test_bytes_of_another_encoding_are_found_by_line_and_byte(stocked: Desk) -> None:
    content = f"{HEADER}\nOK,A-1,global,1.00,fine,,\nF,A-1,global,1,café,,\n".encode("cp1252")
    told = stocked.fees(content)
    place = content.index(b"\xe9") + 1
    assert told.problems == [
        (
            f"line 3, description: 'caf�' is not utf-8: byte 0xe9 on line 3, byte {place} of the file; save the "
            "file as "
            "UTF-8 or give --encoding, for example --encoding cp1252 or cp932"
        )
    ]
    assert stocked.fees(content, "--encoding", "cp1252").code == 0
    assert stocked.fee_rows()["F"][2] == "café"


def test_undecodable_byte_in_an_unused_column_is_reported(stocked: Desk) -> None:
    told = stocked.fees(b"account,coverage,amount,note\nA-1,global,1,\xe9\n")
    assert told.problems[0].startswith("line 2, note: '�' is not utf-8: byte 0xe9 on line 2, byte 43 of the file")


def test_japanese_encoding_is_imported(stocked: Desk) -> None:
    told = stocked.fees(
        "account,coverage,amount,description\nA-1,japan,100,ソ表\n".encode("cp932"), "--encoding", "cp932"
    )
    assert told.code == 0
    assert stocked.fee_rows()["2026-10:A-1"][2] == "ソ表"  # both hold a byte that is a backslash in ASCII


def test_byte_order_mark_and_windows_line_ends_are_accepted(stocked: Desk) -> None:
    told = stocked.fees(b"\xef\xbb\xbfaccount,coverage,amount\r\nA-1,global,1\r\n\r\n", "--encoding", "cp1252")
    assert (told.code, "1 row · new 1" in told.text) == (0, True)


def test_all_bad_cells_of_all_rows_are_reported(stocked: Desk) -> None:
    told = stocked.fees(f"{HEADER}\n,NOBODY,nowhere,-1,,yesterday,XXX\nF,NOBODY,global,x,,,\n")
    assert [problem.split(":")[0] for problem in told.problems] == [
        "line 2, id",
        "line 2, coverage",
        "line 2, date",
        "line 2, currency",
        "line 2, amount",
        "line 2, account",
        "line 3, amount",
        "line 3, account",
    ]


def test_the_file_names_its_own_columns_in_messages(stocked: Desk) -> None:
    told = stocked.fees(
        "Customer,Charge\nA-1,-1\n", "--columns", "account=Customer,amount=Charge", "--set", "coverage=global"
    )
    assert told.problems == ["line 2, Charge: '-1' is negative; credit is not a fee"]


def test_a_line_number_is_the_one_an_editor_shows(stocked: Desk) -> None:
    told = stocked.fees(f'{HEADER}\n\nA,A-1,global,1,"two\nlines",,\nB,A-1,global,-1,,,\n')
    assert told.problems == ["line 5, amount: '-1' is negative; credit is not a fee"]


def test_the_screen_shows_fifty_problems_and_the_rejects_file_all(stocked: Desk) -> None:
    rows = "".join(f"F{number},A-1,global,-1,,,\n" for number in range(60))
    told = stocked.fees(f"{HEADER}\n{rows}")
    assert len(told.problems) == 50
    assert "… and 10 more" in told.text
    assert len(list(csv.DictReader(io.StringIO(stocked.rejects())))) == 60


def test_keep_good_imports_good_rows_and_writes_the_bad_ones_to_a_file(stocked: Desk) -> None:
    told = stocked.fees(
        f"{HEADER}\nF1,A-1,global,1,,,\nF2,NOBODY,global,-2,,,\nF3,A-1\nF4,A-1,global,4,,,\n", "--keep-good"
    )
    assert told.code == 0
    assert "Written: 2 rows; 2 rows with errors left out." in told.text
    assert set(stocked.fee_rows()) == {"F1", "F4"}
    first, second = csv.DictReader(io.StringIO(stocked.rejects()))
    assert (first["id"], first["amount"], first["line"]) == ("F2", "'-2", "3")
    assert (first["column"], first["value"]) == ("amount; account", "'-2; NOBODY")
    assert first["reason"].startswith("is negative; credit is not a fee; is an account that we don't have")
    assert (second["line"], second["column"], second["value"]) == ("4", "", "F3,A-1")


def test_keep_good_without_a_good_row_exits_1(stocked: Desk) -> None:
    assert stocked.fees(f"{HEADER}\nF1,NOBODY,global,1,,,\n", "--keep-good").code == 1


def test_formulas_are_text_in_the_rejects_file(stocked: Desk) -> None:
    cells = ["=1+1", "+1", "-1", "@SUM(1)", "\t=1", "'=1", "＝1", "'quoted'"]
    rows = "".join(f'F{number},NOBODY,global,1,"{cell}",,\n' for number, cell in enumerate(cells))
    stocked.fees(f"{HEADER}\n{rows}")
    written = [row["description"] for row in csv.DictReader(io.StringIO(stocked.rejects()))]
    assert written == ["'=1+1", "'+1", "'-1", "'@SUM(1)", "'\t=1", "''=1", "'＝1", "'quoted'"]


def test_corrected_rejects_file_is_imported_with_the_same_command(stocked: Desk) -> None:
    stocked.fees(f"{HEADER}\nF,NOBODY,global,5,=x,,\n".encode("cp932"), "--encoding", "cp932")
    corrected = stocked.write(stocked.rejects().replace("NOBODY", "A-1").encode("utf-8-sig"), "corrected.csv")
    told = stocked.run("fees", corrected, "--period", "2026-10", "--encoding", "cp932")
    assert told.code == 0
    assert stocked.fee_rows()["F"][:3] == ("A-1", 500, "=x")


def test_uncorrected_duplicate_of_a_rejects_file_is_rejected_again(stocked: Desk) -> None:
    stocked.fees(f"{HEADER}\nF1,A-1,global,10,,,\nF1,A-1,global,11,,,\n", "--keep-good")
    rejects = stocked.write(stocked.rejects(), "again.csv")
    told = stocked.run("fees", rejects, "--period", "2026-10")
    assert told.problems[0].startswith("line 2, id: 'F1' was a duplicate and still is")
    assert stocked.fee_rows()["F1"][1] == 1000
    corrected = stocked.write(rejects.read_text().replace("\nF1,", "\nF2,"), "corrected.csv")
    assert stocked.run("fees", corrected, "--period", "2026-10").code == 0
    assert stocked.fee_rows()["F2"][1] == 1100


def test_standard_input_is_read_like_a_file(stocked: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(stocked.folder)
    told = stocked.run(
        "fees", "-", "--period", "2026-10", standard_input=b"account,coverage,amount\nA-1,global,-1\n"
    )
    assert "fees of standard input: 1 row" in told.text
    assert (stocked.folder / "stdin.rejects.csv").exists()


def test_html_stays_text(stocked: Desk) -> None:
    assert stocked.fees("account,coverage,amount,description\nA-1,global,1,<script>alert(1)</script>\n").code == 0
    assert stocked.fee_rows()["2026-10:A-1"][2] == "<script>alert(1)</script>"
