"""Services: things with a daily or monthly price that start and end.

An issued invoice keeps its own copy of what it charged, so nothing here can alter it. But it must stay explainable
from the service that it names, and no day may be charged twice or not at all. So, once a service is on an invoice
that isn't void:

- price, pricing, starts_on and account stay. A new price is a new service: end this one, start another.
- ends_on may move only from and to days on or after the end of the last month invoiced (no end counts as later).
- description and protected may change; the next invoice shows it.

Month start holds a lock on the payment settings of the accounts it bills. The same lock is taken here before the
invoices are looked at, so that both can't miss each other.
"""

from datetime import date
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
    RowContext,
    Switch,
    one_of,
)
from cli.importing.fees import UNKNOWN_ACCOUNTS
from cli.importing.kind import FileKind, ImportRow, Parameters, only_coverage
from shared.db.billing_events import Cause
from shared.domain.proration import Pricing
from shared.policy import Policy


def _not_before_start(ends_on: date, info: ValidationInfo) -> date:
    starts_on = info.data.get("starts_on")
    if starts_on is not None and ends_on < starts_on:
        raise ValueError(f"is before the start, {starts_on}")
    return ends_on


class ServiceRow(ImportRow):
    id: Identifier
    account: Identifier
    coverage: Coverage
    description: Description
    pricing: Annotated[Pricing, one_of(tuple(Pricing), "a pricing")]
    starts_on: Day
    protected: Switch | None = None
    currency: CoverageCurrency = None
    price: MinorUnits
    ends_on: Annotated[Day, AfterValidator(_not_before_start)] | None = None


def services_file(policy: Policy) -> FileKind:
    """Describe a file of services."""
    return FileKind(
        "services",
        ServiceRow,
        RowContext(policy),
        _resolve,
        _write,
        notes=_notes,
        defaults=only_coverage(policy),
        as_written=("price",),
    )


_RESOLVE = """
    CREATE TEMPORARY TABLE import_resolved ON COMMIT DROP AS
    SELECT r.line, r.account, r.id AS external_id, r.coverage, a.id AS account_id, s.id AS settings_id,
           v.id AS service_id, r.description, r.pricing, r.written_price AS price, r.price AS price_minor,
           r.currency, r.starts_on, wanted.ends_on, wanted.is_protected,
           first_value(r.line) OVER same AS first_line,
           CASE WHEN v.id IS NULL THEN 'new'
                WHEN (v.account_id, v.description, v.pricing, v.price_minor, v.currency, v.starts_on, v.ends_on,
                      v.is_protected)
                     IS DISTINCT FROM
                     (a.id, r.description, r.pricing, r.price, r.currency, r.starts_on, wanted.ends_on,
                      wanted.is_protected)
                THEN 'changed' ELSE 'unchanged' END AS action
    FROM import_rows r
    LEFT JOIN accounts a ON a.external_id = r.account
    LEFT JOIN payment_settings s ON s.account_id = a.id AND s.coverage = r.coverage
    LEFT JOIN services v ON v.coverage = r.coverage AND v.external_id = r.id
    CROSS JOIN LATERAL (
        SELECT CASE WHEN :has_ends_on THEN r.ends_on ELSE v.ends_on END AS ends_on,
               coalesce(CASE WHEN :has_protected THEN r.protected ELSE v.is_protected END, false) AS is_protected
    ) AS wanted
    WINDOW same AS (PARTITION BY r.coverage, r.id ORDER BY r.line)
"""

_DUPLICATES = """
    INSERT INTO import_problems (line, column_name, value, reason)
    SELECT r.line, :named_id, r.external_id, 'is a duplicate id: line ' || r.first_line || ' has it already'
    FROM import_resolved r
    WHERE r.external_id IS NOT NULL AND r.coverage IS NOT NULL AND r.line > r.first_line
"""

#: A file without ends keeps the known ones, which a new start may pass.
_ENDS_BEFORE_START = """
    INSERT INTO import_problems (line, column_name, value, reason)
    SELECT r.line, :named_starts_on, CAST(r.starts_on AS text), 'is after the end that we know, ' || r.ends_on
    FROM import_resolved r WHERE NOT :has_ends_on AND r.ends_on < r.starts_on
"""

#: Before the change and after it: a service may move to another account.
_LOCK_SETTINGS = """
    SELECT count(*) FROM (
        SELECT FROM payment_settings s
        WHERE (s.account_id, s.coverage) IN (
            SELECT r.account_id, r.coverage FROM import_resolved r WHERE r.action <> 'unchanged'
            UNION ALL
            SELECT v.account_id, v.coverage FROM import_resolved r JOIN services v ON v.id = r.service_id
            WHERE r.action = 'changed'
        )
        ORDER BY s.account_id, s.coverage FOR NO KEY UPDATE OF s
    ) AS locked
"""

