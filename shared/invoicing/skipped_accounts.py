"""Accounts that can't be invoiced until an operator fixes something: a finding and a billing event for each."""

import json
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from shared.invoicing.bills import DESCRIPTION, NEEDS_FIX, WITHOUT_SETTINGS, SkipReason

#: The kind of the findings; the subject is `<account id>:<period>`, so the same problem is one finding.
FINDING = "account_not_invoiced"

_DESCRIPTIONS = json.dumps({reason: DESCRIPTION[reason] for reason in NEEDS_FIX})

#: Reads a relation `skipped (account_id, reason, details)`; a finding that was resolved is opened again.
_REPORT = f"""
    , found AS (
        INSERT INTO findings (kind, coverage, subject, details, found_at)
        SELECT '{FINDING}', :coverage, t.account_id || ':' || :period,
               t.details || jsonb_build_object('account_id', t.account_id, 'reason', t.reason, 'run_id',
                   CAST(:run_id AS uuid), 'meaning', CAST(:meanings AS jsonb) ->> t.reason),
               :now
        FROM skipped t
        ON CONFLICT (kind, coverage, subject) DO UPDATE
            SET details = excluded.details, resolved_at = NULL, resolved_by = NULL, resolution = NULL
    )
    INSERT INTO billing_events (at, type, actor, reason, account_id, run_id, data)
    SELECT :now, 'invoice_not_issued', 'worker', t.reason || ': ' || (CAST(:meanings AS jsonb) ->> t.reason),
           t.account_id, :run_id,
           t.details || jsonb_build_object('period', CAST(:period AS text), 'coverage', CAST(:coverage AS text))
    FROM skipped t
"""  # noqa: S608  # our own constants


def report_skipped_accounts(connection: Connection, parameters: dict[str, Any]) -> None:
    """Report the chunk's accounts that need a fix, with the lines that cause it, ten at most."""
    connection.execute(
        text(f"""
            WITH skipped AS (
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
        {**parameters, "meanings": _DESCRIPTIONS},
    )


def report_accounts_without_settings(connection: Connection, parameters: dict[str, Any]) -> int:
    """Report accounts that owe something in a coverage without payment settings; return how many."""
    return connection.execute(
        text(f"""
            WITH skipped AS (
                SELECT account_id, 'no_payment_settings' AS reason, CAST('{{}}' AS jsonb) AS details
                FROM ({WITHOUT_SETTINGS}) without_settings
            ) {_REPORT}
        """),  # noqa: S608
        {**parameters, "meanings": _DESCRIPTIONS},
    ).rowcount


def report_refused_account(
    connection: Connection,
    parameters: dict[str, Any],
    account_id: UUID,
    sqlstate: str | None,
    constraint: str | None,
) -> None:
    """Report an account whose rows the database rejects. Codes only: the error's text holds personal data."""
    connection.execute(
        text(f"""
            WITH skipped AS (
                SELECT CAST(:account_id AS uuid) AS account_id, '{SkipReason.REFUSED_BY_DATABASE}' AS reason,
                       jsonb_build_object('sqlstate', CAST(:sqlstate AS text),
                                          'constraint', CAST(:constraint AS text)) AS details
            ) {_REPORT}
        """),
        {
            **parameters,
            "meanings": _DESCRIPTIONS,
            "account_id": account_id,
            "sqlstate": sqlstate,
            "constraint": constraint,
        },
    )


def resolve_invoiced_accounts(connection: Connection, parameters: dict[str, Any]) -> None:
    """Resolve the findings of accounts that this chunk invoiced: they were fixed meanwhile."""
    connection.execute(
        text(f"""
            UPDATE findings f
            SET resolved_at = :now, resolved_by = 'worker', resolution = 'fixed: the invoice was issued'
            FROM bills b
            WHERE f.kind = '{FINDING}' AND f.coverage = :coverage AND f.resolved_at IS NULL
              AND b.skipped IS NULL AND f.subject = b.account_id || ':' || :period
        """),  # noqa: S608
        parameters,
    )
