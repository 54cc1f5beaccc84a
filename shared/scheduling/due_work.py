"""All due work, in one table: what the sweep enqueues, and what counts as pending.

Each kind is one indexed query over the rows themselves, oldest first. Business time decides about payments;
machine time decides about leases, look-ups, outages and events. Both are parameters, so each query is built once.
States are SQL literals: a plan made for any state could not use the partial indexes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, Select, or_, select

from shared.db.query_terms import STAMPING_SINCE, STORED_BEFORE, TOO_FAR, has_come, is_, one_of
from shared.db.tables.accounts import payment_settings
from shared.db.tables.operators import bulk_actions
from shared.db.tables.payments import payment_attempts, payments
from shared.db.tables.system import runs, stripe_events
from shared.domain.states import AttemptState, Lane, RunState, StripeEventState
from shared.messaging.jobs import (
    DAILY_RETRIES,
    INTERACTIVE,
    MONTHLY_INVOICES,
    QUEUE_OF_LANE,
    RECONCILIATION,
    RECONCILIATION_QUEUE,
    RUNS,
    SETTLEMENT,
    ApplyBulkAction,
    ApplyStripeEvent,
    ChargePayment,
    ClosePayment,
    Job,
    ReconcileCharges,
    SettleAttempt,
    job_of_run,
)
from shared.payments.eligibility import (
    ATTEMPT_OPEN,
    BACKING_OFF,
    BY_CARD_AGAIN,
    CHARGEABLE_STATE,
    CLOSE_PENDING,
    COLLECTION_ENDED,
    DUE_STATE,
    HAS_NEWER_CARD,
    REACHED,
    is_free,
    none_of,
)


@dataclass(frozen=True)
class DueWork:
    """One kind of due work: its query (see `Moment.parameters`), and the job for each row."""

    name: str
    queue: str
    query: Select[Any]
    job: Callable[[Row[Any]], Job]


def due_payments(lane: Lane) -> Select[Any]:
    """Payments of one lane that are to be charged now, except those that a daily run is about to stamp."""
    being_stamped = select(runs.c.coverage).where(
        is_(runs.c.job, DAILY_RETRIES),
        one_of(runs.c.state, (RunState.READY, RunState.RUNNING)),
        runs.c.created_at.between(STAMPING_SINCE, TOO_FAR),
    )
    return (
        select(payments.c.id)
        .where(
            is_(payments.c.lane, lane),
            CHARGEABLE_STATE.sql(),
            REACHED.sql(),
            *is_free(),
            or_(DUE_STATE.sql(), payments.c.coverage.not_in(being_stamped)),
        )
        .order_by(payments.c.next_attempt_at)
    )


#: Payments that wait for a card although the card changed since (I15): a race lost the wake-up.
PAYMENTS_WITH_A_NEW_CARD = (
    select(payments.c.id)
    .join(payment_settings, payment_settings.c.id == payments.c.settings_id)
    .where(HAS_NEWER_CARD.sql(), *is_free())
)

#: Payments that wait for a transfer although the customer pays by card now: an import changed the settings.
PAYMENTS_BY_CARD_AGAIN = (
    select(payments.c.id)
    .join(payment_settings, payment_settings.c.id == payments.c.settings_id)
    .where(BY_CARD_AGAIN.sql(), *is_free())
)

#: Payments with a pending close, to close once their PaymentIntent is canceled (I3). A hold doesn't stop that.
PAYMENTS_TO_CLOSE = (
    select(payments.c.id)
    .where(CLOSE_PENDING.sql(), *none_of((COLLECTION_ENDED, BACKING_OFF, ATTEMPT_OPEN)))
    .order_by(payments.c.id)
)

#: Attempts whose worker is gone: settlement must find out whether money moved.
EXPIRED_LEASES = (
    select(payment_attempts.c.id)
    .where(is_(payment_attempts.c.state, AttemptState.STARTED), has_come(payment_attempts.c.lease_expires_at))
    .order_by(payment_attempts.c.lease_expires_at)
)

#: Attempts with unknown outcome whose next look-up is due.
UNKNOWN_ATTEMPTS = (
    select(payment_attempts.c.id)
    .where(is_(payment_attempts.c.state, AttemptState.UNKNOWN), has_come(payment_attempts.c.look_up_at))
    .order_by(payment_attempts.c.look_up_at)
)

#: Stored events not yet applied, and those whose fetch had an error and whose retry is due.
STRIPE_EVENTS = (
    select(stripe_events.c.coverage, stripe_events.c.stripe_event_id)
    .where(
        one_of(stripe_events.c.state, (StripeEventState.RECEIVED, StripeEventState.TROUBLE)),
        or_(stripe_events.c.created_at <= STORED_BEFORE, stripe_events.c.created_at > TOO_FAR),
        or_(stripe_events.c.try_again_at.is_(None), has_come(stripe_events.c.try_again_at)),
    )
    .order_by(stripe_events.c.created_at)
)


def unfinished_runs(*jobs: str) -> Select[Any]:
    """Runs that are ready or interrupted, unless they back off.

    Selected by job name: an older release leaves the jobs that only a newer one knows to the newer scheduler.
    """
    return (
        select(runs.c.id, runs.c.job)
        .where(
            one_of(runs.c.job, jobs),
            one_of(runs.c.state, (RunState.READY, RunState.RUNNING)),
            or_(runs.c.backoff_until.is_(None), has_come(runs.c.backoff_until)),
        )
        .order_by(runs.c.created_at)
    )


#: Runs that issue or collect; not reconciliation.
UNFINISHED_RUNS = unfinished_runs(MONTHLY_INVOICES, DAILY_RETRIES)
UNFINISHED_RECONCILIATIONS = unfinished_runs(RECONCILIATION)


#: Unfinished bulk actions, unless an operator stopped them.
UNFINISHED_BULK_ACTIONS = (
    select(bulk_actions.c.id).where(is_(bulk_actions.c.state, "running")).order_by(bulk_actions.c.created_at)
)


def _charge(lane: Lane) -> Callable[[Row[Any]], Job]:
    return lambda row: ChargePayment(row.id, lane)


#: In the order in which they are enqueued: first what blocks other work, last the kind with up to a million rows.
DUE_WORK: tuple[DueWork, ...] = (
    DueWork("unfinished runs", RUNS, UNFINISHED_RUNS, lambda row: job_of_run(row.job, row.id)),
    DueWork("unfinished bulk actions", RUNS, UNFINISHED_BULK_ACTIONS, lambda row: ApplyBulkAction(row.id)),
    DueWork(
        "stripe events", INTERACTIVE, STRIPE_EVENTS, lambda row: ApplyStripeEvent(row.coverage, row.stripe_event_id)
    ),
    DueWork("payments with a new card", INTERACTIVE, PAYMENTS_WITH_A_NEW_CARD, _charge(Lane.INTERACTIVE)),
    DueWork("payments by card again", QUEUE_OF_LANE[Lane.BATCH], PAYMENTS_BY_CARD_AGAIN, _charge(Lane.BATCH)),
    DueWork("expired leases", SETTLEMENT, EXPIRED_LEASES, lambda row: SettleAttempt(row.id)),
    DueWork("unknown attempts", SETTLEMENT, UNKNOWN_ATTEMPTS, lambda row: SettleAttempt(row.id)),
    DueWork("payments to close", SETTLEMENT, PAYMENTS_TO_CLOSE, lambda row: ClosePayment(row.id)),
    *(
        DueWork(f"due payments, {lane}", QUEUE_OF_LANE[lane], due_payments(lane), _charge(lane))
        for lane in (Lane.INTERACTIVE, Lane.BATCH)
    ),
    DueWork(
        "unfinished reconciliations",
        RECONCILIATION_QUEUE,
        UNFINISHED_RECONCILIATIONS,
        lambda row: ReconcileCharges(row.id),
    ),
)
