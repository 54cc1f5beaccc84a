"""Checks of billing events: replayed from the first, they lead to the current rows (I10)."""

from shared.domain.event_types import STATE_EVENTS
from shared.reconciliation.verify.check import Check
from shared.reconciliation.verify.receipts import NEVER_BY_HAND

_STATE_EVENTS = "(" + ", ".join(f"'{one}'" for one in STATE_EVENTS) + ")"

BILLING_EVENTS = (
    Check(
        "events-of-payments",
        "a payment's billing events, replayed from the first, end at its state",
        "payments",
        f"""
        SELECT p.id AS payment_id, p.state, told.state AS told_state
        FROM {{payments}} p
        LEFT JOIN LATERAL (
            SELECT e.after ->> 'state' AS state FROM billing_events e
            WHERE e.payment_id = p.id AND e.type IN {_STATE_EVENTS} ORDER BY e.id DESC LIMIT 1
        ) told ON true
        WHERE told.state IS DISTINCT FROM p.state
        """,  # noqa: S608  # our own constants
        "payment {payment_id} is {state}; its billing events end at {told_state}",
        f"its state was written without shared/payments/state_changes.py: {NEVER_BY_HAND}",
    ),
    Check(
        "events-have-no-gap",
        "each change of a payment's state starts from the state before it",
        "payments",
        f"""
        SELECT moves.payment_id, moves.event_id, moves.before_state, moves.ended_at_state
        FROM (
            SELECT e.payment_id, e.id AS event_id, e.type, e.before ->> 'state' AS before_state,
                   lag(e.after ->> 'state') OVER (PARTITION BY e.payment_id ORDER BY e.id) AS ended_at_state
            FROM billing_events e JOIN {{payments}} p ON p.id = e.payment_id
            WHERE e.type IN {_STATE_EVENTS}
        ) moves
        WHERE moves.type IN ('payment_moved', 'payment_rescheduled')
          AND moves.before_state IS DISTINCT FROM moves.ended_at_state
        """,  # noqa: S608
        "event {event_id} moves payment {payment_id} from {before_state}; its events were at {ended_at_state}",
        NEVER_BY_HAND,
    ),
    Check(
        "events-of-attempts",
        "each attempt has one start event, and its last event has its row's state",
        "attempts",
        """
        SELECT a.payment_id, a.id AS attempt_id, a.number, a.state, told.begun, told.state AS told_state
        FROM {attempts} a
        CROSS JOIN LATERAL (
            SELECT count(*) FILTER (WHERE e.type = 'attempt_started') AS begun,
                   coalesce((array_agg(e.after ->> 'state' ORDER BY e.id DESC)
                             FILTER (WHERE e.type <> 'attempt_started'))[1], 'started') AS state
            FROM billing_events e
            WHERE e.payment_id = a.payment_id AND e.attempt_id = a.id
              AND e.type IN ('attempt_started', 'attempt_answered', 'attempt_settled', 'attempt_became_unknown')
        ) told
        WHERE told.begun <> 1 OR told.state <> a.state
        """,
        "attempt {number} of payment {payment_id} is {state}; its events start it {begun} times, end {told_state}",
        NEVER_BY_HAND,
    ),
    Check(
        "events-of-invoices",
        "each invoice has one event of being issued",
        "invoices",
        """
        SELECT i.id AS invoice_id, i.number, p.id AS payment_id, told.issued
        FROM {invoices} i JOIN payments p ON p.invoice_id = i.id
        CROSS JOIN LATERAL (
            SELECT count(*) AS issued FROM billing_events e WHERE e.payment_id = p.id AND e.type = 'invoice_issued'
        ) told
        WHERE told.issued <> 1
        """,
        "invoice {number} (payment {payment_id}) has {issued} events of being issued",
        NEVER_BY_HAND,
    ),
    Check(
        "events-of-standings",
        "an account's standing is the one in its last billing event",
        "accounts",
        """
        SELECT a.id AS account_id, a.external_id, a.standing, coalesce(told.standing, 'good') AS told_standing
        FROM {accounts} a
        LEFT JOIN LATERAL (
            SELECT e.after ->> 'standing' AS standing FROM billing_events e
            WHERE e.account_id = a.id AND e.type = 'standing_changed' ORDER BY e.id DESC LIMIT 1
        ) told ON true
        WHERE a.standing <> coalesce(told.standing, 'good')
        """,
        "account {external_id} is {standing}; its billing events say {told_standing}",
        f"its standing was written without shared/accounts/standing.py: {NEVER_BY_HAND}",
    ),
)
