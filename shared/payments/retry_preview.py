"""What a coverage's daily run would charge if it ran now, and what it would skip and why."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, time

from sqlalchemy import Connection, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.types import DateTime, Integer, Text

from shared.domain.calendar import instant, local_date
from shared.domain.declines import network_budgets
from shared.policy import Coverage

#: Counting what isn't asked for stops here.
COUNT_UP_TO = 10_000
#: As many of the largest payments as a person reads before saying yes.
LARGEST = 10

#: Why a payment isn't charged, in the order in which they are asked about.
MEANING_OF_SKIP: Mapping[str, str] = {
    "attempt_open": "an attempt of it is open: nothing else is asked until its outcome is known",
    "held": "an operator holds it",
    "being_ended": "an operator has it written off or voided: its PaymentIntent is being canceled",
    "bank_transfer": "the customer pays by bank transfer now: it is set aside for that",
    "no_card": "no card is registered: it is set aside until there is one",
    "card_blocked": "the network forbids asking its card again: it is set aside until there is another",
    "network_budget": "its card was asked as often as the network allows: it is put off",
    "paid": "was declined before, and has been paid since that day began",
    "waits_for_customer": "waits for the customer's new card or confirmation",
    "not_yet_due": "is scheduled for later",
}


@dataclass(frozen=True)
class Skipped:
    """Payments that aren't charged for one reason, with examples of their ids. `is_capped`: there are more."""

    reason: str
    payments: int
    amount_minor: int
    examples: tuple[str, ...] = ()

    @property
    def is_capped(self) -> bool:
        return self.payments >= COUNT_UP_TO


@dataclass(frozen=True)
class RetryPreview:
    """What a daily run would charge now; minor units. `digest` changes when a payment or an amount of it does."""

    coverage: str
    currency: str
    payments: int
    amount_minor: int
    largest: tuple[tuple[str, int], ...]
    skipped: tuple[Skipped, ...]
    digest: str


def preview_retries(connection: Connection, coverage: Coverage, now: datetime) -> RetryPreview:
    """Say what the daily run would charge if it ran at business time `now`. Locks nothing, writes nothing.

    Each card's budget is looked at as it is now: of two payments of one card the first may use it up.
    """
    limits = network_budgets()
    answer = connection.execute(
        _PREVIEW,
        {
            "coverage": coverage.code,
            "now": now,
            "today": instant(local_date(now, coverage.zone), time(0), coverage.zone),
            "networks": [limit.network for limit in limits],
            "most": [limit.max_attempts for limit in limits],
            "since": [now - limit.window for limit in limits],
            "count_up_to": COUNT_UP_TO,
            "largest": LARGEST,
        },
    ).one()
    found = {row["reason"]: row for row in (*(answer.skipped or ()), *(answer.elsewhere or ()))}
    return RetryPreview(
        coverage.code,
        coverage.currency,
        answer.payments,
        int(answer.amount_minor),
        tuple((row["id"], row["amount_minor"]) for row in answer.largest or ()),
        tuple(
            Skipped(reason, row["payments"], int(row["amount_minor"]), tuple(row["examples"] or ()))
            for reason in MEANING_OF_SKIP
            if (row := found.get(reason)) and row["payments"]
        ),
        answer.digest,
    )


#: `scheduled` is `retryable` (shared/payments/daily_retries.py) in the words of the partial index, with what stands
#: in a charge's way, in the order of a claim's checks. The digest is over what is left, in the order of the ids.
_PREVIEW = text("""
    WITH scheduled AS MATERIALIZED (
        SELECT p.id, p.amount_minor, CASE
            WHEN EXISTS (
                SELECT FROM payment_attempts a WHERE a.payment_id = p.id AND a.state IN ('started', 'unknown')
            ) THEN 'attempt_open'
            WHEN p.held_until > :now THEN 'held'
            WHEN p.pending_close_as IS NOT NULL THEN 'being_ended'
            WHEN s.kind = 'bank_transfer' THEN 'bank_transfer'
            WHEN c.id IS NULL OR c.detached_at IS NOT NULL OR s.stripe_customer_id IS NULL THEN 'no_card'
            WHEN EXISTS (
                SELECT FROM card_blocks b WHERE b.coverage = c.coverage AND b.fingerprint = c.fingerprint
            ) THEN 'card_blocked'
            WHEN EXISTS (
                SELECT FROM unnest(:networks, :most, :since) AS budget (network, most, since)
                WHERE budget.network = CASE WHEN c.network = ANY(:networks) THEN c.network ELSE 'other' END
                  AND budget.most <= (
                      SELECT count(*) FROM payment_attempts a
                      WHERE a.coverage = c.coverage AND a.card_fingerprint = c.fingerprint
                        AND a.started_at > budget.since AND a.kind = 'charge' AND a.state <> 'not_sent'
                  )
            ) THEN 'network_budget'
        END AS reason
        FROM payments p
        JOIN payment_settings s ON s.id = p.settings_id
        LEFT JOIN cards c ON c.id = s.primary_card_id
        WHERE p.lane IN ('interactive', 'batch') AND p.state = 'retry_scheduled' AND p.next_attempt_at <= :now
          AND p.kind = 'monthly' AND p.coverage = :coverage
    ),
    elsewhere AS (
        (SELECT 'paid' AS reason, id, amount_minor FROM payments
         WHERE coverage = :coverage AND state = 'paid' AND paid_at >= :today AND paid_at <= :now
           AND first_declined_at IS NOT NULL AND kind = 'monthly' LIMIT :count_up_to)
        UNION ALL
        (SELECT 'waits_for_customer', id, amount_minor FROM payments
         WHERE state IN ('needs_payment_method', 'needs_authentication') AND coverage = :coverage
           AND kind = 'monthly' LIMIT :count_up_to)
        UNION ALL
        (SELECT 'not_yet_due', id, amount_minor FROM payments
         WHERE lane IN ('interactive', 'batch') AND state = 'retry_scheduled' AND next_attempt_at > :now
           AND coverage = :coverage AND kind = 'monthly' LIMIT :count_up_to)
    )
    SELECT count(*) FILTER (WHERE reason IS NULL) AS payments,
           coalesce(sum(amount_minor) FILTER (WHERE reason IS NULL), 0) AS amount_minor,
           encode(sha256(convert_to(coalesce(
               string_agg(id || ':' || amount_minor, ',' ORDER BY id) FILTER (WHERE reason IS NULL), ''
           ), 'UTF8')), 'hex') AS digest,
           (SELECT jsonb_agg(l ORDER BY l.amount_minor DESC, l.id) FROM (
               SELECT id, amount_minor FROM scheduled WHERE reason IS NULL
               ORDER BY amount_minor DESC, id LIMIT :largest
           ) l) AS largest,
           (SELECT jsonb_agg(g) FROM (
               SELECT reason, count(*) AS payments, sum(amount_minor) AS amount_minor,
                      (array_agg(id ORDER BY id))[1:5] AS examples
               FROM scheduled WHERE reason IS NOT NULL GROUP BY reason
           ) g) AS skipped,
           (SELECT jsonb_agg(g) FROM (
               SELECT reason, count(*) AS payments, sum(amount_minor) AS amount_minor,
                      (array_agg(id ORDER BY id))[1:5] AS examples
               FROM elsewhere GROUP BY reason
           ) g) AS elsewhere
    FROM scheduled
""").bindparams(
    bindparam("networks", type_=ARRAY(Text)),
    bindparam("most", type_=ARRAY(Integer)),
    bindparam("since", type_=ARRAY(DateTime(timezone=True))),
)
