"""An outcome that can't be recorded: an alert with the error, so that an operator doesn't wait for a look-up.

Recording fails only by a defect or a broken database: the attempt stays open, and every look-up repeats the error.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from uuid import UUID

import structlog
from sqlalchemy import ColumnElement, Connection, select
from sqlalchemy.exc import DBAPIError

from shared.db.billing_events import BillingEvent, record_event
from shared.db.rows import AttemptRow, read_one_or_none
from shared.db.session import in_transaction, is_locked, is_outage
from shared.db.tables.payments import payment_attempts, payments
from shared.db.tables.system import billing_events
from shared.domain.event_types import EventType
from shared.domain.states import OPEN_ATTEMPT
from shared.operations.stripe_event_processing import describe_error
from shared.runtime import Runtime

log = structlog.get_logger()

#: Business time until the same error of the same attempt raises another alert: alerts are shown for a day.
ALERT_AGAIN = timedelta(days=1)
#: The detail of an ATTENTION_NEEDED event that holds the error.
ERROR = "record_error"


@contextmanager
def alert_if_unrecorded(
    runtime: Runtime, *, intent_id: UUID | None = None, attempt_id: UUID | None = None
) -> Iterator[None]:
    """Raise an alert with the error that recording raised, and raise the error again.

    Locks and outages of the database raise none: they end by themselves, and the next look-up records the outcome.
    """
    try:
        yield
    except Exception as error:
        if not (is_locked(error) or is_outage(error)):
            _alert(runtime, intent_id, attempt_id, describe_error(error))
        raise


def record_error_of(connection: Connection, attempt: AttemptRow) -> str | None:
    """Return the last error with which an attempt's outcome could not be recorded; None if there was none."""
    error: str | None = connection.scalar(
        select(billing_events.c.data[ERROR].as_string())
        .where(*_alerts_of(attempt))
        .order_by(billing_events.c.id.desc())
        .limit(1)
    )
    return error


def _alert(runtime: Runtime, intent_id: UUID | None, attempt_id: UUID | None, error: str) -> None:
    log.error("record.not_recorded", attempt_id=str(attempt_id), intent_id=str(intent_id), error=error)
    try:
        in_transaction(
            runtime.engine,
            lambda connection: _record_alert(connection, runtime, intent_id, attempt_id, error),
            step="record.error",
        )
    except DBAPIError as also:  # the database may be the cause; the next look-up tries again
        log.warning("record.error_not_recorded", error=describe_error(also))


def _record_alert(
    connection: Connection, runtime: Runtime, intent_id: UUID | None, attempt_id: UUID | None, error: str
) -> None:
    which = (
        payment_attempts.c.id == attempt_id
        if attempt_id is not None
        else payment_attempts.c.payment_intent_id == intent_id
    )
    attempt = read_one_or_none(
        AttemptRow,
        connection.execute(select(payment_attempts).where(which, payment_attempts.c.state.in_(OPEN_ATTEMPT))),
    )
    if attempt is None:
        return
    now = runtime.clock.now()
    is_known = select(billing_events.c.id).where(
        *_alerts_of(attempt),
        billing_events.c.data[ERROR].as_string() == error,
        billing_events.c.at > now - ALERT_AGAIN,
    )
    if connection.scalar(is_known.limit(1)) is not None:
        return
    record_event(
        connection,
        BillingEvent(
            type=EventType.ATTENTION_NEEDED,
            at=now,
            actor="worker",
            reason=f"the processor's answer could not be recorded: {error}",
            account_id=connection.scalar(select(payments.c.account_id).where(payments.c.id == attempt.payment_id)),
            payment_id=attempt.payment_id,
            attempt_id=attempt.id,
            data={ERROR: error},
        ),
    )


def _alerts_of(attempt: AttemptRow) -> tuple[ColumnElement[bool], ...]:
    return (
        billing_events.c.payment_id == attempt.payment_id,
        billing_events.c.attempt_id == attempt.id,
        billing_events.c.type == EventType.ATTENTION_NEEDED,
        billing_events.c.data.has_key(ERROR),
    )
