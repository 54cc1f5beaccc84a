"""What to bill: three SELECTs that the preview reads as CTEs and the real run stores in temporary tables.

Each refers to the one before by name (`candidates`, `lines`), so that preview and run can't drift apart. They are
text because they are read far more often as SQL than composed. The real run adds the locks.

Amounts are computed as `numeric`: one account whose sum doesn't fit into 64 bits is then a skipped account and
not an error that stops everybody behind it.
"""

from enum import StrEnum


class SkipReason(StrEnum):
    """Why an account gets no invoice this month. Its fees stay uninvoiced and the next run finds them again."""

    ALREADY_INVOICED = "already_invoiced"
    TRIAL = "trial"
    NOTHING_TO_BILL = "nothing_to_bill"
    BELOW_MINIMUM = "below_minimum"
    CURRENCY_MISMATCH = "currency_mismatch"
    AMOUNT_TOO_LARGE = "amount_too_large"
    NO_PAYMENT_SETTINGS = "no_payment_settings"
    REFUSED_BY_DATABASE = "refused_by_database"


#: Reasons that an operator must fix; each becomes a finding and a billing event.
NEEDS_FIX = (
    SkipReason.CURRENCY_MISMATCH,
    SkipReason.AMOUNT_TOO_LARGE,
    SkipReason.NO_PAYMENT_SETTINGS,
    SkipReason.REFUSED_BY_DATABASE,
)

#: Descriptions, for tables and findings.
DESCRIPTION: dict[SkipReason, str] = {
    SkipReason.ALREADY_INVOICED: "already has its invoice of this period",
    SkipReason.TRIAL: "is on trial; its fees wait until the trial ends",
    SkipReason.NOTHING_TO_BILL: "has no active service and no uninvoiced fee",
    SkipReason.BELOW_MINIMUM: "owes fees below the processor's minimum; they wait until their sum reaches it",
    SkipReason.CURRENCY_MISMATCH: "has a fee or service in a currency other than the coverage's: fix it",
    SkipReason.AMOUNT_TOO_LARGE: "has a total above the most that Stripe charges at once: fix the prices",
    SkipReason.NO_PAYMENT_SETTINGS: "owes but has no payment settings in this coverage: import them",
    SkipReason.REFUSED_BY_DATABASE: "was rejected by the database: see its finding",
}

#: The payment settings that a chunk or a preview reads: those after an account, or those of named accounts.
PART = """
    s.coverage = :coverage AND s.account_id > :after
    AND (CAST(:only AS uuid[]) IS NULL OR s.account_id = ANY(CAST(:only AS uuid[])))
"""

_CANDIDATES = f"""
    SELECT s.account_id, s.id AS settings_id, s.kind,
           CASE WHEN EXISTS (
                    SELECT FROM invoices i
                    WHERE i.account_id = s.account_id AND i.coverage = s.coverage
                      AND i.period = :first_day AND i.corrects_invoice_id IS NULL
                ) THEN 'already_invoiced'
                WHEN s.kind = 'trial' THEN 'trial'
           END AS skipped
    FROM payment_settings s
    WHERE {PART} AND s.account_id <> ALL(CAST(:locked AS uuid[]))
    ORDER BY s.account_id
    LIMIT :accounts
"""  # noqa: S608  # our own constant