#: What is invoiced, of the services that would change. By account, because lines have no index on the service.
_INVOICED = """
    CREATE TEMPORARY TABLE import_invoiced ON COMMIT DROP AS
    SELECT DISTINCT ON (r.line) r.line, v.account_id, v.price_minor, v.pricing, v.starts_on, v.ends_on, i.number,
           CAST(i.period + interval '1 month' - interval '1 day' AS date) AS last_day
    FROM import_resolved r
    JOIN services v ON v.id = r.service_id
    JOIN invoices i ON i.account_id = v.account_id AND i.coverage = v.coverage AND i.voided_at IS NULL
    JOIN invoice_lines l ON l.invoice_id = i.id AND l.service_id = v.id
    WHERE r.action = 'changed'
    ORDER BY r.line, i.period DESC
"""

_FROZEN = """
    INSERT INTO import_problems (line, column_name, value, reason)
    SELECT r.line, c.named, c.value, c.verb || ' what invoice ' || n.number || ' was computed from; ' || c.advice
    FROM import_resolved r
    JOIN import_invoiced n ON n.line = r.line
    CROSS JOIN LATERAL (VALUES
        (1, :named_price, r.price, 'differs from', 'end this service and give the new price a new id',
         n.price_minor <> r.price_minor),
        (2, :named_pricing, r.pricing, 'differs from', 'end this service and give the new pricing a new id',
         n.pricing <> r.pricing),
        (3, :named_starts_on, CAST(r.starts_on AS text), 'differs from', 'bill other days as a fee',
         n.starts_on <> r.starts_on),
        (4, :named_account, r.account, 'differs from', 'end this service; the other account gets one with a new id',
         n.account_id <> r.account_id),
        (5, :named_ends_on, coalesce(CAST(r.ends_on AS text), ''), 'would alter',
         CASE WHEN n.ends_on < n.last_day THEN 'a service that starts again gets a new id'
              ELSE 'the end may be ' || n.last_day || ' or later' END,
         n.ends_on IS DISTINCT FROM r.ends_on
         AND least(coalesce(n.ends_on, 'infinity'), coalesce(r.ends_on, 'infinity')) < n.last_day)
    ) AS c (place, named, value, verb, advice, is_altered)
    WHERE c.is_altered
    ORDER BY r.line, c.place
"""

_INSERT = """
    INSERT INTO services (account_id, coverage, external_id, description, pricing, price_minor, currency, starts_on,
                          ends_on, is_protected)
    SELECT account_id, coverage, external_id, description, pricing, price_minor, currency, starts_on, ends_on,
           is_protected
    FROM import_good WHERE action = 'new'
"""

_UPDATE = """
    UPDATE services v
    SET account_id = r.account_id, description = r.description, pricing = r.pricing, price_minor = r.price_minor,
        currency = r.currency, starts_on = r.starts_on, ends_on = r.ends_on, is_protected = r.is_protected
    FROM import_good r
    WHERE v.id = r.service_id AND r.action = 'changed'
"""

#: A month start bills its own month only. A service that comes in later has missed the months before.
_MISSED = """
    SELECT count(*) AS services, min(r.external_id) AS example
    FROM import_good r
    WHERE r.action = 'new' AND EXISTS (
        SELECT FROM invoices i
        WHERE i.account_id = r.account_id AND i.coverage = r.coverage AND i.voided_at IS NULL
          AND i.corrects_invoice_id IS NULL AND r.starts_on < i.period + interval '1 month'
          AND (r.ends_on IS NULL OR r.ends_on >= i.period)
    )
"""


def _resolve(connection: Connection, parameters: Parameters) -> None:
    steps = (_RESOLVE, UNKNOWN_ACCOUNTS, _DUPLICATES, _ENDS_BEFORE_START, _LOCK_SETTINGS, _INVOICED, _FROZEN)
    for statement in steps:
        connection.execute(text(statement), parameters)


def _write(connection: Connection, _: Parameters, __: Cause) -> None:
    connection.execute(text(_INSERT))
    connection.execute(text(_UPDATE))


def _notes(connection: Connection) -> list[str]:
    row = connection.execute(text(_MISSED)).one()
    if not row.services:
        return []
    what = (
        f"{row.services:,} services ({row.example}, …) start in months that are already invoiced for their account"
    )
    return [f"{what}; they are billed from the next invoice on. Give fees for the days before, if those are owed"]
