"""Temporary tables for the rows of a file, and the transaction that writes from them."""

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

import psycopg
import psycopg.errors
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from cli.importing.cells import shown
from cli.importing.rows import Problem
from shared.db.session import MAX_REPETITIONS

Result = TypeVar("Result")

#: Rows held in memory before they are copied: about 5 MB, and few enough round trips not to matter.
BATCH_ROWS = 10_000
#: Room for a whole broken row in the rejects file.
MAX_STORED_VALUE = 4_000
#: Imports are compared and written one at a time; others wait for this lock. Any number that is only ours.
IMPORT_LOCK = 7_221_001

#: A deadlock's loser starts again. A unique violation means that another import added the same id since the
#: comparison: the next one sees it.
_REPEATABLE = (
    psycopg.errors.DeadlockDetected,
    psycopg.errors.SerializationFailure,
    psycopg.errors.UniqueViolation,
)


class Staging:
    """`import_rows` and `import_problems`, in one session. Committed batch by batch: no long transaction."""

    def __init__(self, connection: Connection, columns: Mapping[str, str]) -> None:
        self._connection = connection
        self._columns = columns

    def __enter__(self) -> "Staging":
        typed = ", ".join(f"{name} {sql_type}" for name, sql_type in self._columns.items())
        self._drop()
        with self._connection.begin():
            self._connection.execute(text(f"CREATE TEMPORARY TABLE import_rows (line bigint, {typed})"))
            self._connection.execute(
                text(
                    "CREATE TEMPORARY TABLE import_problems (id bigint GENERATED ALWAYS AS IDENTITY, line bigint, "
                    "column_name text, value text, reason text)"
                )
            )
        return self

    def __exit__(self, *_: object) -> None:
        if not self._connection.invalidated:
            self._drop()

    def _drop(self) -> None:
        with self._connection.begin():
            self._connection.execute(text("DROP TABLE IF EXISTS pg_temp.import_rows, pg_temp.import_problems"))

    def add(self, rows: Sequence[tuple[Any, ...]], problems: Sequence[Problem]) -> None:
        """Copy one batch in; a row is its line and the values of the staged columns in order."""
        names = ", ".join(self._columns)
        with self._connection.begin():
            self._connection.execute(text("SELECT 1"))  # lets SQLAlchemy know of the transaction
            with _driver(self._connection).cursor() as cursor:
                with cursor.copy(f"COPY import_rows (line, {names}) FROM STDIN") as copy:
                    for row in rows:
                        copy.write_row(row)
                if problems:
                    statement = "COPY import_problems (line, column_name, value, reason) FROM STDIN"
                    with cursor.copy(statement) as copy:
                        for found in problems:
                            value = _storable(found.value)
                            copy.write_row((found.line, _storable(found.column), value, found.reason))

    def settle(self) -> None:
        """Let the planner know what was copied."""
        with self._connection.begin():
            self._connection.execute(text("ANALYZE import_rows, import_problems"))

    def problems(self, most: int | None = None, without: str = "") -> Iterator[Problem]:
        """All problems in the order of the file, or the first `most`, except those with the reason `without`.

        Streams; needs the connection meanwhile.
        """
        query = """
            SELECT line, column_name, value, reason FROM import_problems WHERE reason <> :without ORDER BY line, id
        """
        limit = "" if most is None else f" LIMIT {most}"
        with self._connection.begin():
            self._connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))  # paced by a disk
            statement = text(query + limit).execution_options(yield_per=1_000)
            for row in self._connection.execute(statement, {"without": without}):
                yield Problem(row.line, row.column_name, row.value, row.reason)


def repeat_transaction(connection: Connection, work: Callable[[], Result]) -> Result:
    """Run `work` in one transaction of this session, again after a deadlock (I4); what it staged rolls back too."""
    for repetition in range(MAX_REPETITIONS):
        try:
            with connection.begin():
                return work()
        except DBAPIError as error:
            if not isinstance(error.orig, _REPEATABLE) or repetition == MAX_REPETITIONS - 1:
                raise
            time.sleep(random.uniform(0, 0.01 * 2**repetition))  # noqa: S311  # spread, not secrecy
    raise AssertionError("unreachable: the last repetition returns or raises")


def lock_imports(connection: Connection) -> None:
    """Wait, however long, until no other import writes; then statements time out on locks as they always do."""
    connection.execute(text("SET LOCAL lock_timeout = 0"))
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": IMPORT_LOCK})
    connection.execute(text("SET LOCAL lock_timeout = '60s'"))


def _driver(connection: Connection) -> psycopg.Connection[Any]:
    return cast("psycopg.Connection[Any]", connection.connection.driver_connection)


def _storable(value: str) -> str:
    """PostgreSQL holds no NUL; other controls must not reach a terminal by way of a table either."""
    return shown(value, MAX_STORED_VALUE)