_LINES = """
    WITH active AS (
        SELECT v.*, greatest(v.starts_on, :first_day) AS from_on, least(v.ends_on, :last_day) AS until_on,
               least(v.ends_on, :last_day) - greatest(v.starts_on, :first_day) + 1 AS days
        FROM candidates c JOIN services v ON v.account_id = c.account_id AND v.coverage = :coverage
        WHERE c.skipped IS NULL
          AND v.starts_on <= :last_day AND (v.ends_on IS NULL OR v.ends_on >= :first_day)
    ), owed AS MATERIALIZED (
        SELECT f.*
        FROM candidates c JOIN fees f ON f.account_id = c.account_id AND f.coverage = :coverage
        WHERE c.skipped IS NULL AND f.invoice_id IS NULL AND f.period <= :last_day
        ORDER BY f.id
        {lock}
    ), lines AS (
        SELECT account_id, 1 AS section, CAST(NULL AS uuid) AS fee_id, id AS service_id, external_id, description,
               from_on, until_on, days AS active_days, price_minor AS unit_price_minor, currency,
               CASE pricing
                   WHEN 'daily' THEN CAST(price_minor AS numeric) * days
                   ELSE div(2 * CAST(price_minor AS numeric) * days + :month_days, 2 * :month_days)
               END AS amount_minor
        FROM active
        UNION ALL
        SELECT account_id, 2, id, NULL, external_id, description,
               coalesce(occurred_on, late_from_on), coalesce(occurred_on, late_until_on),
               NULL, NULL, currency, amount_minor
        FROM owed, LATERAL (  -- a late fee names the month it belongs to
            SELECT CASE WHEN period < :first_day THEN period END AS late_from_on,
                   CASE WHEN period < :first_day
                        THEN CAST(period + interval '1 month' - interval '1 day' AS date) END AS late_until_on
        ) AS late
    )
    SELECT *, row_number() OVER (PARTITION BY account_id ORDER BY section, from_on, external_id) AS position
    FROM lines
"""

BILLS = """
    SELECT c.account_id, c.settings_id, c.kind,
           coalesce(t.line_count, 0) AS line_count, coalesce(t.total_minor, 0) AS total_minor,
           CASE WHEN c.skipped IS NOT NULL THEN c.skipped
                WHEN t.account_id IS NULL THEN 'nothing_to_bill'
                WHEN t.has_other_currency THEN 'currency_mismatch'
                WHEN t.total_minor > CASE c.kind WHEN 'bank_transfer' THEN 9223372036854775807
                                                 ELSE :maximum_minor END THEN 'amount_too_large'
                -- A month of a service is billed in its month; fees can wait, and an invoice could not be charged.
                WHEN c.kind <> 'bank_transfer' AND t.has_only_fees
                     AND t.total_minor > 0 AND t.total_minor < :minimum_minor THEN 'below_minimum'
           END AS skipped,
           CASE WHEN t.total_minor = 0 THEN 'paid'
                WHEN c.kind = 'bank_transfer' THEN 'awaiting_transfer'
                WHEN t.total_minor < :minimum_minor THEN 'carried_forward'  -- the processor would refuse it
                ELSE 'due'
           END AS state
    FROM candidates c
    LEFT JOIN (
        SELECT account_id, count(*) AS line_count, sum(amount_minor) AS total_minor,
               bool_or(currency <> :currency) AS has_other_currency, bool_and(service_id IS NULL) AS has_only_fees
        FROM lines GROUP BY account_id
    ) t ON t.account_id = c.account_id
"""

#: Accounts that owe something in a coverage without payment settings. They are reported, never skipped silently.
WITHOUT_SETTINGS = """
    SELECT owing.account_id
    FROM (
        SELECT account_id FROM fees
        WHERE coverage = :coverage AND invoice_id IS NULL AND period <= :last_day
        UNION
        SELECT account_id FROM services
        WHERE coverage = :coverage AND starts_on <= :last_day AND (ends_on IS NULL OR ends_on >= :first_day)
    ) owing
    WHERE NOT EXISTS (
        SELECT FROM payment_settings s WHERE s.account_id = owing.account_id AND s.coverage = :coverage
    )
"""

#: For the preview: locks nothing.
CANDIDATES = _CANDIDATES
LINES = _LINES.format(lock="")

#: For the real run: payment settings and fees can't change until the chunk has committed.
LOCKED_CANDIDATES = _CANDIDATES + "FOR SHARE OF s"
LOCKED_LINES = _LINES.format(lock="FOR UPDATE OF f")
