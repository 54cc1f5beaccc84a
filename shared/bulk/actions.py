"""The bulk actions, and the function that each calls for one payment."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row

from shared.db.billing_events import Cause
from shared.domain.refusals import Refused
from shared.domain.states import Lane, PaymentState
from shared.messaging.jobs import Job
from shared.payments.cancellation import Closed
from shared.payments.operator.charge import request_charge
from shared.payments.operator.close import request_close
from shared.payments.operator.hold import hold_payment, release_payment
from shared.policy import Policy


class BulkAction(StrEnum):
    """What can be done to many payments. Permanent: rows of `bulk_actions` hold these values."""

    CHARGE = "charge"
    HOLD = "hold"
    RELEASE = "release"
    WRITE_OFF = "write_off"
    VOID = "void"


@dataclass(frozen=True)
class BulkParameters:
    """The parameters of a bulk action: who requested it, when and why, and until when (holds)."""

    action: BulkAction
    cause: Cause
    until: date | None
    policy: Policy
    machine_now: datetime


@dataclass(frozen=True)
class PaymentDone:
    """The result for one payment: a text, and the job to enqueue after the commit."""

    words: str | None = None
    job: Job | None = None


def parameters_of(bulk: Row[Any], policy: Policy, now: datetime, machine_now: datetime) -> BulkParameters:
    """Read a row of `bulk_actions`."""
    until = bulk.parameters.get("until")
    return BulkParameters(
        BulkAction(bulk.action),
        Cause(bulk.requested_by, now, bulk.reason),
        date.fromisoformat(until) if until else None,
        policy,
        machine_now,
    )


def apply_to_payment(connection: Connection, payment_id: UUID, parameters: BulkParameters) -> PaymentDone | Refused:
    """Do a bulk action to one payment, as the single action would."""
    return _APPLY[parameters.action](connection, payment_id, parameters)


def _charge(connection: Connection, payment_id: UUID, parameters: BulkParameters) -> PaymentDone | Refused:
    # On the batch queue, which is made for thousands; and a bulk action never releases an operator's hold.
    requested = request_charge(
        connection, payment_id, parameters.cause, parameters.machine_now, lane=Lane.BATCH, releases_hold=False
    )
    return requested if isinstance(requested, Refused) else PaymentDone(job=requested)


def _hold(connection: Connection, payment_id: UUID, parameters: BulkParameters) -> PaymentDone | Refused:
    held = hold_payment(connection, parameters.policy, payment_id, parameters.until, parameters.cause)
    return held if isinstance(held, Refused) else PaymentDone()


def _release(connection: Connection, payment_id: UUID, parameters: BulkParameters) -> PaymentDone | Refused:
    released = release_payment(connection, payment_id, parameters.cause)
    return released if isinstance(released, Refused) else PaymentDone(job=released.job)


def _close(as_: PaymentState) -> Callable[[Connection, UUID, BulkParameters], PaymentDone | Refused]:
    def close(connection: Connection, payment_id: UUID, parameters: BulkParameters) -> PaymentDone | Refused:
        closing = request_close(connection, parameters.policy, payment_id, as_, parameters.cause)
        match closing:
            case Refused():
                return closing
            case Closed():
                return PaymentDone()
            case _:
                return PaymentDone("as soon as its PaymentIntent is canceled", closing)

    return close


_APPLY: Mapping[BulkAction, Callable[[Connection, UUID, BulkParameters], PaymentDone | Refused]] = {
    BulkAction.CHARGE: _charge,
    BulkAction.HOLD: _hold,
    BulkAction.RELEASE: _release,
    BulkAction.WRITE_OFF: _close(PaymentState.UNCOLLECTIBLE),
    BulkAction.VOID: _close(PaymentState.VOID),
}
