"""All types of billing events: past tense, permanent.

Rows of `billing_events` can't be changed (I10), so a stored value stays forever. Where the current term differs
from the one first released, the member has the current term and its value is the first one.
"""

from enum import StrEnum


class EventType(StrEnum):
    """What happened to an account, a payment, a run or the system."""

    # Invoices
    INVOICE_ISSUED = "invoice_issued"
    INVOICE_NOT_ISSUED = "invoice_not_issued"
    INVOICE_VOIDED = "invoice_voided"
    # Payments
    PAYMENT_CREATED = "payment_created"  # reserved for orders: nothing writes it yet
    PAYMENT_MOVED = "payment_moved"
    PAYMENT_RESCHEDULED = "payment_rescheduled"
    PAYMENT_HELD = "payment_held"
    HOLD_RELEASED = "hold_released"
    BACKOFF_ENDED = "backoff_ended"
    CLOSE_REQUESTED = "ending_requested"
    CLOSE_WITHDRAWN = "ending_taken_back"
    CLOSE_OVERTAKEN = "ending_overtaken"
    OPERATOR_ACTION_REFUSED = "decision_refused"
    # Attempts
    ATTEMPT_STARTED = "attempt_started"
    ATTEMPT_ANSWERED = "attempt_answered"
    ATTEMPT_BECAME_UNKNOWN = "attempt_became_unknown"
    ATTEMPT_SETTLED = "attempt_settled"
    ATTEMPT_UNKNOWN_FOR_LONG = "attempt_long_in_doubt"
    CHARGE_NOT_ATTEMPTED = "charge_not_attempted"
    LOOK_UP_REQUESTED = "look_up_requested"
    ATTENTION_NEEDED = "attention_needed"
    # Captured charges
    CHARGE_REFUNDED = "charge_refunded"
    CHARGE_DISPUTED = "charge_disputed"
    # Accounts, payment settings and cards
    STANDING_CHANGED = "standing_changed"
    PAYMENT_SETTINGS_CHANGED = "payment_settings_changed"
    STRIPE_CUSTOMER_CREATED = "stripe_customer_created"
    STRIPE_CUSTOMER_FORGOTTEN = "stripe_customer_forgotten"
    CARD_REGISTERED = "card_registered"
    CARD_UPDATED = "card_mended"
    CARD_DETACHED = "card_detached"
    CARD_BLOCK_LIFTED = "card_block_lifted"
    # Receipts and findings
    FINDING_OPENED = "finding_opened"
    FINDING_CHANGED = "finding_changed"
    FINDING_REOPENED = "finding_reopened"
    FINDING_RESOLVED = "finding_resolved"
    # Runs and bulk actions
    SCHEDULE_BEGAN = "schedule_began"
    RUN_SCHEDULED = "run_scheduled"
    RUN_CONFIRMED = "run_confirmed"
    RUN_STARTED = "run_started"
    RUN_STALLED = "run_in_trouble"
    RUN_FINISHED = "run_finished"
    RUN_REOPENED = "run_reopened"
    BULK_ACTION_STARTED = "bulk_action_begun"
    BULK_ACTION_STOPPED = "bulk_action_stopped"
    BULK_ACTION_RESUMED = "bulk_action_resumed"
    BULK_ACTION_FINISHED = "bulk_action_finished"
    # The system
    STRIPE_EVENT_APPLIED = "stripe_event_applied"
    STRIPE_EVENT_NOT_APPLIED = "stripe_event_in_trouble"
    STRIPE_EVENT_APPLY_REQUESTED = "stripe_event_apply_requested"
    QUEUE_PAUSED = "lane_paused"
    QUEUE_RESUMED = "lane_resumed"
    ACCOUNTS_IMPORTED = "accounts_imported"
    SERVICES_IMPORTED = "services_imported"
    FEES_IMPORTED = "fees_imported"


#: Events that give a payment its state; `duecourse verify` compares the last one's `after.state` with the payment.
STATE_EVENTS = (
    EventType.INVOICE_ISSUED,
    EventType.PAYMENT_CREATED,
    EventType.PAYMENT_MOVED,
    EventType.PAYMENT_RESCHEDULED,
)
