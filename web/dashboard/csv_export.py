"""Stream tables as CSV, row by row. Cells that a spreadsheet would execute are made plain text."""

import csv
import io
import json
from collections.abc import Iterable, Iterator
from datetime import date, datetime
from typing import Any
from uuid import UUID

from starlette.responses import StreamingResponse

#: Spreadsheets read cells with these prefixes as formulas (OWASP, CSV injection): names come from customers.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
#: Rows in one chunk of the response.
ROWS_AT_ONCE = 500


def stream_csv(name: str, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> StreamingResponse:
    """Respond with a file called `name`: UTF-8, the column names in the first line."""
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(_chunks(columns, rows), media_type="text/csv; charset=utf-8", headers=headers)


def _chunks(columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> Iterator[str]:
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(columns)
    for number, row in enumerate(rows, 1):
        writer.writerow([_cell(value) for value in row])
        if number % ROWS_AT_ONCE == 0:
            yield buffer.getvalue()
            buffer.seek(0)
            buffer.truncate()
    yield buffer.getvalue()


def _cell(value: Any) -> str | int:
    match value:
        case None:
            return ""
        case bool() | UUID():
            return str(value)
        case int():
            return value
        case datetime() | date():
            return value.isoformat()
        case dict() | list():
            return _plain(json.dumps(value, ensure_ascii=False))
        case _:
            return _plain(str(value))


def _plain(text: str) -> str:
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text
