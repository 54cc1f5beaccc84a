"""Checks of attempts and PaymentIntents: at most one is open, at most one succeeds, and states agree."""

from shared.reconciliation.verify.check import Check
from shared.reconciliation.verify.receipts import NEVER_BY_HAND

ATTEMPTS = (
    Check(
        "one-success-per-payment",
        "no payment has two attempts or two PaymentIntents that succeeded",
        "payments",
        """
        SELECT p.id AS payment_id, p.currency, p.amount_minor, coalesce(a.attempts, 0) AS attempts,
               coalesce(i.intents, 0) AS intents
        FROM {payments} p
        LEFT JOIN (
            SELECT payment_id, count(*) AS attempts FROM payment_attempts
            WHERE kind = 'charge' AND state = 'succeeded' GROUP BY payment_id
        ) a ON a.payment_id = p.id
        LEFT JOIN (
            SELECT payment_id, count(*) AS intents FROM payment_intents
            WHERE closed_reason = 'succeeded' GROUP BY payment_id
        ) i ON i.payment_id = p.id
        WHERE a.attempts > 1 OR i.intents > 1
        """,
        "payment {payment_id} of {amount_minor}: {attempts} attempts and {intents} PaymentIntents succeeded",
        "the customer may have paid twice: compare the processor's charges, refund one, report a defect",
    ),
    Check(
        "one-live-payment-intent",
        "at most one live PaymentIntent per payment, each ordinal once and without a gap",
        "intents",
        """
        SELECT payment_id, count(*) FILTER (WHERE closed_reason IS NULL) AS live, count(*) AS intents,
               max(ordinal) AS last_ordinal
        FROM {intents} i GROUP BY payment_id
        HAVING count(*) FILTER (WHERE closed_reason IS NULL) > 1 OR max(ordinal) <> count(*)
            OR count(*) <> count(DISTINCT ordinal)
        """,
        "payment {payment_id} has {live} live PaymentIntents of {intents}, the last with ordinal {last_ordinal}",
        "stop the workers: both could be confirmed; cancel one at the processor, report a defect",
    ),
    Check(
        "successor-after-the-end",
        "a PaymentIntent has a successor only once canceled or abandoned, and has its payment's amount",
        "intents",
        """
        SELECT i.id AS payment_intent_id, i.payment_id, i.ordinal, i.closed_reason, i.currency, i.amount_minor
        FROM {intents} i JOIN payments p ON p.id = i.payment_id
        WHERE i.amount_minor <> p.amount_minor OR i.currency <> p.currency
           OR (coalesce(i.closed_reason, 'live') NOT IN ('canceled', 'abandoned')
               AND EXISTS (SELECT FROM payment_intents n
                           WHERE n.payment_id = i.payment_id AND n.ordinal > i.ordinal))
        """,
        "PaymentIntent {ordinal} of payment {payment_id} ({amount_minor}) is {closed_reason} and has a "
        "successor, or another amount than its payment",
        "stop the workers: it may be charged beside its successor; check both at the processor",
    ),
    Check(
        "one-open-attempt",
        "at most one open attempt per payment",
        "attempts",
        """
        SELECT payment_id, count(*) AS attempts FROM {attempts} a
        WHERE state IN ('started', 'unknown') GROUP BY payment_id HAVING count(*) > 1
        """,
        "payment {payment_id} has {attempts} open attempts",
        "stop the workers, look both up at the processor, report a defect",
    ),
    Check(
        "success-means-paid",
        "where an attempt or PaymentIntent succeeded, the payment is paid",
        "attempts",
        """
        SELECT p.id AS payment_id, p.state, p.currency, p.amount_minor FROM {payments} p
        WHERE p.state <> 'paid'
          AND (EXISTS (SELECT FROM payment_attempts a WHERE a.payment_id = p.id AND a.kind = 'charge'
                       AND a.state = 'succeeded')
               OR EXISTS (SELECT FROM payment_intents i
                          WHERE i.payment_id = p.id AND i.closed_reason = 'succeeded'))
        """,
        "payment {payment_id} of {amount_minor} is {state}, although its card was charged",
        "it must not be charged again: stop the workers, then report a defect",
    ),
    Check(
        "ended-means-nothing-open",
        "a payment that left collection has no open attempt and no PaymentIntent that can still be confirmed",
        "payments",
        """
        SELECT p.id AS payment_id, p.state FROM {payments} p
        WHERE p.state IN ('carried_forward', 'uncollectible', 'void')
          AND (EXISTS (SELECT FROM payment_attempts a
                       WHERE a.payment_id = p.id AND a.state IN ('started', 'unknown'))
               OR EXISTS (SELECT FROM payment_intents i WHERE i.payment_id = p.id AND i.closed_reason IS NULL))
        """,
        "payment {payment_id} is {state}, with an attempt or a PaymentIntent still open",
        "cancel the PaymentIntent at the processor, or it may still take money",
    ),
    Check(
        "attempts-agree",
        "attempts are numbered without a gap, counted on their payment, and finished unless open",
        "attempts",
        """
        SELECT p.id AS payment_id, p.attempt_count, p.decline_count, coalesce(a.attempts, 0) AS attempts,
               coalesce(a.declined, 0) AS declined, coalesce(a.unfinished, 0) AS unfinished
        FROM {payments} p
        LEFT JOIN (
            SELECT payment_id, count(*) AS attempts, max(number) AS last,
                   count(*) FILTER (WHERE state = 'declined') AS declined,
                   count(*) FILTER (WHERE state = 'succeeded') AS succeeded,
                   count(*) FILTER (WHERE (finished_at IS NULL) <> (state IN ('started', 'unknown'))) AS unfinished
            FROM payment_attempts GROUP BY payment_id
        ) a ON a.payment_id = p.id
        WHERE p.attempt_count <> coalesce(a.attempts, 0) OR p.attempt_count <> coalesce(a.last, 0)
           OR p.decline_count NOT BETWEEN coalesce(a.declined, 0) AND coalesce(a.declined + a.succeeded, 0)
           OR a.unfinished > 0
        """,
        "payment {payment_id} counts {attempt_count} attempts and {decline_count} declines; there are {attempts} "
        "and {declined}, {unfinished} without an end",
        NEVER_BY_HAND,
    ),
)
