"""Checks that no work is forgotten: waiting work names what it waits for, and all other work gets done."""

from sqlalchemy import Interval, and_, bindparam, cast

from shared.db.query_terms import MACHINE_NOW, NOW
from shared.payments.eligibility import (
    ATTEMPT_OPEN,
    BACKING_OFF,
    CHARGEABLE_STATE,
    CLOSE_PENDING,
    COLLECTION_ENDED,
    HAS_NEWER_CARD,
    HELD,
    REACHED,
    WAITS_ITS_TURN,
    Clocks,
    as_text,
    none_of,
)
from shared.reconciliation.verify.check import Check

LOOK = "run `duecourse doctor`: do scheduler and workers run, do Redis and the processor answer?"

#: A payment has had no billing event for longer than patience (machine time).
_SILENT = """NOT EXISTS (
    SELECT FROM billing_events e
    WHERE e.payment_id = payments.id AND e.created_at > :machine_now - CAST(:patience AS interval)
)"""

#: Both clocks as they stood `patience` ago. An instant too far ahead is judged by the current clock.
_PATIENCE = cast(bindparam("patience", None), Interval)
_A_WHILE_AGO = Clocks(now=NOW - _PATIENCE, machine_now=MACHINE_NOW - _PATIENCE)

#: `shared.payments.eligibility` as SQL for the checks. It names the table `payments`, so these checks do too.
_DUE_FOR_LONG = as_text(
    and_(
        CHARGEABLE_STATE.sql(),
        REACHED.sql(_A_WHILE_AGO),
        *none_of((HELD, CLOSE_PENDING, BACKING_OFF, ATTEMPT_OPEN), _A_WHILE_AGO),
        *none_of((WAITS_ITS_TURN,)),
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
        "a payment that is due, not held and not backing off is charged within an hour",
        "payments",
        f"""
        SELECT payments.id AS payment_id, payments.state, payments.lane, payments.next_attempt_at
        FROM {{payments}} payments
        WHERE {_DUE_FOR_LONG} AND {_SILENT}
        """,  # noqa: S608  # our own constants
        "payment {payment_id} is {state} since {next_attempt_at} on the {lane} queue, and was not charged",
        LOOK,
    ),
    Check(
        "no-ending-forgotten",
        "a pending write-off or void is closed within an hour, and no closed payment has one pending",
        "payments",
        f"""
        SELECT payments.id AS payment_id, payments.state, payments.pending_close_as, payments.backoff_until
        FROM {{payments}} payments
        WHERE {_IS_TO_BE_CLOSED} AND ({_HAS_ENDED} OR ({_COULD_CLOSE} AND {_SILENT}))
        """,  # noqa: S608  # our own constants
        "payment {payment_id} is {state} and is to be {pending_close_as}; its PaymentIntent wasn't canceled",
        LOOK,
    ),
    Check(
        "no-wake-up-lost",
        "a payment that waits for a card is charged after a newer one is registered",
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
        "payment {payment_id} is {state} since card revision {waiting_for_revision_after}; revision "
        "{card_revision} exists and was not charged",
        LOOK,
    ),
    Check(
        "waiting-names-its-reason",
        "a waiting payment has a reason, and a card revision that exists",
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
        "check it with `duecourse payment show {payment_id}`, then charge it or register a card",
    ),
    Check(
        "no-run-stuck",
        "a workable run finishes or advances within an hour",
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
        "a bulk action that isn't stopped advances within an hour",
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
        "every stored Stripe event is applied within an hour, and none waits for an operator",
        "stripe_events",
        """
        SELECT s.coverage, s.stripe_event_id, s.type, s.state, s.tries, s.trouble, s.created_at
        FROM {stripe_events} s
        WHERE s.state IN ('received', 'trouble')
          AND (s.created_at <= :machine_now - CAST(:patience AS interval) OR s.try_again_at > '9000-01-01')
        """,
        "{coverage} event {stripe_event_id} ({type}) of {created_at} is {state} after {tries} tries: {trouble}",
        "fix the error that it names; events in `received` or `trouble` are retried automatically",
    ),
)
