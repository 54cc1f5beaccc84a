"""The end of an outage: what backs off for longer than it needs is tried soon again once the processor answers.

While the processor is away, pauses double up to an hour, because asking a hundred thousand times helps nobody. When
others are answered again, an hour is too long to wait. What can't be asked for a reason of its own (a key without a
permission, say) is so tried once a minute, which does no harm.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import Connection, text

from shared.payments.outcome_handlers import NOT_SENT_BACKOFF

#: The longest pause while others are answered.
LONGEST_WHILE_OTHERS_ARE_ANSWERED = timedelta(minutes=1)
#: Payments woken in one sweep: more would ring the bell for a minute's work at once.
WAKE_AT_MOST = 1_000
#: The latest answers that are looked at: in an outage none of them is one, however many there were before.
LATEST_ANSWERS = 200

# The pause began when it was written: its end less its length, which is NOT_SENT_BACKOFF's.
# An answer counts by when it was asked for, which may be moments before it came.
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
    SELECT :now, 'backoff_ended', 'scheduler', 'the processor answers others again', account_id, id,
           jsonb_build_object('backoff_until', backoff_until), jsonb_build_object('backoff_until', :machine_now)
    FROM woken
    RETURNING payment_id
""")


def end_backoffs(connection: Connection, now: datetime, machine_now: datetime) -> Sequence[UUID]:
    """End the pauses of payments that have waited a minute although others are answered; return their ids.

    `now` is business time, for the trail.
    """
    woken: Sequence[UUID] = connection.scalars(
        _WAKE,
        {
            "now": now,
            "machine_now": machine_now,
            "first_backoff_s": NOT_SENT_BACKOFF.first.total_seconds(),
            "longest_backoff_s": NOT_SENT_BACKOFF.longest.total_seconds(),
            "longest": LONGEST_WHILE_OTHERS_ARE_ANSWERED,
            "latest": LATEST_ANSWERS,
            "at_most": WAKE_AT_MOST,
        },
    ).all()
    return woken
