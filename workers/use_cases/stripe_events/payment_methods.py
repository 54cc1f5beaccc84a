"""A stored card was attached, updated or detached."""

from datetime import datetime, timedelta

from sqlalchemy import Connection

from shared.accounts.cards import detach_card, find_card, refresh_card
from shared.gateway.port import GatewayMissingError, request
from shared.operations.stripe_event_processing import Apply, Effect, StripeEvent
from shared.payments.card_changes import wake_payments
from shared.runtime import Runtime
from workers.use_cases.stripe_events.effect import LookLaterError, effect_of

#: A registration that read the card before it was detached has committed or died by then: above the
#: workers' time limit of 90 s.
REGISTRATIONS_END_WITHIN = timedelta(seconds=120)


def echo_of_registration(connection: Connection, event: StripeEvent, _machine_now: datetime) -> Effect | None:
    """Return the effect of an attached card that its SetupIntent already stored; None if it has to be retrieved."""
    known = find_card(connection, event.coverage, event.stripe_object_id)
    return None if known is None or known.detached_at is not None else Effect("already known: the card is stored")


def refresh_stored_card(runtime: Runtime, event: StripeEvent) -> Apply:
    """Retrieve the card's current state, whatever the event said; a missing card counts as detached."""
    with runtime.engine.connect() as connection:
        known = find_card(connection, event.coverage, event.stripe_object_id)
    gateway, now = runtime.gateways[event.coverage], runtime.clock.now()
    try:
        card = request("event.stored_card", gateway.retrieve_card, event.stripe_object_id)
    except GatewayMissingError:
        return lambda connection: effect_of(wake_payments(connection, detach_card(connection, known, now)))
    return lambda connection: effect_of(
        wake_payments(connection, refresh_card(connection, event.coverage, card, known, now))
    )


def retire_card(runtime: Runtime, event: StripeEvent) -> Apply:
    """Take a detached card out of use.

    An unknown card may be another system's, or its registration may be in progress with older data: then there is
    a card to retire a little later.
    """
    with runtime.engine.connect() as connection:
        known = find_card(connection, event.coverage, event.stripe_object_id)
    settled_at = event.stored_at + REGISTRATIONS_END_WITHIN
    if known is None and runtime.machine_now() < settled_at:
        raise LookLaterError(settled_at, "detached before the card was stored; a registration may be in progress")
    return refresh_stored_card(runtime, event)
