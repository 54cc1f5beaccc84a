"""The end of an outage: shorten long back-offs once the processor answers again.

During an outage, back-offs double up to an hour, to limit the requests of many payments. Once other requests are
answered, an hour is too long. A payment that has its own obstacle (a key without a permission, say) is then tried
once a minute, which does no harm.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import Connection, text

from shared.payments.outcome_handlers import NOT_SENT_BACKOFF

#: The longest back-off while other requests are answered.
LONGEST_BACKOFF_WITHOUT_OUTAGE = timedelta(minutes=1)
#: Payments woken in one sweep: more would enqueue more than a minute's work at once.
WAKE_AT_MOST = 1_000
#: How many of the latest answers are read: during an outage none of them came from an issuer.
LATEST_ANSWERS = 200

# A back-off began at its end minus its length, which NOT_SENT_BACKOFF gives.
# An answer counts by the time of its request, which may be moments before it arrived.
_WAKE = text("""
    WITH answered AS (
        SELECT a.coverage, max(a.confirm_allowed_at) AS at
        FROM (
            SELECT attempt_id, after FROM billing_events
            WHERE type = 'attempt_answered' ORDER BY id DESC LIMIT :latest
        ) latest
        JOIN payment_attempts a ON a.id = latest.attempt_id
        WHERE latest.after ->> 'state' IN ('succeeded', 'declined', 'authentication_needed')
        GROUP BY a.coverage
    ),
    woken AS (
        SELECT p.id, p.account_id, p.backoff_until FROM payments p JOIN answered ON answered.coverage = p.coverage
        WHERE p.state IN ('due', 'retry_scheduled') AND p.backoff_until > :machine_now
          AND p.backoff_until - make_interval(secs => least(CAST(:longest_backoff_s AS double precision),
                :first_backoff_s * 2 ^ least(p.not_sent_count - 1, 20)))
              < least(answered.at, :machine_now - :longest)
        ORDER BY p.id LIMIT :at_most FOR NO KEY UPDATE OF p SKIP LOCKED
    ),
    shortened AS (
        UPDATE payments p SET backoff_until = :machine_now FROM woken WHERE p.id = woken.id
    )
    INSERT INTO billing_events (at, type, actor, reason, account_id, payment_id, before, after)
    SELECT :now, 'backoff_ended', 'scheduler', 'the processor answers other requests again', account_id, id,
           jsonb_build_object('backoff_until', backoff_until), jsonb_build_object('backoff_until', :machine_now)
    FROM woken
    RETURNING payment_id
""")


def end_backoffs(connection: Connection, now: datetime, machine_now: datetime) -> Sequence[UUID]:
    """End the back-offs of payments that waited a minute while other requests are answered; return their ids.

    `now` is business time, for the billing events.
    """
    woken: Sequence[UUID] = connection.scalars(
        _WAKE,
        {
            "now": now,
            "machine_now": machine_now,
            "first_backoff_s": NOT_SENT_BACKOFF.first.total_seconds(),
            "longest_backoff_s": NOT_SENT_BACKOFF.longest.total_seconds(),
            "longest": LONGEST_BACKOFF_WITHOUT_OUTAGE,
            "latest": LATEST_ANSWERS,
            "at_most": WAKE_AT_MOST,
        },
    ).all()
    return woken
