"""A captured charge was refunded in Stripe's dashboard, or its cardholder disputes it."""

from functools import partial

from sqlalchemy import Connection

from shared.gateway.port import ChargeReadBack, DisputeSnapshot, request
from shared.operations.stripe_event_processing import Apply, Effect, StripeEvent
from shared.payments.refunds_and_disputes import record_dispute, record_refund
from shared.runtime import Runtime

ACTOR = "stripe"


def observe_refund(runtime: Runtime, event: StripeEvent) -> Apply:
    """Retrieve a charge: its refunded amount is the sum of all its refunds."""
    charge = request("event.charge", runtime.gateways[event.coverage].retrieve_charge, event.stripe_object_id)
    return partial(_apply_refund, runtime=runtime, coverage=event.coverage, charge=charge)


def observe_dispute(runtime: Runtime, event: StripeEvent) -> Apply:
    """Retrieve a dispute; its present status and the money moved for it decide, whatever the event said."""
    dispute = request("event.charge", runtime.gateways[event.coverage].retrieve_dispute, event.stripe_object_id)
    return partial(_apply_dispute, runtime=runtime, coverage=event.coverage, dispute=dispute)


def _apply_refund(connection: Connection, runtime: Runtime, coverage: str, charge: ChargeReadBack) -> Effect:
    note, payment_id = record_refund(connection, coverage, charge, ACTOR, runtime.clock.now())
    return Effect(note, payment_id=payment_id)


def _apply_dispute(connection: Connection, runtime: Runtime, coverage: str, dispute: DisputeSnapshot) -> Effect:
    note, payment_id = record_dispute(connection, coverage, dispute, ACTOR, runtime.clock.now())
    return Effect(note, payment_id=payment_id)
