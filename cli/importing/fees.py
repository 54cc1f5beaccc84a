"""Fees: rated charge lines of one month.

A fee is known by its id. A file without ids gets `period:account`, which allows one fee per account and month.
What is on an issued invoice stays as it is: a correction is a new fee. A file says nothing about the columns
that it doesn't have; they stay as they are.
"""

from datetime import date, timedelta

from sqlalchemy import Connection, text

from cli.importing.cells import (
    BadCellError,
    one_of,
    read_amount,
    read_currency,
    read_day,
    read_identifier,
    read_line,
    read_period,
)
from cli.importing.kind import FileKind, Parameters
from cli.importing.layout import Column
from cli.importing.rows import Row
from shared.db.billing_events import Cause
from shared.domain.calendar import Period
from shared.policy import Policy

MAX_DESCRIPTION = 500  # characters; two lines of an invoice
#: Fees further ahead than this are accepted with a note: they may be meant, or the year may be wrong.
USUAL_MONTHS_AHEAD = 12

_STAGED = {
    "external_id": "text",
    "account": "text",
    "coverage": "text",
    "period": "date",
    "occurred_on": "date",
    "description": "text",
    "amount_minor": "bigint",
    "currency": "text",
}


def fees_file(policy: Policy, period: Period | None, today: date) -> FileKind:
    """Describe a file of fees; `period` is the month of all rows, for a file that has no such column."""

    def complete(row: Row) -> None:
        complete_coverage_and_currency(row, policy)
        complete_amount(row, "amount", "amount_minor")
        _complete_month(row, period)
        values = row.values
        values.setdefault("description", None)
        if row.has("id"):
            values["external_id"] = values["id"]
        else:
            month, account = values["period"], values["account"]
            values["external_id"] = f"{Period.of(month)}:{account}" if month and account else None

    return FileKind(
        name="fees",
        columns=_columns(policy, period),
        complete=complete,
        staged=_STAGED,
        resolve=_resolve,
        write=_write,
        notes=lambda connection, _: _notes(connection, today),
        has_amounts=True,
    )


def coverage_column(policy: Policy) -> Column:
    """The coverage of a row; a file needn't say it when billing.toml has only one."""
    only = next(iter(policy.coverages)) if len(policy.coverages) == 1 else None
    return Column(
        "coverage",
        one_of("coverage", policy.coverages, "a coverage of billing.toml"),
        is_required=True,
        default=only,
    )


def complete_coverage_and_currency(row: Row, policy: Policy) -> None:
    """Give the row its coverage's currency; a currency that the file names must be that one."""
    coverage, said = row.values["coverage"], row.values.get("currency")
    if coverage is None:
        row.values["currency"] = said  # not billable, but enough to judge an amount by
        return
    ours = policy.coverages[coverage].currency
    if said is not None and said != ours:
        row.refuse("currency", said, f"is not the currency of coverage {coverage}, which bills in {ours}")
    row.values["currency"] = ours


def complete_amount(row: Row, column: str, minor: str) -> None:
    """Turn the decimal in `column` into minor units of the row's currency, under the name `minor`."""
    written = row.values[column]
    row.values[minor] = None
    if written is not None:
        try:
            row.values[minor] = read_amount(written, row.values["currency"])
        except BadCellError as error:
            row.refuse(column, written, str(error))


def _columns(policy: Policy, period: Period | None) -> tuple[Column, ...]:
    return (
        Column("id", read_identifier, is_required=True, may_be_lacking=True),
        Column("account", read_identifier, is_required=True),
        coverage_column(policy),
        Column("amount", str, is_required=True),  # read once the currency is known
        Column("description", read_line(MAX_DESCRIPTION)),
        Column("date", read_day),
        Column(
            "period",
            read_period,
            is_required=True,
            default=str(period) if period else None,
            same_for_all="--period 2026-10",
        ),
        Column("currency", read_currency),
    )


def _complete_month(row: Row, period: Period | None) -> None:
    month: date | None = row.values["period"]
    if month is not None and period is not None and month != period.first_day:
        row.refuse("period", str(Period.of(month)), f"is not {period}, the month that --period gives")
        month = None
    day: date | None = row.values.get("date")
    row.values["occurred_on"] = day
    if day is not None and month is not None and Period.of(day) != Period.of(month):
        row.refuse("date", str(day), f"is outside the period {Period.of(month)}")


_RESOLVE = """
    CREATE TEMPORARY TABLE import_resolved ON COMMIT DROP AS
    SELECT r.line, r.account, r.external_id, r.coverage, a.id AS account_id, s.id AS settings_id, f.id AS fee_id,
           r.period, r.amount_minor, r.currency, wanted.occurred_on, wanted.description,
           first_value(r.line) OVER same AS first_line,
           CASE WHEN f.id IS NULL THEN 'new'
                WHEN (f.account_id, f.period, f.occurred_on, f.description, f.amount_minor, f.currency)
                     IS DISTINCT FROM
                     (a.id, r.period, wanted.occurred_on, wanted.description, r.amount_minor, r.currency)
                THEN 'changed' ELSE 'unchanged' END AS action
    FROM import_rows r
    LEFT JOIN accounts a ON a.external_id = r.account
    LEFT JOIN payment_settings s ON s.account_id = a.id AND s.coverage = r.coverage
    LEFT JOIN fees f ON f.coverage = r.coverage AND f.external_id = r.external_id
    CROSS JOIN LATERAL (
        SELECT CASE WHEN :has_date THEN r.occurred_on WHEN f.period = r.period THEN f.occurred_on END
               AS occurred_on,
               coalesce(CASE WHEN :has_description THEN r.description ELSE f.description END, 'Charges')
               AS description
    ) AS wanted
    WINDOW same AS (PARTITION BY r.coverage, r.external_id ORDER BY r.line)
"""

