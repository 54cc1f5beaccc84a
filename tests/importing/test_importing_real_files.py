"""Real input, and files larger than memory should know of."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import text

from tests.importing.desk import BILLING_FILE, Desk

TELCO = BILLING_FILE.parents[1] / "shared" / "data" / "telco-customers.csv"
METHODS = {
    "Credit card (automatic)": "card",
    "Electronic check": "card",
    "Mailed check": "bank_transfer",
    "Bank transfer (automatic)": "bank_transfer",
}


@pytest.mark.skipif(not TELCO.exists(), reason=f"needs {TELCO}")
def test_seven_thousand_subscribers_are_imported_exactly_and_once(desk: Desk, tmp_path: Path) -> None:
    values = [part for theirs, ours in METHODS.items() for part in ("--value", f"payment_method:{theirs}={ours}")]
    account = ["--columns", "account=customerID,payment_method=PaymentMethod", *values, "--set", "coverage=global"]
    fee = [
        "--period",
        "2026-10",
        "--columns",
        "account=customerID,amount=MonthlyCharges",
        "--set",
        "coverage=global",
    ]
    assert desk.run("accounts", TELCO, *account).code == 0
    assert desk.run("fees", TELCO, *fee).code == 0
    with desk.engine.connect() as connection:
        assert tuple(connection.execute(text("SELECT count(*), sum(amount_minor) FROM fees")).one()) == (
            7043,
            45611660,
        )
        kinds = connection.execute(text("SELECT kind, count(*) FROM payment_settings GROUP BY 1 ORDER BY 1"))
        assert dict(tuple(row) for row in kinds) == {"bank_transfer": 3156, "card": 3887}
    again = desk.run("fees", TELCO, *fee, "--json").data
    assert (again["new"], again["changed"], again["unchanged"], again["is_written"]) == (0, 0, 7043, False)


def test_memory_does_not_grow_with_the_file_even_if_every_row_is_bad(stocked: Desk) -> None:
    row = "F{},NOBODY,global,-1," + "d" * 200 + "\n"
    peaks = []
    for rows in (1_000, 60_000):
        path = stocked.folder / f"{rows}.csv"
        with path.open("w") as file:
            file.write("id,account,coverage,amount,description\n")
            file.writelines(row.format(number) for number in range(rows))
        peaks.append(peak_of_import(stocked, path))
    assert peaks[1] < peaks[0] + 20 * 1024 * 1024  # the file has 15 MB, its problems another 10; a batch has 5


def peak_of_import(desk: Desk, path: Path) -> int:
    """Bytes of memory that an import of the file takes at most, measured in its process."""
    code = (
        "from pathlib import Path\n"
        "from cli.import_commands import app\n"
        "try:\n    app()\nexcept SystemExit:\n    pass\n"
        "print(Path('/proc/self/status').read_text())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "fees", str(path), "--period", "2026-10", "--json"],
        env={**os.environ, **desk.process_environ()},
        cwd=BILLING_FILE.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    # Not ru_maxrss: a new process inherits that from the one that started it.
    [kilobytes] = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("VmHWM:")]
    return int(kilobytes) * 1024
