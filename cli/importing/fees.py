"""Fees: rated charge lines of one month.

A fee is known by its id. A file without ids gets `period:account`, which allows one fee per account and month.
What is on an issued invoice stays as it is: a correction is a new fee. A file says nothing about the columns
that it doesn't have; they stay as they are.
"""

from datetime import date, timedelta
from typing import Annotated

from pydantic import AfterValidator, ValidationInfo
from sqlalchemy import Connection, text

from cli.importing.cells import (
    Coverage,
    CoverageCurrency,
    Day,
    Description,
    Identifier,
    MinorUnits,
    Month,
    RowContext,
)
from cli.importing.kind import FileKind, ImportRow, Parameters, only_coverage
from shared.db.billing_events import Cause
from shared.domain.calendar import Period
from shared.policy import Policy

#: Fees further ahead than this are accepted with a note: they may be meant, or the year may be wrong.
USUAL_MONTHS_AHEAD = 12


def _expected_month(month: date, info: ValidationInfo[RowContext]) -> date:
    expected = info.context.period
    if expected is not None and month != expected.first_day:
        raise ValueError(f"is not {expected}, the month that --period gives")
    return month


def _day_of_month(day: date, info: ValidationInfo[RowContext]) -> date:
    month = info.data.get("period")
    if month is not None and Period.of(day) != Period.of(month):
        raise ValueError(f"is outside the period {Period.of(month)}")
    return day


class FeeRow(ImportRow):
    id: Identifier | None = None
    account: Identifier
    coverage: Coverage
    description: Description | None = None
    period: Annotated[Month, AfterValidator(_expected_month)]
    date: Annotated[Day, AfterValidator(_day_of_month)] | None = None
    currency: CoverageCurrency = None
    amount: MinorUnits


def fees_file(policy: Policy, period: Period | None, today: date, *, may_move: bool = False) -> FileKind:
    """Describe a file of fees; `period` is the month of all rows, for a file that has no such column.

    Unless it `may_move` them, fees that are known in another month are refused.
    """
    return FileKind(
        "fees",
        FeeRow,
        RowContext(policy, period),
        lambda connection, parameters: _resolve(connection, {**parameters, "may_move": may_move}),
        _write,
        notes=lambda connection: _notes(connection, today),
        defaults=only_coverage(policy) | ({"period": str(period)} if period else {}),
        has_amounts=True,
    )


_RESOLVE = """
    CREATE TEMPORARY TABLE import_resolved ON COMMIT DROP AS
    SELECT r.line, r.account, known.external_id, r.coverage, a.id AS account_id, s.id AS settings_id,
           f.id AS fee_id, r.period, r.amount AS amount_minor, r.currency, wanted.occurred_on, wanted.description,
           first_value(r.line) OVER same AS first_line,
           CASE WHEN f.id IS NULL THEN 'new'
                WHEN (f.account_id, f.period, f.occurred_on, f.description, f.amount_minor, f.currency)
                     IS DISTINCT FROM
                     (a.id, r.period, wanted.occurred_on, wanted.description, r.amount, r.currency)
                THEN 'changed' ELSE 'unchanged' END AS action
    FROM import_rows r
    LEFT JOIN accounts a ON a.external_id = r.account
    LEFT JOIN payment_settings s ON s.account_id = a.id AND s.coverage = r.coverage
    CROSS JOIN LATERAL (
        SELECT CASE WHEN :has_id THEN r.id ELSE to_char(r.period, 'YYYY-MM') || ':' || r.account END AS external_id
    ) AS known
    LEFT JOIN fees f ON f.coverage = r.coverage AND f.external_id = known.external_id
    CROSS JOIN LATERAL (
        SELECT CASE WHEN :has_date THEN r.date WHEN f.period = r.period THEN f.occurred_on END
               AS occurred_on,
               coalesce(CASE WHEN :has_description THEN r.description ELSE f.description END, 'Charges')
               AS description
    ) AS wanted
    WINDOW same AS (PARTITION BY r.coverage, known.external_id ORDER BY r.line)
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

#: The same file with another --period: whole months of fees would change their month without a word.
_MOVED = """
    INSERT INTO import_problems (line, column_name, value, reason)
    SELECT r.line, :named_period, to_char(r.period, 'YYYY-MM'),
           'would move this fee from ' || to_char(f.period, 'YYYY-MM')
           || ', where it waits for its invoice; if that is meant, add --move-period'
    FROM import_resolved r JOIN fees f ON f.id = r.fee_id
    WHERE NOT :may_move AND f.invoice_id IS NULL AND f.carried_from_payment_id IS NULL AND f.period <> r.period
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
    for statement in (_RESOLVE, UNKNOWN_ACCOUNTS, _DUPLICATES, _LOCK, _INVOICED, _MOVED):
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