#: For files whose rows name an account and a coverage that must exist.
UNKNOWN_ACCOUNTS = """
    INSERT INTO import_problems (line, column_name, value, reason)
    SELECT r.line, :named_account, r.account,
           CASE WHEN r.account_id IS NULL THEN 'is an account that we don''t have'
                ELSE 'is an account without payment settings in coverage ' || r.coverage END
           || '; bring it in first with duecourse import accounts'
    FROM import_resolved r
    WHERE r.account IS NOT NULL AND (r.account_id IS NULL OR (r.settings_id IS NULL AND r.coverage IS NOT NULL))
"""

_DUPLICATES = """
    INSERT INTO import_problems (line, column_name, value, reason)
    SELECT r.line, CASE WHEN :has_id THEN :named_id ELSE :named_account END,
           CASE WHEN :has_id THEN r.external_id ELSE r.account END,
           CASE WHEN :has_id THEN 'is a duplicate id: line ' || r.first_line || ' has it already'
                ELSE 'is a duplicate: line ' || r.first_line || ' is this account''s fee of the month already; for '
                     || 'more than one give the rows ids of their own, in a column id' END
    FROM import_resolved r
    WHERE r.external_id IS NOT NULL AND r.coverage IS NOT NULL AND r.line > r.first_line
"""

#: Month start sets fees.invoice_id under this same lock, in this same order.
_LOCK = """
    SELECT count(*) FROM (
        SELECT FROM fees f JOIN import_resolved r ON r.fee_id = f.id
        WHERE r.action = 'changed' ORDER BY f.id FOR UPDATE OF f
    ) AS locked
"""

_INVOICED = """
    INSERT INTO import_problems (line, column_name, value, reason)
    SELECT r.line, CASE WHEN :has_id THEN :named_id ELSE :named_account END,
           CASE WHEN :has_id THEN r.external_id ELSE r.account END,
           CASE WHEN f.invoice_id IS NULL THEN 'is the id of an amount that we carried forward; take another'
                ELSE 'is already on invoice ' || coalesce(i.number, '?') || ', with another '
                     || concat_ws(' and ',
                            CASE WHEN f.amount_minor <> r.amount_minor THEN 'amount' END,
                            CASE WHEN f.account_id <> r.account_id THEN 'account' END,
                            CASE WHEN f.period <> r.period THEN 'period' END,
                            CASE WHEN f.occurred_on IS DISTINCT FROM r.occurred_on THEN 'date' END,
                            CASE WHEN f.description <> r.description THEN 'description' END,
                            CASE WHEN f.currency <> r.currency THEN 'currency' END)
                     || '; what is issued stays, so give the difference as a new fee with an id of its own' END
    FROM import_resolved r
    JOIN fees f ON f.id = r.fee_id
    LEFT JOIN invoices i ON i.id = f.invoice_id
    WHERE r.action = 'changed' AND (f.invoice_id IS NOT NULL OR f.carried_from_payment_id IS NOT NULL)
      AND r.account_id IS NOT NULL AND r.amount_minor IS NOT NULL AND r.period IS NOT NULL
"""

_INSERT = """
    INSERT INTO fees (account_id, coverage, external_id, period, occurred_on, description, amount_minor, currency)
    SELECT account_id, coverage, external_id, period, occurred_on, description, amount_minor, currency
    FROM import_good WHERE action = 'new'
"""

_UPDATE = """
    UPDATE fees f
    SET account_id = r.account_id, period = r.period, occurred_on = r.occurred_on, description = r.description,
        amount_minor = r.amount_minor, currency = r.currency
    FROM import_good r
    WHERE f.id = r.fee_id AND r.action = 'changed' AND f.invoice_id IS NULL
"""


def _resolve(connection: Connection, parameters: Parameters) -> None:
    for statement in (_RESOLVE, UNKNOWN_ACCOUNTS, _DUPLICATES, _LOCK, _INVOICED):
        connection.execute(text(statement), parameters)


def _write(connection: Connection, _: Parameters, __: Cause) -> None:
    connection.execute(text(_INSERT))
    connection.execute(text(_UPDATE))


def _notes(connection: Connection, today: date) -> list[str]:
    far = today + timedelta(days=31 * USUAL_MONTHS_AHEAD)
    row = connection.execute(
        text("SELECT count(*) AS fees, max(period) AS last FROM import_good WHERE period > :far"),
        {"far": far},
    ).one()
    if not row.fees:
        return []
    return [f"{row.fees:,} fees are of months up to {Period.of(row.last)} and wait until then; is the year right?"]
