"""Stores what Stripe reports, once per event: the webhook's path, which the nightly reconciliation uses, too."""

from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql import insert

from shared.db.tables.system import stripe_events
from shared.domain.states import StripeEventState
from shared.gateway.port import StripeEventSnapshot
from shared.gateway.stripe_event_types import HANDLED_EVENT_TYPES


def store_stripe_event(connection: Connection, coverage: str, event: StripeEventSnapshot) -> bool:
    """Store the event under Stripe's ID; False if it exists. Types without a handler are stored as ignored.

    The sweep enqueues every event that is stored as received.
    """
    state = StripeEventState.RECEIVED if event.type in HANDLED_EVENT_TYPES else StripeEventState.IGNORED
    stored = connection.execute(
        insert(stripe_events)
        .values(
            coverage=coverage,
            stripe_event_id=event.stripe_event_id,
            type=event.type,
            stripe_object_id=event.stripe_object_id,
            is_livemode=event.is_livemode,
            stripe_created_at=event.created_at,
            state=state,
        )
        .on_conflict_do_nothing()
        .returning(stripe_events.c.stripe_event_id)
    ).one_or_none()
    return stored is not None
