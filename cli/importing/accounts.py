"""Accounts and how they pay: one row is one account in one coverage.

Name and e-mail belong to the account; all else to its payment settings in that coverage. All of it may change at
any time, because an issued invoice has its own snapshot. Two exceptions: a Stripe customer stays once cards are
registered with it (they would be out of reach), and an empty cell takes neither a name nor a Stripe customer away.
A file says nothing about the columns that it doesn't have; they stay as they are.
"""

from typing import Annotated, Any

from sqlalchemy import Connection, text

from cli.importing.cells import (
    Address,
    Country,
    Coverage,
    Email,
    Identifier,
    Language,
    Name,
    RowContext,
    StripeCustomer,
    TaxId,
    one_of,
)
from cli.importing.kind import FileKind, ImportRow, Parameters, only_coverage
from shared.db.billing_events import Cause
from shared.domain.states import SettingsKind
from shared.policy import Policy


class AccountRow(ImportRow):
    account: Identifier
    coverage: Coverage
    payment_method: Annotated[SettingsKind, one_of(tuple(SettingsKind), "a payment method")]
    name: Name | None = None
    email: Email | None = None
    language: Language | None = None
    stripe_customer: StripeCustomer | None = None
    billing_name: Name | None = None
    address: Address | None = None
    country: Country | None = None
    tax_id: TaxId | None = None


def accounts_file(policy: Policy) -> FileKind:
    """Describe a file of accounts."""
    return FileKind("accounts", AccountRow, RowContext(policy), _resolve, _write, defaults=only_coverage(policy))


_DUPLICATES = """
    INSERT INTO import_problems (line, column_name, value, reason)
    SELECT line, :named_account, account,
           'is a duplicate: line ' || first_line || ' has this account in coverage ' || coverage || ' already'
    FROM (
        SELECT line, account, coverage, first_value(line) OVER same AS first_line
        FROM import_rows WHERE account IS NOT NULL AND coverage IS NOT NULL
        WINDOW same AS (PARTITION BY account, coverage ORDER BY line)
    ) AS numbered
    WHERE line > first_line
"""

#: An account has one name and one e-mail, in however many coverages it is.
_CONTRADICTIONS = """
    INSERT INTO import_problems (line, column_name, value, reason)
    SELECT line, named, value,
           'is another ' || what || ' than on line ' || first_line || ' for the same account; an account has one'
    FROM (
        SELECT r.line, said.named, said.what, said.value,
               first_value(r.line) OVER same AS first_line, first_value(said.value) OVER same AS first_value
        FROM import_rows r
        CROSS JOIN LATERAL (VALUES
            (:named_name, 'name', r.name), (:named_email, 'e-mail', r.email)
        ) AS said (named, what, value)
        WHERE r.account IS NOT NULL AND said.value IS NOT NULL
        WINDOW same AS (PARTITION BY r.account, said.what ORDER BY r.line)
    ) AS compared
    WHERE value <> first_value
    ORDER BY line, what DESC
"""

_SHARED_CUSTOMERS = """
    INSERT INTO import_problems (line, column_name, value, reason)
    SELECT line, :named_stripe_customer, stripe_customer,
           'is the Stripe customer of the account on line ' || first_line || ' already'
    FROM (
        SELECT line, account, stripe_customer, first_value(line) OVER same AS first_line,
               first_value(account) OVER same AS first_account
        FROM import_rows WHERE stripe_customer IS NOT NULL AND coverage IS NOT NULL
        WINDOW same AS (PARTITION BY coverage, stripe_customer ORDER BY line)
    ) AS numbered
    WHERE account <> first_account
    UNION ALL
    SELECT r.line, :named_stripe_customer, r.stripe_customer,
           'is the Stripe customer of account ' || a.external_id || ' already'
    FROM import_rows r
    JOIN payment_settings s ON s.coverage = r.coverage AND s.stripe_customer_id = r.stripe_customer
    JOIN accounts a ON a.id = s.account_id
    WHERE a.external_id <> r.account
"""

#: What each account shall be, from the good rows only. max() picks the one that isn't empty.
_WANTED_ACCOUNTS = """
    CREATE TEMPORARY TABLE import_accounts ON COMMIT DROP AS
    SELECT r.account AS external_id, a.id, a.name AS old_name, a.email AS old_email,
           coalesce(max(r.name), a.name, r.account) AS name,
           CASE WHEN :has_email THEN max(r.email) ELSE a.email END AS email
    FROM import_rows r LEFT JOIN accounts a ON a.external_id = r.account
    WHERE r.account IS NOT NULL AND NOT EXISTS (SELECT FROM import_problems p WHERE p.line = r.line)
    GROUP BY r.account, a.id, a.name, a.email
"""

