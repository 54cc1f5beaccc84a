"""What the workers do, one file each, named like its actor and its job."""

from workers.use_cases.apply_bulk_action import apply_bulk_action
from workers.use_cases.apply_stripe_event import apply_stripe_event
from workers.use_cases.charge_payment import charge_payment
from workers.use_cases.close_payment import close_payment
from workers.use_cases.generate_invoices import generate_invoices
from workers.use_cases.reconcile_charges import reconcile_charges
from workers.use_cases.retry_payments import retry_payments
from workers.use_cases.settle_attempt import settle_attempt

__all__ = [
    "apply_bulk_action",
    "apply_stripe_event",
    "charge_payment",
    "close_payment",
    "generate_invoices",
    "reconcile_charges",
    "retry_payments",
    "settle_attempt",
]
