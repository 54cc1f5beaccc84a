"""What the command line may say, and what it answers when it is wrong. Exit code 2: no row was looked at."""

import gzip

import pytest

from tests.importing.desk import Desk

FEES = "account,coverage,amount\nA-1,global,1\n"


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (
            FEES,
            ["--columns", "acount=account"],
            (
                "--columns: we have no column 'acount'; did you mean 'account'? The columns are: id, account, "
                "coverage, description, period, date, currency, amount"
            ),
        ),
        (
            FEES,
            ["--columns", "amount=Ammount"],
            (
                "--columns amount=Ammount: the file has no column 'Ammount'; did you mean 'amount'? It has: "
                "account, "
                "coverage, amount"
            ),
        ),
        (
            "account,coverage,Amount \nA-1,global,1\n",
            [],
            (
                "the file has no column 'amount', which fees need; the nearest is 'Amount'. Say which one it is "
                "with "
                "--columns amount=Amount, or give one value for all rows with --set amount=VALUE. The file has: "
                "account, "
                "coverage, Amount"
            ),
        ),
        (FEES, ["--columns", "account"], "--columns 'account' isn't understood; write it like --columns account="),
        (FEES, ["--columns", "amount=a,amount=b"], "--columns names 'amount' twice; say which one is meant"),
        (FEES, ["--value", "coverge:a=b"], "--value: we have no column 'coverge'; did you mean 'coverage'?"),
        (FEES, ["--value", "coverage:a"], "--value 'coverage:a' needs an = with our value behind it"),
        (FEES, ["--value", "currency:a=USD"], "--value currency: the file has no column for currency"),
        (FEES, ["--set", "amont=1"], "--set: we have no column 'amont'; did you mean 'amount'?"),
        (
            FEES,
            ["--set", "amount=1"],
            "--set amount: the file has its own column 'amount' for that; leave --set out",
        ),
        (FEES, ["--set", "currency=EURO"], "--set currency=EURO: 'EURO' is not a supported currency"),
        (FEES, ["--encoding", "utf-99"], "--encoding utf-99 is not an encoding; common ones are"),
        (
            FEES,
            ["--encoding", "utf-16"],
            "--encoding utf-16 can't be read by lines; convert: iconv -f utf-16 -t utf-8",
        ),
        (FEES, ["--delimiter", ",,"], "--delimiter ',,' is not one character like , or ; (or the word tab)"),
        (
            "a;b;c\n1;2;3\n",
            [],
            "the first line has only one column; is the file separated by ';'? Then give --delimi",
        ),
        ("account,coverage,amount,amount\n", [], "the file has two columns 'amount'; rename one of them"),
        ("", [], "file.csv is empty; its first line must name the columns"),
        (b"\n\n", [], "the file has only empty lines; its first line must name the columns"),
        (FEES.encode("utf-16"), [], "file.csv is UTF-16; convert it first: iconv -f utf-16 -t utf-8"),
        (b"PK\x03\x04....", [], "file.csv is a spreadsheet or a zip file; save it as CSV (UTF-8)"),
        (gzip.compress(FEES.encode(), mtime=0), [], "file.csv is compressed; give it like this: zcat FILE |"),
        (
            b"caf\xe9,x\n",
            [],
            "line 1, which must name the columns, is not utf-8: byte 0xe9 on line 1, byte 4 of the",
        ),
        (b"x" * 1_100_000, [], "line 1 is longer than 1,048,576 bytes: is this a CSV file"),
        (
            FEES,
            ["--keep-good", "--rejects", "/nowhere/at/all.csv"],
            "/nowhere/at can't be written to; give --rejects",
        ),
    ],
)
def test_wrong_option_is_explained(stocked: Desk, content: str | bytes, options: list[str], message: str) -> None:
    told = stocked.fees(content, *options)
    assert told.code == 2
    assert told.text == ""
    assert message in told.errors
    assert stocked.fee_rows() == {}


def test_missing_file_is_reported(desk: Desk) -> None:
    told = desk.run("fees", "/nowhere.csv", "--period", "2026-10")
    assert (told.code, told.errors) == (2, "/nowhere.csv can't be read: No such file or directory\n")


def test_invalid_month_is_rejected(desk: Desk) -> None:
    told = desk.fees(FEES, period="2026-13")
    assert (told.code, told.errors) == (2, "--period: '2026-13' is not a period; write a month like 2026-10\n")


def test_fees_without_a_month_are_rejected(desk: Desk) -> None:
    told = desk.fees(FEES, period=None)
    assert told.code == 2
    assert "or give one value for all rows with --period 2026-10" in told.errors


def test_the_rejects_file_may_not_be_the_file_itself(stocked: Desk) -> None:
    path = stocked.write(FEES)
    told = stocked.run("fees", path, "--period", "2026-10", "--rejects", path)
    assert told.code == 2
    assert "is the imported file itself" in told.errors


def test_column_names_may_hold_commas_and_values_equals_signs(stocked: Desk) -> None:
    content = 'Account|"Fee, monthly"|where=?\nA-1|1.50|a=b\n'
    told = stocked.fees(
        content,
        *("--delimiter", "|"),
        *("--columns", "account=Account,amount=Fee, monthly,coverage=where=?"),
        *("--value", "coverage:a=b=global"),
    )
    assert (told.code, told.errors) == (0, "")
    assert stocked.fee_rows()["2026-10:A-1"][1] == 150


def test_an_empty_cell_can_be_given_a_value(stocked: Desk) -> None:
    told = stocked.fees("account,coverage,amount\nA-1,,1\n", "--value", "coverage:=global")
    assert told.code == 0


def test_missing_schema_is_reported_with_the_command_to_create_it(desk: Desk) -> None:
    from sqlalchemy import text

    with desk.engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE; CREATE SCHEMA public"))
    told = desk.fees(FEES)
    assert told.code == 1
    assert told.errors.startswith("The database has no tables yet: run `duecourse db upgrade`")
