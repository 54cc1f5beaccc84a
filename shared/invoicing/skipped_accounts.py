"""Accounts that can't be invoiced until a person mends something: a finding each, and a row of the trail."""

import json
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from shared.invoicing.bills import MEANING, TROUBLE, WITHOUT_SETTINGS, SkipReason

#: The kind of the findings; the subject is `<account id>:<period>`, so that the same trouble is found once.
FINDING = "account_not_invoiced"

_MEANINGS = json.dumps({reason: MEANING[reason] for reason in TROUBLE})

#: Reads a relation `troubled (account_id, reason, details)`; a finding that had been resolved is open again.
_REPORT = f"""
    , found AS (
        INSERT INTO findings (kind, coverage, subject, details, found_at)
        SELECT '{FINDING}', :coverage, t.account_id || ':' || :period,
               t.details || jsonb_build_object('account_id', t.account_id, 'reason', t.reason, 'run_id',
                   CAST(:run_id AS uuid), 'meaning', CAST(:meanings AS jsonb) ->> t.reason),
               :now
        FROM troubled t
        ON CONFLICT (kind, coverage, subject) DO UPDATE
            SET details = excluded.details, resolved_at = NULL, resolved_by = NULL, resolution = NULL
    )
    INSERT INTO billing_events (at, type, actor, reason, account_id, run_id, data)
    SELECT :now, 'invoice_not_issued', 'worker', t.reason || ': ' || (CAST(:meanings AS jsonb) ->> t.reason),
           t.account_id, :run_id,
           t.details || jsonb_build_object('period', CAST(:period AS text), 'coverage', CAST(:coverage AS text))
    FROM troubled t
"""  # noqa: S608  # our own constants


def report_troubled_accounts(connection: Connection, parameters: dict[str, Any]) -> None:
    """Report those of the chunk's accounts that are in trouble, with the lines that are to blame, ten at most."""
    connection.execute(
        text(f"""
            WITH troubled AS (
                SELECT b.account_id, b.skipped AS reason, jsonb_build_object('lines', (
                    SELECT jsonb_agg(worst.external_id)
                    FROM (
                        SELECT l.external_id FROM lines l
                        WHERE l.account_id = b.account_id
                        ORDER BY l.currency <> :currency DESC, l.amount_minor DESC, l.external_id LIMIT 10
                    ) worst
                )) AS details
                FROM bills b WHERE b.skipped IN ('currency_mismatch', 'amount_too_large')
            ) {_REPORT}
        """),  # noqa: S608
        {**parameters, "meanings": _MEANINGS},
    )


def report_accounts_without_settings(connection: Connection, parameters: dict[str, Any]) -> int:
    """Report the accounts that owe in a coverage in which they have no payment settings; return how many."""
    return connection.execute(
        text(f"""
            WITH troubled AS (
                SELECT account_id, 'no_payment_settings' AS reason, CAST('{{}}' AS jsonb) AS details
                FROM ({WITHOUT_SETTINGS}) without_settings
            ) {_REPORT}
        """),  # noqa: S608
        {**parameters, "meanings": _MEANINGS},
    ).rowcount


def report_refused_account(
    connection: Connection,
    parameters: dict[str, Any],
    account_id: UUID,
    sqlstate: str | None,
    constraint: str | None,
) -> None:
    """Report an account whose rows the database refuses. Codes only: the error's text holds personal data."""
    connection.execute(
        text(f"""
            WITH troubled AS (
                SELECT CAST(:account_id AS uuid) AS account_id, '{SkipReason.REFUSED_BY_DATABASE}' AS reason,
                       jsonb_build_object('sqlstate', CAST(:sqlstate AS text),
                                          'constraint', CAST(:constraint AS text)) AS details
            ) {_REPORT}
        """),
        {
            **parameters,
            "meanings": _MEANINGS,
            "account_id": account_id,
            "sqlstate": sqlstate,
            "constraint": constraint,
        },
    )


def resolve_mended_accounts(connection: Connection, parameters: dict[str, Any]) -> None:
    """Close the findings of accounts that this chunk did invoice: somebody mended them since."""
    connection.execute(
        text(f"""
            UPDATE findings f
            SET resolved_at = :now, resolved_by = 'worker', resolution = 'mended: the invoice was issued'
            FROM bills b
            WHERE f.kind = '{FINDING}' AND f.coverage = :coverage AND f.resolved_at IS NULL
              AND b.skipped IS NULL AND f.subject = b.account_id || ':' || :period
        """),  # noqa: S608
        parameters,
    )
