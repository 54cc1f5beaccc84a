"""A customer registered a card, or a stored card was attached, updated or detached."""

from datetime import datetime, timedelta

from sqlalchemy import Connection

from shared.accounts.cards import find_card, refresh_card, register_card
from shared.accounts.registrations import read_registration
from shared.domain.states import Lane
from shared.gateway.port import request
from shared.messaging.jobs import ChargePayment
from shared.operations.stripe_event_processing import Apply, Effect, LookLaterError, StripeEvent, nothing_but
from shared.payments.card_changes import Woken, wake_payments
from shared.runtime import Runtime

#: A registration that read the card before it was detached has committed or died by then: above the
#: workers' time limit of 90 s.
REGISTRATIONS_END_WITHIN = timedelta(seconds=120)


def register_card_of_setup_intent(runtime: Runtime, event: StripeEvent) -> Apply:
    """Retrieve the SetupIntent, then its card's current state: it may be detached again."""
    gateway = runtime.gateways[event.coverage]
    setup_intent = request("event.setup_intent", gateway.retrieve_setup_intent, event.stripe_object_id)
    registration = read_registration(event.coverage, setup_intent, event.stripe_created_at)
    if isinstance(registration, str):
        return nothing_but(registration)
    with runtime.engine.connect() as connection:
        known = find_card(connection, event.coverage, registration.stripe_payment_method_id)
    card = request("event.new_card", gateway.retrieve_card, registration.stripe_payment_method_id)
    now = runtime.clock.now()
    return lambda connection: _effect_of(
        wake_payments(connection, register_card(connection, registration, card, known, now))
    )


def echo_of_registration(connection: Connection, event: StripeEvent, _machine_now: datetime) -> Effect | None:
    """Return the effect of an attached card that its SetupIntent already stored; None if it has to be retrieved."""
    known = find_card(connection, event.coverage, event.stripe_object_id)
    return None if known is None or known.detached_at is not None else Effect("already known: the card is stored")


def refresh_stored_card(runtime: Runtime, event: StripeEvent) -> Apply:
    """Retrieve the card's current state, whatever the event said."""
    with runtime.engine.connect() as connection:
        known = find_card(connection, event.coverage, event.stripe_object_id)
    gateway, now = runtime.gateways[event.coverage], runtime.clock.now()
    card = request("event.stored_card", gateway.retrieve_card, event.stripe_object_id)
    return lambda connection: _effect_of(
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


def _effect_of(change: Woken) -> Effect:
    """Return a card change's effect: whatever it made due is charged on the interactive lane."""
    jobs = tuple(ChargePayment(payment_id, Lane.INTERACTIVE) for payment_id in change.made_due)
    return Effect(change.note, account_id=change.account_id, jobs=jobs)