#: Billing details hold what differs from the account: an invoice shows the account's name and e-mail otherwise.
_RESOLVE = """
    CREATE TEMPORARY TABLE import_resolved ON COMMIT DROP AS
    SELECT r.line, r.account, r.coverage, a.id AS account_id, s.id AS settings_id, r.payment_method AS kind,
           wanted.stripe_customer_id, wanted.language, wanted.billing_details,
           CASE WHEN s.id IS NULL THEN 'new'
                WHEN (s.kind, s.stripe_customer_id, s.language, s.billing_details, a.old_name, a.old_email)
                     IS DISTINCT FROM
                     (r.payment_method, wanted.stripe_customer_id, wanted.language, wanted.billing_details,
                      a.name, a.email)
                THEN 'changed' ELSE 'unchanged' END AS action
    FROM import_rows r
    JOIN import_accounts a ON a.external_id = r.account
    LEFT JOIN payment_settings s ON s.account_id = a.id AND s.coverage = r.coverage
    CROSS JOIN LATERAL (SELECT coalesce(s.billing_details, CAST('{}' AS jsonb)) AS details) AS old
    CROSS JOIN LATERAL (
        SELECT coalesce(r.stripe_customer, s.stripe_customer_id) AS stripe_customer_id,
               CASE WHEN :has_language THEN r.language ELSE s.language END AS language,
               jsonb_strip_nulls(old.details || jsonb_build_object(
                   'name', CASE WHEN :has_billing_name THEN r.billing_name ELSE old.details ->> 'name' END,
                   'address', CASE WHEN :has_address THEN r.address ELSE old.details ->> 'address' END,
                   'country', CASE WHEN :has_country THEN r.country ELSE old.details ->> 'country' END,
                   'tax_id', CASE WHEN :has_tax_id THEN r.tax_id ELSE old.details ->> 'tax_id' END
               )) AS billing_details
    ) AS wanted
    WHERE r.coverage IS NOT NULL AND NOT EXISTS (SELECT FROM import_problems p WHERE p.line = r.line)
"""

#: In the order of I4: accounts first, then their settings; month start orders its locks alike.
_LOCK_ACCOUNTS = """
    SELECT count(*) FROM (
        SELECT FROM accounts a
        WHERE a.id IN (SELECT account_id FROM import_resolved WHERE action = 'changed')
        ORDER BY a.id FOR NO KEY UPDATE OF a
    ) AS locked
"""
_LOCK_SETTINGS = """
    SELECT count(*) FROM (
        SELECT FROM payment_settings s
        WHERE s.id IN (SELECT settings_id FROM import_resolved WHERE action = 'changed')
        ORDER BY s.account_id, s.coverage FOR NO KEY UPDATE OF s
    ) AS locked
"""

#: Under the lock, since a card may be registered at any moment.
_CUSTOMERS_WITH_CARDS = """
    INSERT INTO import_problems (line, column_name, value, reason)
    SELECT r.line, :named_stripe_customer, r.stripe_customer_id,
           'is another Stripe customer than ' || s.stripe_customer_id || ', with which cards are registered'
    FROM import_resolved r
    JOIN payment_settings s ON s.id = r.settings_id
    WHERE r.action = 'changed' AND r.stripe_customer_id <> s.stripe_customer_id
      AND EXISTS (SELECT FROM cards c WHERE c.settings_id = s.id)
"""

_WRITE_ACCOUNTS = """
    UPDATE accounts a SET name = w.name, email = w.email
    FROM import_accounts w
    WHERE a.id = w.id AND (a.name, a.email) IS DISTINCT FROM (w.name, w.email)
      AND EXISTS (SELECT FROM import_good r WHERE r.account_id = a.id)
"""
_ADD_ACCOUNTS = """
    INSERT INTO accounts (external_id, name, email)
    SELECT external_id, name, email FROM import_accounts WHERE id IS NULL
"""
_WRITE_SETTINGS = """
    UPDATE payment_settings s
    SET kind = r.kind, stripe_customer_id = r.stripe_customer_id, language = r.language,
        billing_details = r.billing_details
    FROM import_good r
    WHERE s.id = r.settings_id AND r.action = 'changed'
"""
_ADD_SETTINGS = """
    INSERT INTO payment_settings (account_id, coverage, kind, stripe_customer_id, language, billing_details)
    SELECT a.id, r.coverage, r.kind, r.stripe_customer_id, r.language, r.billing_details
    FROM import_good r JOIN accounts a ON a.external_id = r.account
    WHERE r.action = 'new'
"""

#: The payment method decides whether a card is charged: each account's change gets a billing event (I10).
_TELL_CHANGES = """
    INSERT INTO billing_events (at, type, actor, reason, account_id, before, after, data)
    SELECT :at, 'payment_settings_changed', :actor, :reason, r.account_id,
           jsonb_build_object('kind', s.kind, 'stripe_customer_id', s.stripe_customer_id),
           jsonb_build_object('kind', r.kind, 'stripe_customer_id', r.stripe_customer_id),
           jsonb_build_object('coverage', r.coverage)
    FROM import_good r
    JOIN payment_settings s ON s.id = r.settings_id
    WHERE r.action = 'changed'
      AND (r.kind, r.stripe_customer_id) IS DISTINCT FROM (s.kind, s.stripe_customer_id)
    ORDER BY r.line
"""


def _resolve(connection: Connection, parameters: Parameters) -> None:
    steps = (
        *(_DUPLICATES, _CONTRADICTIONS, _SHARED_CUSTOMERS),
        *(_WANTED_ACCOUNTS, _RESOLVE),
        *(_LOCK_ACCOUNTS, _LOCK_SETTINGS, _CUSTOMERS_WITH_CARDS),
    )
    for statement in steps:
        connection.execute(text(statement), parameters)


def _write(connection: Connection, _: Parameters, cause: Cause) -> None:
    told: dict[str, Any] = {"at": cause.at, "actor": cause.actor, "reason": cause.reason}
    for statement in (_TELL_CHANGES, _WRITE_ACCOUNTS, _WRITE_SETTINGS, _ADD_ACCOUNTS, _ADD_SETTINGS):
        connection.execute(text(statement), told)
