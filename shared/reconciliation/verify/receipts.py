"""Checks of our records: invoices, fees, payments and receipts agree to the minor unit."""

from shared.reconciliation.verify.check import Check

NEVER_BY_HAND = "don't change rows by hand: copy the database, stop the workers, and report a defect"

RECORDS = (
    Check(
        "one-invoice-per-month",
        "one monthly invoice per account, coverage and period",
        "invoices",
        """
        SELECT account_id, coverage, period, count(*) AS invoices, min(number) AS first_number,
               max(number) AS last_number
        FROM {invoices} i WHERE corrects_invoice_id IS NULL
        GROUP BY account_id, coverage, period HAVING count(*) > 1
        """,
        "account {account_id} has {invoices} invoices for {period} in {coverage}: {first_number} to {last_number}",
        "stop the invoicing run; void all but one of them before they are charged",
    ),
    Check(
        "gapless-numbers",
        "invoice numbers of a coverage and year have no gap and end where the counter stands",
        "invoices",
        """
        SELECT n.coverage, n.number_year, n.first, n.last, n.invoices, c.last_sequence AS counter
        FROM (
            SELECT coverage, number_year, min(number_sequence) AS first, max(number_sequence) AS last,
                   count(*) AS invoices
            FROM invoices WHERE CAST(:coverage AS text) IS NULL OR coverage = :coverage
            GROUP BY coverage, number_year
        ) n LEFT JOIN invoice_counters c ON c.coverage = n.coverage AND c.year = n.number_year
        WHERE n.first <> 1 OR n.last <> n.invoices OR c.last_sequence IS DISTINCT FROM n.last
        """,
        "{coverage} {number_year}: {invoices} invoices numbered {first} to {last}, the counter stands at {counter}",
        "find the missing numbers before the tax office does: an invoice was deleted, or numbered by hand",
    ),
    Check(
        "total-is-its-lines",
        "an invoice's total is the sum of its lines",
        "invoices",
        """
        SELECT i.id AS invoice_id, i.number, i.currency, i.total_minor, coalesce(l.lines_minor, 0) AS lines_minor
        FROM {invoices} i
        LEFT JOIN (
            SELECT invoice_id, sum(amount_minor) AS lines_minor FROM {lines} l GROUP BY invoice_id
        ) l ON l.invoice_id = i.id
        WHERE i.total_minor <> coalesce(l.lines_minor, 0)
        """,
        "invoice {number} says {total_minor}, its lines say {lines_minor}",
        NEVER_BY_HAND,
    ),
    Check(
        "fee-on-one-invoice",
        "a fee is a line of the one invoice that it names, with its own amount",
        "fees",
        """
        SELECT f.id AS fee_id, f.external_id, f.currency, f.amount_minor, f.invoice_id, l.line_minor,
               coalesce(l.lines, 0) AS lines
        FROM {fees} f
        LEFT JOIN (
            SELECT fee_id, count(*) AS lines, sum(amount_minor) AS line_minor,
                   min(CAST(invoice_id AS text)) AS invoice
            FROM invoice_lines WHERE fee_id IS NOT NULL GROUP BY fee_id
        ) l ON l.fee_id = f.id
        WHERE coalesce(l.lines, 0) <> CASE WHEN f.invoice_id IS NULL THEN 0 ELSE 1 END
           OR l.invoice <> CAST(f.invoice_id AS text) OR l.line_minor <> f.amount_minor
        """,
        "fee {external_id} of {amount_minor} names invoice {invoice_id}; it has {lines} lines, of {line_minor}",
        NEVER_BY_HAND,
    ),
    Check(
        "line-of-a-known-fee",
        "every line that bills a fee belongs to a fee that exists",
        "lines",
        """
        SELECT l.id AS line_id, l.invoice_id, l.fee_id FROM {lines} l
        WHERE l.fee_id IS NOT NULL AND NOT EXISTS (SELECT FROM fees f WHERE f.id = l.fee_id)
        """,
        "line {line_id} of invoice {invoice_id} bills fee {fee_id}, which doesn't exist",
        NEVER_BY_HAND,
    ),
    Check(
        "payment-beside-invoice",
        "every invoice has one payment, of its account, coverage, amount and currency",
        "invoices",
        """
        SELECT i.id AS invoice_id, i.number, i.currency, i.total_minor, p.id AS payment_id, p.amount_minor
        FROM {invoices} i LEFT JOIN payments p ON p.invoice_id = i.id
        WHERE p.id IS NULL OR p.amount_minor <> i.total_minor OR p.currency <> i.currency
           OR p.account_id <> i.account_id OR p.coverage <> i.coverage
        """,
        "invoice {number} of {total_minor} has payment {payment_id} of {amount_minor}",
        NEVER_BY_HAND,
    ),
    Check(
        "invoice-beside-payment",
        "every monthly payment collects one invoice that exists, in the coverage of its settings",
        "payments",
        """
        SELECT p.id AS payment_id, p.invoice_id FROM {payments} p
        LEFT JOIN invoices i ON i.id = p.invoice_id
        LEFT JOIN payment_settings s ON s.id = p.settings_id
        WHERE (p.kind = 'monthly' AND i.id IS NULL) OR (p.invoice_id IS NOT NULL AND i.id IS NULL)
           OR s.coverage IS DISTINCT FROM p.coverage OR s.account_id IS DISTINCT FROM p.account_id
        """,
        "payment {payment_id} collects invoice {invoice_id}, which doesn't exist or isn't of its account",
        NEVER_BY_HAND,
    ),
    Check(
        "void-with-its-invoice",
        "a void payment's invoice is void, and no other invoice is, unless its payment was paid after all",
        "payments",
        """
        SELECT p.id AS payment_id, p.state, i.number, i.voided_at
        FROM {payments} p JOIN invoices i ON i.id = p.invoice_id
        WHERE (p.state = 'void' AND i.voided_at IS NULL)
           OR (i.voided_at IS NOT NULL AND p.state NOT IN ('void', 'paid'))
        """,
        "payment {payment_id} is {state}; its invoice {number} was voided at: {voided_at}",
        NEVER_BY_HAND,
    ),
    Check(
        "carried-forward-once",
        "a payment that is carried forward has one fee of the same amount",
        "payments",
        """
        SELECT p.id AS payment_id, p.currency, p.amount_minor, f.fees, f.fee_minor
        FROM {payments} p
        LEFT JOIN (
            SELECT carried_from_payment_id, count(*) AS fees, sum(amount_minor) AS fee_minor,
                   min(currency) AS currency
            FROM fees WHERE carried_from_payment_id IS NOT NULL GROUP BY carried_from_payment_id
        ) f ON f.carried_from_payment_id = p.id
        WHERE (p.state = 'carried_forward' AND (f.fees IS DISTINCT FROM 1 OR f.fee_minor <> p.amount_minor
                                                OR f.currency <> p.currency))
           OR (p.state NOT IN ('carried_forward', 'paid') AND f.fees > 0)
        """,
        "payment {payment_id} of {amount_minor} was carried forward as {fees} fees, of {fee_minor}",
        NEVER_BY_HAND,
    ),
    Check(
        "carried-from-a-payment",
        "a carried-forward fee comes from a payment that exists",
        "fees",
        """
        SELECT f.id AS fee_id, f.carried_from_payment_id AS payment_id FROM {fees} f
        WHERE f.carried_from_payment_id IS NOT NULL
          AND NOT EXISTS (SELECT FROM payments p WHERE p.id = f.carried_from_payment_id)
        """,
        "fee {fee_id} is carried forward from payment {payment_id}, which doesn't exist",
        NEVER_BY_HAND,
    ),
    Check(
        "paid-means-money",
        "a paid payment has one receipt, of its amount and currency (none is needed for zero)",
        "payments",
        """
        SELECT p.id AS payment_id, p.currency, p.amount_minor, coalesce(r.receipts, 0) AS receipts, r.received_minor
        FROM {payments} p
        LEFT JOIN (
            SELECT payment_id, count(*) AS receipts, sum(amount_minor) AS received_minor, min(currency) AS first,
                   max(currency) AS last
            FROM receipts GROUP BY payment_id
        ) r ON r.payment_id = p.id
        WHERE p.state = 'paid'
          AND (coalesce(r.receipts, 0) <> CASE WHEN p.amount_minor = 0 THEN 0 ELSE 1 END
               OR r.received_minor <> p.amount_minor OR r.first <> p.currency OR r.last <> p.currency)
        """,
        "payment {payment_id} of {amount_minor} is paid with {receipts} receipts, of {received_minor}",
        "compare with the processor's charges of this payment; if it has more than one receipt, refund one",
    ),
    Check(
        "money-means-paid",
        "a payment with a receipt is paid",
        "receipts",
        """
        SELECT r.payment_id, p.state, p.currency, sum(r.amount_minor) AS received_minor
        FROM {receipts} r JOIN payments p ON p.id = r.payment_id
        WHERE p.state <> 'paid' GROUP BY r.payment_id, p.state, p.currency
        """,
        "payment {payment_id} is {state}, and {received_minor} was received for it",
        "it must not be charged again: stop the workers, then report a defect",
    ),
)
