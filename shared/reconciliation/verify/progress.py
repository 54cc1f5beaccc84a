"""Checks that nothing is forgotten: what waits names what it waits for, and what doesn't wait gets done."""

from sqlalchemy import Interval, and_, bindparam, cast

from shared.db.moment import MACHINE_NOW, NOW
from shared.payments.eligibility import (
    ATTEMPT_OPEN,
    BACKING_OFF,
    CHARGEABLE_STATE,
    CLOSE_PENDING,
    COLLECTION_ENDED,
    HAS_NEWER_CARD,
    HELD,
    REACHED,
    Clocks,
    as_text,
    none_of,
)
from shared.reconciliation.verify.check import Check

LOOK = "run `duecourse doctor`: do scheduler and workers run, do Redis and the processor answer?"

#: A payment's own trail has been silent for longer than patience (machine time).
_SILENT = """NOT EXISTS (
    SELECT FROM billing_events e
    WHERE e.payment_id = payments.id AND e.created_at > :machine_now - CAST(:patience AS interval)
)"""

#: Both clocks as they stood `patience` ago; what lies too far ahead is judged by the clock of now.
_PATIENCE = cast(bindparam("patience", None), Interval)
_A_WHILE_AGO = Clocks(now=NOW - _PATIENCE, machine_now=MACHINE_NOW - _PATIENCE)

#: `shared.payments.eligibility` in the checks' words. A payment is `payments` there, and so it is here.
_DUE_FOR_LONG = as_text(
    and_(
        CHARGEABLE_STATE.sql(),
        REACHED.sql(_A_WHILE_AGO),
        *none_of((HELD, CLOSE_PENDING, BACKING_OFF, ATTEMPT_OPEN), _A_WHILE_AGO),
    )
)
_IS_TO_BE_CLOSED = as_text(CLOSE_PENDING.sql())
_HAS_ENDED = as_text(COLLECTION_ENDED.sql())
_COULD_CLOSE = as_text(and_(*none_of((BACKING_OFF, ATTEMPT_OPEN), _A_WHILE_AGO)))
_COULD_WAKE = as_text(and_(HAS_NEWER_CARD.sql(), *none_of((HELD, CLOSE_PENDING, ATTEMPT_OPEN))))
_IS_HELD = as_text(HELD.sql())

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
        SELECT payments.id AS payment_id, payments.state, payments.lane, payments.next_attempt_at
        FROM {{payments}} payments
        WHERE {_DUE_FOR_LONG} AND {_SILENT}
        """,  # noqa: S608  # our own constants
        "payment {payment_id} is {state} since {next_attempt_at} on the {lane} lane, and nobody asked for it",
        LOOK,
    ),
    Check(
        "no-ending-forgotten",
        "what a person wants written off or voided is ended within an hour, and what has ended waits for no end",
        "payments",
        f"""
        SELECT payments.id AS payment_id, payments.state, payments.pending_close_as, payments.backoff_until
        FROM {{payments}} payments
        WHERE {_IS_TO_BE_CLOSED} AND ({_HAS_ENDED} OR ({_COULD_CLOSE} AND {_SILENT}))
        """,  # noqa: S608  # our own constants
        "payment {payment_id} is {state} and is to be {pending_close_as}; nobody cancels its PaymentIntent",
        LOOK,
    ),
    Check(
        "no-wake-up-lost",
        "a payment that waits for a card is woken by a newer one",
        "payments",
        f"""
        SELECT payments.id AS payment_id, payments.state, payments.waiting_for_revision_after,
               payment_settings.card_revision
        FROM {{payments}} payments JOIN payment_settings ON payment_settings.id = payments.settings_id
        WHERE {_COULD_WAKE}
          AND NOT EXISTS (
              SELECT FROM billing_events e WHERE e.account_id = payments.account_id
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
        f"""
        SELECT payments.id AS payment_id, payments.state, payments.waiting_for_revision_after, s.card_revision
        FROM {{payments}} payments JOIN payment_settings s ON s.id = payments.settings_id
        WHERE ((payments.state NOT IN ('due', 'retry_scheduled', 'paid') OR {_IS_HELD})
               AND coalesce(payments.state_reason, '') = '')
           OR payments.waiting_for_revision_after > s.card_revision
        """,  # noqa: S608  # our own constants
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
