"""The steps of an import: read, validate and stage; compare and write in one transaction; report."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, text

from cli.importing.kind import FileKind
from cli.importing.layout import ColumnOptions, Layout, lay_out
from cli.importing.rejects import RejectsError, write_rejects
from cli.importing.rows import AFTER_UNCLOSED, Problem, RowReader
from cli.importing.source import ImportUsageError, Source
from cli.importing.staging import BATCH_ROWS, Staging, lock_imports, repeat_transaction
from shared.db.billing_events import BillingEvent, Cause, record_event
from shared.domain.event_types import EventType

#: What fits on a screen; the rejects file has them all.
MAX_SHOWN_PROBLEMS = 50

#: Goes at commit, with the table below it.
_GOOD_ROWS = """
    CREATE TEMPORARY VIEW import_good AS
    SELECT * FROM import_resolved r WHERE NOT EXISTS (SELECT FROM import_problems p WHERE p.line = r.line)
"""


@dataclass(frozen=True)
class Sum:
    """What the good rows of one coverage come to, in minor units."""

    coverage: str
    currency: str
    rows: int
    amount_minor: int


@dataclass(frozen=True)
class Report:
    """What an import did or, for a dry run or a refused file, would have done with the good rows."""

    kind: str
    is_dry_run: bool
    may_keep_good: bool
    sha256: str = ""
    rows: int = 0
    new: int = 0
    changed: int = 0
    unchanged: int = 0
    bad_rows: int = 0
    problem_count: int = 0
    problems: tuple[Problem, ...] = ()  # the first MAX_SHOWN_PROBLEMS
    sums: tuple[Sum, ...] = ()
    notes: tuple[str, ...] = ()
    is_written: bool = False
    rejects: Path | None = None
    rejects_trouble: str | None = None


@dataclass(frozen=True)
class Order:
    """One requested import. `now` is business time, `actor` who requested it."""

    kind: FileKind
    column_options: ColumnOptions
    rejects: Path
    now: datetime
    actor: str
    may_keep_good: bool = False
    is_dry_run: bool = False


@dataclass(frozen=True)
class Progress:
    """Told about the work as it goes: bytes read, and the name of the step that follows."""

    on_bytes: Callable[[int], None] = lambda _: None
    on_step: Callable[[str], None] = lambda _: None


def import_file(engine: Engine, source: Source, order: Order, progress: Progress = Progress()) -> Report:
    """Bring a file in, whole or not at all; with `may_keep_good` its good rows.

    ImportUsageError if the file's columns don't fit. The same file twice changes nothing.
    """
    layout = read_header(source, order)
    with engine.connect() as connection, Staging(connection, order.kind.staged) as staging:
        reader = RowReader(layout, order.kind)
        rows = _stage(source, reader, staging, progress.on_bytes)
        progress.on_step("comparing")
        report = Report(order.kind.name, order.is_dry_run, order.may_keep_good, source.sha256, rows)
        report = repeat_transaction(connection, lambda: _decide(connection, order, layout, report))
        if report.problem_count == 0:
            return report
        progress.on_step("writing rejects")
        shown = tuple(staging.problems(MAX_SHOWN_PROBLEMS, without=AFTER_UNCLOSED))
        report = replace(report, problems=shown, notes=(*report.notes, *_unclosed(reader)))
        try:
            write_rejects(order.rejects, source, layout, staging.problems())
        except RejectsError as error:
            return replace(report, rejects_trouble=str(error))
        return replace(report, rejects=order.rejects)


def _unclosed(reader: RowReader) -> tuple[str, ...]:
    if not reader.after_unclosed:
        return ()
    return (
        f"{reader.after_unclosed:,} rows after line {reader.unclosed_at:,} can't be read: close the quote there",
    )


def read_header(source: Source, order: Order) -> Layout:
    """Match the first line with our columns; ImportUsageError says what doesn't fit."""
    first = next(source.records(), None)
    if first is None:
        raise ImportUsageError("the file has only empty lines; its first line must name the columns")
    return lay_out(first, order.kind, order.column_options, source.delimiter)


def _stage(source: Source, reader: RowReader, staging: Staging, on_bytes: Callable[[int], None]) -> int:
    """Read the whole file into the temporary tables and return the number of its rows."""
    rows: list[tuple[Any, ...]] = []
    problems: list[Problem] = []
    count = 0
    records = source.records(on_bytes)
    next(records)
    for record in records:
        values, found = reader.read(record)
        count += 1
        problems += found
        if values is not None:
            rows.append(values)
        if len(rows) + len(problems) >= BATCH_ROWS:
            staging.add(rows, problems)
            rows, problems = [], []
    staging.add(rows, problems)
    staging.settle()
    return count


def _decide(connection: Connection, order: Order, layout: Layout, report: Report) -> Report:
    """Compare with the database, and write unless something forbids it. Inside the caller's transaction."""
    kind, parameters = order.kind, layout.parameters(order.kind.columns)
    lock_imports(connection)
    kind.resolve(connection, parameters)
    connection.execute(text(_GOOD_ROWS))
    bad = connection.execute(
        text("SELECT count(*) AS problems, count(DISTINCT line) AS rows FROM import_problems")
    ).one()
    actions = connection.execute(text("SELECT action, count(*) AS rows FROM import_good GROUP BY 1"))
    counts: dict[str, int] = {row.action: row.rows for row in actions}
    report = replace(
        report,
        new=counts.get("new", 0),
        changed=counts.get("changed", 0),
        unchanged=counts.get("unchanged", 0),
        bad_rows=bad.rows,
        problem_count=bad.problems,
        sums=_sums(connection) if kind.has_amounts else (),
        notes=(*layout.notes(kind), *kind.notes(connection)),
    )
    has_work = bool(report.new or report.changed)
    if order.is_dry_run or not has_work or (bad.rows and not order.may_keep_good):
        return report
    cause = Cause(order.actor, order.now, f"import of {kind.name} from file {report.sha256[:12]}")
    kind.write(connection, parameters, cause)
    record_event(connection, _import_event(report, cause))
    return replace(report, is_written=True)


def _import_event(report: Report, cause: Cause) -> BillingEvent:
    return BillingEvent(
        type=EventType(f"{report.kind}_imported"),
        at=cause.at,
        actor=cause.actor,
        reason=cause.reason,
        data={
            "file_sha256": report.sha256,
            **{name: getattr(report, name) for name in ("rows", "new", "changed", "unchanged", "bad_rows")},
            "sums": {each.coverage: {"rows": each.rows, "amount_minor": each.amount_minor} for each in report.sums},
        },
    )


def _sums(connection: Connection) -> tuple[Sum, ...]:
    rows = connection.execute(
        text(
            "SELECT coverage, currency, count(*) AS rows, sum(amount_minor) AS amount_minor "
            "FROM import_good GROUP BY 1, 2 ORDER BY 1, 2"
        )
    )
    return tuple(Sum(row.coverage, row.currency, row.rows, int(row.amount_minor)) for row in rows)
