"""The report of an import: sentences, or JSON for a script."""

from typing import Any

from cli.importing.cells import shown
from cli.importing.importer import Report
from cli.importing.rows import Problem
from shared.domain.money import format_minor


def as_lines(report: Report, file: str) -> list[str]:
    """The report as lines of text for a terminal."""
    counts = f"new {report.new:,} · changed {report.changed:,} · unchanged {report.unchanged:,}"
    name = "standard input" if file == "-" else shown(file, 300)
    lines = [_problem(each) for each in report.problems]
    if report.problem_count > len(report.problems):
        lines.append(f"… and {report.problem_count - len(report.problems):,} more")
    if lines:
        lines.append("")
    lines.append(f"{report.kind} of {name}: {_rows(report.rows)} · {counts} · bad {report.bad_rows:,}")
    for each in report.sums:
        amount = format_minor(each.amount_minor, each.currency)
        lines.append(f"{each.coverage}: {each.rows:,} good {report.kind}, {amount}")
    lines += [f"Note: {note}." for note in report.notes]
    if report.rejects is not None:
        lines.append(f"All bad rows, with reasons: {shown(str(report.rejects), 300)}")
    if report.rejects_trouble is not None:
        lines.append(f"The rejects file is missing: {report.rejects_trouble}")
    lines.append(_ending(report))
    return lines


def as_json(report: Report) -> dict[str, Any]:
    """The report as data; amounts in minor units."""
    plain = ("kind", "rows", "new", "changed", "unchanged", "bad_rows", "problem_count", "is_written", "is_dry_run")
    return {
        **{name: getattr(report, name) for name in plain},
        "file_sha256": report.sha256,
        "sums": {
            each.coverage: {"currency": each.currency, "rows": each.rows, "amount_minor": each.amount_minor}
            for each in report.sums
        },
        "problems": [
            {"line": each.line, "column": each.column, "value": each.value, "reason": each.reason}
            for each in report.problems
        ],
        "notes": list(report.notes),
        "rejects": None if report.rejects is None else str(report.rejects),
        "rejects_trouble": report.rejects_trouble,
    }


def exit_code(report: Report) -> int:
    """0 if the file is in, or would be; with --keep-good if anything good is in. 1 if bad rows kept it out."""
    if report.bad_rows == 0:
        return 0
    good = report.new + report.changed + report.unchanged
    return 0 if report.may_keep_good and good and report.rejects is not None else 1


def _problem(problem: Problem) -> str:
    where = f"line {problem.line:,}" + (f", {shown(problem.column)}" if problem.column else "")
    return f"{where}: '{shown(problem.value)}' {problem.reason}"


def _ending(report: Report) -> str:
    good = report.new + report.changed
    if report.is_dry_run:
        return "Nothing was written: this was a dry run."
    if report.is_written:
        left = f"; {_rows(report.bad_rows)} with errors left out" if report.bad_rows else ""
        return f"Written: {_rows(good)}{left}."
    if report.bad_rows == 0 or report.may_keep_good:
        return "Nothing was written: there is nothing new."
    others = report.rows - report.bad_rows
    hint = f", or add --keep-good to bring in the other {others:,}" if others else ""
    return f"Nothing was written: {_rows(report.bad_rows)} can't be used. Fix them and run the command again{hint}."


def _rows(count: int) -> str:
    return f"{count:,} row" + ("" if count == 1 else "s")
