"""Everything that can be due, in one table of sources: what the sweep rings for and what quiet means.

Each source is one indexed query over the rows themselves, oldest first. Business time decides about payments,
machine time about leases, look-ups, outages and events; both are parameters, so that a query is built once.
States are written into the SQL as literals: a plan made for any state could not use the partial indexes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, Select, or_, select

from shared.db.literals import is_, one_of
from shared.db.moment import STAMPING_SINCE, STORED_BEFORE, TOO_FAR, has_come
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
class Source:
    """One kind of due work: its query (see `Moment.parameters`), and the job that each row becomes."""

    name: str
    queue: str
    query: Select[Any]
    job: Callable[[Row[Any]], Job]


def due_payments(lane: Lane) -> Select[Any]:
    """Payments of one lane that are to be asked for now; those a daily run is about to stamp come after it."""
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


#: Payments that wait for a card although the card changed since (I15): the wake-up was lost to a race.
PAYMENTS_WITH_A_NEW_CARD = (
    select(payments.c.id)
    .join(payment_settings, payment_settings.c.id == payments.c.settings_id)
    .where(HAS_NEWER_CARD.sql(), *is_free())
)

#: Payments that a person wants ended, once the PaymentIntent is seen canceled (I3). A hold doesn't keep them.
PAYMENTS_TO_CLOSE = (
    select(payments.c.id)
    .where(CLOSE_PENDING.sql(), *none_of((COLLECTION_ENDED, BACKING_OFF, ATTEMPT_OPEN)))
    .order_by(payments.c.id)
)

#: Attempts whose worker is gone: whether money moved must be found out.
EXPIRED_LEASES = (
    select(payment_attempts.c.id)
    .where(is_(payment_attempts.c.state, AttemptState.STARTED), has_come(payment_attempts.c.lease_expires_at))
    .order_by(payment_attempts.c.lease_expires_at)
)

#: Attempts that nobody knows the outcome of, when it is time to look again.
UNKNOWN_ATTEMPTS = (
    select(payment_attempts.c.id)
    .where(is_(payment_attempts.c.state, AttemptState.UNKNOWN), has_come(payment_attempts.c.look_up_at))
    .order_by(payment_attempts.c.look_up_at)
)

#: Stored events not yet applied, and those whose fetch met trouble, when it is time to try again.
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
    """Runs that are ready or were left in the middle, unless what they need is away for now.

    Named by their jobs: one that only a newer release knows is left to its scheduler.
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


#: Runs that issue or collect; reconciliation isn't among them.
UNFINISHED_RUNS = unfinished_runs(MONTHLY_INVOICES, DAILY_RETRIES)
UNFINISHED_NIGHTS = unfinished_runs(RECONCILIATION)


#: What people asked for over many payments and isn't through yet, unless one of them stopped it.
UNFINISHED_BULK_ACTIONS = (
    select(bulk_actions.c.id).where(is_(bulk_actions.c.state, "running")).order_by(bulk_actions.c.created_at)
)


def _charge(lane: Lane) -> Callable[[Row[Any]], Job]:
    return lambda row: ChargePayment(row.id, lane)


#: In the order in which they are rung: first what blocks other work, last what there may be a million of.
SOURCES: tuple[Source, ...] = (
    Source("unfinished runs", RUNS, UNFINISHED_RUNS, lambda row: job_of_run(row.job, row.id)),
    Source("unfinished bulk actions", RUNS, UNFINISHED_BULK_ACTIONS, lambda row: ApplyBulkAction(row.id)),
    Source(
        "stripe events", INTERACTIVE, STRIPE_EVENTS, lambda row: ApplyStripeEvent(row.coverage, row.stripe_event_id)
    ),
    Source("payments with a new card", INTERACTIVE, PAYMENTS_WITH_A_NEW_CARD, _charge(Lane.INTERACTIVE)),
    Source("expired leases", SETTLEMENT, EXPIRED_LEASES, lambda row: SettleAttempt(row.id)),
    Source("unknown attempts", SETTLEMENT, UNKNOWN_ATTEMPTS, lambda row: SettleAttempt(row.id)),
    Source("payments to be ended", SETTLEMENT, PAYMENTS_TO_CLOSE, lambda row: ClosePayment(row.id)),
    *(
        Source(f"due payments, {lane}", QUEUE_OF_LANE[lane], due_payments(lane), _charge(lane))
        for lane in (Lane.INTERACTIVE, Lane.BATCH)
    ),
    Source("unfinished nights", RECONCILIATION_QUEUE, UNFINISHED_NIGHTS, lambda row: ReconcileCharges(row.id)),
)
