"""Pending work, and whether some process will do it: for the virtual clock, the demo and `doctor`."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, ScalarSelect, Select, bindparam, func, select, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.types import Text

from shared.db.query_terms import MACHINE_NOW, Moment, one_of
from shared.db.tables.payments import payment_attempts, payments
from shared.db.tables.system import stripe_events
from shared.domain.schedule import due_runs
from shared.domain.states import OPEN_ATTEMPT
from shared.gateway.stripe_event_types import ECHO_EVENT_TYPES
from shared.payments.eligibility import BACKING_OFF, CHARGEABLE_STATE, CLOSE_PENDING, REACHED
from shared.policy import Policy
from shared.scheduling.due_work import DUE_WORK, STRIPE_EVENTS
from shared.scheduling.runs import schedule_in_force_since, schedule_of

#: A back-off that ends this soon is worth waiting for: a worker was killed, or one request got no answer.
SHORT_BACKOFF = timedelta(seconds=20)
#: Counting stops here: the caller needs to know whether work is pending, not how many hundred thousand rows.
COUNT_UP_TO = 1_000


def pending_work(
    connection: Connection,
    policy: Policy,
    now: datetime,
    machine_now: datetime,
    since: Mapping[str, datetime] | None = None,
) -> dict[str, int]:
    """Return the pending work at business time `now`, by name, each counted up to COUNT_UP_TO; {} if there is none.

    An outage's longer back-off, a run that awaits confirmation, and events that echo our own requests are not
    pending. An attempt is pending until its outcome is known. With `since` (see `begin_schedule`) this is one round
    trip and one snapshot: work that changes state meanwhile is counted in one state.
    """
    if since is None:
        since = schedule_in_force_since(connection)
    expected = due_runs(schedule_of(policy), now, frozenset(), since)
    row = connection.execute(
        _COUNTS,
        Moment(now, machine_now).parameters(webhook_enqueues_within=timedelta(0))
        | {
            "jobs": [run.job for run in expected],
            "periods": [run.period for run in expected],
            "coverages": [run.coverage for run in expected],
        },
    ).one()
    return {name: count for name, count in row._mapping.items() if count}


def _count(query: Select[Any]) -> ScalarSelect[Any]:
    return select(func.count()).select_from(query.order_by(None).limit(COUNT_UP_TO).subquery()).scalar_subquery()


def _missing_runs() -> ScalarSelect[Any]:
    rows = text(
        "SELECT 1 FROM unnest(:jobs, :periods, :coverages) AS expected (job, period, coverage)"
        " WHERE NOT EXISTS (SELECT FROM runs WHERE runs.job = expected.job"
        " AND runs.period = expected.period AND runs.coverage = expected.coverage)"
    ).bindparams(*(bindparam(name, type_=ARRAY(Text)) for name in ("jobs", "periods", "coverages")))
    return select(func.count()).select_from(rows.columns().subquery()).scalar_subquery()


_OPEN_ATTEMPTS = select(payment_attempts.c.id).where(one_of(payment_attempts.c.state, OPEN_ATTEMPT))

#: Back-offs in force that end soon.
_IS_SHORT_BACKOFF = BACKING_OFF.sql() & (payments.c.backoff_until <= MACHINE_NOW + SHORT_BACKOFF)
_SHORT_BACKOFFS = select(payments.c.id).where(CHARGEABLE_STATE.sql(), REACHED.sql(), _IS_SHORT_BACKOFF)
_SHORT_BACKOFFS_OF_CLOSES = select(payments.c.id).where(CLOSE_PENDING.sql(), _IS_SHORT_BACKOFF)

#: Built once: the virtual clock runs it every few milliseconds while it waits.
_COUNTS = select(
    _missing_runs().label("runs not yet made"),
    *(_count(kind.query).label(kind.name) for kind in DUE_WORK if kind.query is not STRIPE_EVENTS),
    _count(STRIPE_EVENTS.where(stripe_events.c.type.not_in(ECHO_EVENT_TYPES))).label("stripe events"),
    _count(_OPEN_ATTEMPTS).label("open attempts"),
    _count(_SHORT_BACKOFFS).label("short back-offs"),
    _count(_SHORT_BACKOFFS_OF_CLOSES).label("short back-offs of closes"),
)
