"""Apply one stored Stripe event: claim it, fetch the object's current state, apply that, enqueue jobs."""

from datetime import datetime
from functools import partial

import structlog
from sqlalchemy.exc import DBAPIError

from shared.accounts.cards import CardMovedError
from shared.db.query_terms import Moment
from shared.db.session import in_transaction
from shared.failpoints import Failpoint, reach
from shared.gateway.port import GatewayMissingError, GatewayRefusedError, GatewayUnavailableError, NotACardError
from shared.operations.stripe_event_processing import (
    EVENT_BACKOFF,
    Apply,
    Effect,
    LookLaterError,
    StripeEvent,
    apply_event,
    claim_event,
    describe_error,
    note_error,
    nothing_but,
    postpone_event,
)
from shared.runtime import Runtime
from workers.use_cases.stripe_events import ECHOES, HANDLERS

log = structlog.get_logger()

#: How often a changing card is fetched again: each repetition means that another worker made progress.
MAX_LOOKS = 3


def apply_stripe_event(runtime: Runtime, coverage: str, stripe_event_id: str) -> None:
    """Apply one event if it is due. Safe to deliver twice, concurrently or late.

    If the processor is unavailable, the event is postponed. If it refuses our key or our request, that is stored on
    the event's row. Any other error is stored there and raised.
    """
    reach(Failpoint.EVENT_BEGUN)
    event = in_transaction(
        runtime.engine,
        lambda connection: claim_event(connection, coverage, stripe_event_id, ECHOES.get, _moment(runtime)),
    )
    reach(Failpoint.EVENT_CLAIMED)
    if event is None:
        return
    try:
        effect = _fetch_and_apply(runtime, event)
    except LookLaterError as error:
        _postpone(runtime, event, error.at, str(error))
        return
    except GatewayRefusedError as error:  # known, so no traceback and no dead letter: the overview has an alert
        _note_error(runtime, event, error)
        return
    except (GatewayUnavailableError, CardMovedError) as error:
        _postpone(runtime, event, runtime.machine_now() + EVENT_BACKOFF.after(event.tries), describe_error(error))
        return
    except Exception as error:
        _note_error(runtime, event, error)
        raise
    if effect is not None:
        runtime.enqueue(effect.jobs)
        reach(Failpoint.EVENT_RUNG)
        log.info(
            "stripe_event.applied",
            coverage=coverage,
            stripe_event_id=stripe_event_id,
            type=event.type,
            note=effect.note,
        )


def _fetch_and_apply(runtime: Runtime, event: StripeEvent) -> Effect | None:
    """Fetch and apply; repeat if the card changed in between. None if another worker was faster."""
    for look in range(1, MAX_LOOKS + 1):
        apply = _fetch(runtime, event)
        try:
            effect = in_transaction(
                runtime.engine,
                partial(apply_event, event=event, apply=apply, at=_moment(runtime)),
                step="event.apply",
            )
        except CardMovedError:
            if look == MAX_LOOKS:
                raise
            continue
        return effect
    raise AssertionError("unreachable: the last look returns or raises")


def _fetch(runtime: Runtime, event: StripeEvent) -> Apply:
    handler = HANDLERS.get(event.type)
    if handler is None:
        raise LookupError(
            f"no handler for {event.type}: the web process that stored it is newer than this worker; update it"
        )
    if event.coverage not in runtime.gateways:
        raise LookupError(f"STRIPE_API_KEYS has no key for {event.coverage!r}; add it and restart the workers")
    if not event.stripe_object_id:
        return nothing_but("the event names no object")
    try:
        return handler(runtime, event)
    except NotACardError:
        return nothing_but("not ours: the payment method is not a card")
    except GatewayMissingError as error:
        # Stripe keeps what its events are about, detached cards too. So the key is of another account: to believe
        # that the card is gone would take good cards out of use for good.
        why = f"{error}. Is STRIPE_API_KEYS[{event.coverage}] a key of the right Stripe account?"
        raise GatewayRefusedError(why, http_status=404) from error


def _postpone(runtime: Runtime, event: StripeEvent, at: datetime, why: str) -> None:
    """Leave the event unchanged and process it again at `at`, machine time."""
    log.warning("stripe_event.later", stripe_event_id=event.stripe_event_id, type=event.type, at=at, why=why)
    in_transaction(runtime.engine, lambda connection: postpone_event(connection, event, at), step="event.postpone")


def _note_error(runtime: Runtime, event: StripeEvent, error: Exception) -> None:
    log.warning(
        "stripe_event.trouble", stripe_event_id=event.stripe_event_id, type=event.type, why=describe_error(error)
    )
    try:
        at = _moment(runtime)
        in_transaction(
            runtime.engine, lambda connection: note_error(connection, event, error, at), step="event.trouble"
        )
    except DBAPIError as also:  # the database may be the cause; the event is due again when its claim expires
        log.warning(
            "stripe_event.error_not_recorded", stripe_event_id=event.stripe_event_id, why=describe_error(also)
        )


def _moment(runtime: Runtime) -> Moment:
    return Moment(runtime.clock.now(), runtime.machine_now())
