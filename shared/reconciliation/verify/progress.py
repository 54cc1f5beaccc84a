"""Checks that nothing is forgotten: what waits names what it waits for, and what doesn't wait gets done."""

from shared.reconciliation.verify.check import Check

LOOK = "run `duecourse doctor`: do scheduler and workers run, do Redis and the processor answer?"

#: A payment's own trail has been silent for longer than patience (machine time).
_SILENT = """NOT EXISTS (
    SELECT FROM billing_events e
    WHERE e.payment_id = p.id AND e.created_at > :machine_now - CAST(:patience AS interval)
)"""

_OPEN = """EXISTS (
    SELECT FROM payment_attempts a WHERE a.payment_id = p.id AND a.state IN ('started', 'unknown')
)"""

PROGRESS = (
    Check(
        "no-attempt-forgotten",
        "an open attempt is settled within its lease and an hour",
        "attempts",
        """
        SELECT a.payment_id, a.id AS attempt_id, a.number, a.state, a.lease_expires_at, a.look_ups, a.look_up_at
        FROM {attempts} a
        WHERE a.state IN ('started', 'unknown')
          AND a.lease_expires_at <= :machine_now - CAST(:patience AS interval)
        """,
        "attempt {number} of payment {payment_id} is {state}; its lease ended {lease_expires_at}, looked up "
        "{look_ups} times, next {look_up_at}",
        LOOK,
    ),
    Check(
        "no-payment-forgotten",
        "what is due, not held and not backing off is asked for within an hour",
        "payments",
        f"""
        SELECT p.id AS payment_id, p.state, p.lane, p.next_attempt_at FROM {{payments}} p
        WHERE p.state IN ('due', 'retry_scheduled')
          AND p.next_attempt_at <= :now - CAST(:patience AS interval)
          AND (p.held_until IS NULL OR p.held_until <= :now - CAST(:patience AS interval))
          AND p.pending_close_as IS NULL
          AND (p.backoff_until IS NULL OR p.backoff_until <= :machine_now - CAST(:patience AS interval))
          AND NOT {_OPEN} AND {_SILENT}
        """,  # noqa: S608  # our own constants
        "payment {payment_id} is {state} since {next_attempt_at} on the {lane} lane, and nobody asked for it",
        LOOK,
    ),
    Check(
        "no-ending-forgotten",
        "what a person wants written off or voided is ended within an hour, and what has ended waits for no end",
        "payments",
        f"""
        SELECT p.id AS payment_id, p.state, p.pending_close_as, p.backoff_until FROM {{payments}} p
        WHERE p.pending_close_as IS NOT NULL
          AND (p.state IN ('paid', 'carried_forward', 'uncollectible', 'void')
               OR ((p.backoff_until IS NULL OR p.backoff_until <= :machine_now - CAST(:patience AS interval))
                   AND NOT {_OPEN} AND {_SILENT}))
        """,  # noqa: S608  # our own constants
        "payment {payment_id} is {state} and is to be {pending_close_as}; nobody cancels its PaymentIntent",
        LOOK,
    ),
    Check(
        "no-wake-up-lost",
        "a payment that waits for a card is woken by a newer one",
        "payments",
        f"""
        SELECT p.id AS payment_id, p.state, p.waiting_for_revision_after, s.card_revision
        FROM {{payments}} p JOIN payment_settings s ON s.id = p.settings_id
        WHERE p.state IN ('needs_payment_method', 'needs_authentication')
          AND s.card_revision > p.waiting_for_revision_after AND s.primary_card_id IS NOT NULL
          AND (p.held_until IS NULL OR p.held_until <= :now) AND p.pending_close_as IS NULL AND NOT {_OPEN}
          AND NOT EXISTS (
              SELECT FROM billing_events e WHERE e.account_id = p.account_id
                AND e.type IN ('card_registered', 'card_mended')
                AND e.created_at > :machine_now - CAST(:patience AS interval))
        """,  # noqa: S608  # our own constants
        "payment {payment_id} is {state} since card revision {waiting_for_revision_after}; {card_revision} is "
        "there, and nothing was asked",
        LOOK,
    ),
    Check(
        "waiting-names-its-reason",
        "a payment that waits says for what, and for a card revision that exists",
        "payments",
        """
        SELECT p.id AS payment_id, p.state, p.waiting_for_revision_after, s.card_revision
        FROM {payments} p JOIN payment_settings s ON s.id = p.settings_id
        WHERE ((p.state NOT IN ('due', 'retry_scheduled', 'paid') OR p.held_until > :now)
               AND coalesce(p.state_reason, '') = '')
           OR p.waiting_for_revision_after > s.card_revision
        """,
        "payment {payment_id} is {state} without a reason, or waits for card revision {waiting_for_revision_after} "
        "while {card_revision} is the last",
        "say what it waits for: `duecourse payment show {payment_id}`, then charge it or register a card",
    ),
    Check(
        "no-run-stuck",
        "a run that may work finishes or gets on within an hour",
        "runs",
        """
        SELECT r.id AS run_id, r.job, r.period, r.coverage, r.state, r.created_at FROM {runs} r
        WHERE r.state IN ('ready', 'running') AND r.created_at <= :machine_now - CAST(:patience AS interval)
          AND (r.backoff_until IS NULL OR r.backoff_until <= :machine_now)
          AND NOT EXISTS (
              SELECT FROM billing_events e WHERE e.type IN ('run_started', 'run_confirmed', 'run_reopened')
                AND e.run_id = r.id AND e.created_at > :machine_now - CAST(:patience AS interval))
        """,
        "run {job} {period} {coverage} is {state} since {created_at}",
        LOOK,
    ),
    Check(
        "no-bulk-action-stuck",
        "a bulk action that nobody stopped gets on within an hour",
        "bulk_actions",
        """
        SELECT b.id AS bulk_id, b.action, b.requested_by, b.created_at, b.counts ->> 'waiting' AS waiting
        FROM {bulk_actions} b
        WHERE b.state = 'running' AND b.created_at <= :machine_now - CAST(:patience AS interval)
          AND NOT EXISTS (
              SELECT FROM billing_events e
              WHERE e.type = 'bulk_action_resumed' AND e.data ->> 'bulk_id' = b.id::text
                AND e.created_at > :machine_now - CAST(:patience AS interval))
        """,
        "bulk action {bulk_id} ({action}, {requested_by}) is running since {created_at}, {waiting} still wait",
        LOOK,
    ),
    Check(
        "no-stripe-event-stuck",
        "every Stripe event that came in is applied within an hour, and none waits for an operator",
        "stripe_events",
        """
        SELECT s.coverage, s.stripe_event_id, s.type, s.state, s.tries, s.trouble, s.created_at
        FROM {stripe_events} s
        WHERE s.state IN ('received', 'trouble')
          AND (s.created_at <= :machine_now - CAST(:patience AS interval) OR s.try_again_at > '9000-01-01')
        """,
        "{coverage} event {stripe_event_id} ({type}) of {created_at} is {state} after {tries} tries: {trouble}",
        "mend what it names; what is received or in trouble is tried again by itself",
    ),
)
