"""The actions that may be taken on many payments at once, and the function that each of them is for one payment."""

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
    """What may be done to many payments. Permanent: rows of `bulk_actions` carry these words."""

    CHARGE = "charge"
    HOLD = "hold"
    RELEASE = "release"
    WRITE_OFF = "write_off"
    VOID = "void"


@dataclass(frozen=True)
class Doing:
    """What each payment of a bulk action is done with: who asked for it, when and why, and until when (holds)."""

    action: BulkAction
    cause: Cause
    until: date | None
    policy: Policy
    machine_now: datetime


@dataclass(frozen=True)
class Did:
    """What came of one payment: in words, and the job to ring for after the commit."""

    words: str | None = None
    job: Job | None = None


def doing_of(bulk: Row[Any], policy: Policy, now: datetime, machine_now: datetime) -> Doing:
    """Read a row of `bulk_actions`."""
    until = bulk.parameters.get("until")
    return Doing(
        BulkAction(bulk.action),
        Cause(bulk.requested_by, now, bulk.reason),
        date.fromisoformat(until) if until else None,
        policy,
        machine_now,
    )


def do_one(connection: Connection, payment_id: UUID, doing: Doing) -> Did | Refused:
    """Do a bulk action to one payment, as a person would to this one alone."""
    return _DO[doing.action](connection, payment_id, doing)


def _charge(connection: Connection, payment_id: UUID, doing: Doing) -> Did | Refused:
    # On the batch lane, where thousands belong; and nobody's hold on one payment is released by thousands.
    asked = request_charge(
        connection, payment_id, doing.cause, doing.machine_now, lane=Lane.BATCH, releases_hold=False
    )
    return asked if isinstance(asked, Refused) else Did(job=asked)


def _hold(connection: Connection, payment_id: UUID, doing: Doing) -> Did | Refused:
    held = hold_payment(connection, doing.policy, payment_id, doing.until, doing.cause)
    return held if isinstance(held, Refused) else Did()


def _release(connection: Connection, payment_id: UUID, doing: Doing) -> Did | Refused:
    released = release_payment(connection, payment_id, doing.cause)
    return released if isinstance(released, Refused) else Did(job=released.job)


def _end(as_: PaymentState) -> Callable[[Connection, UUID, Doing], Did | Refused]:
    def end(connection: Connection, payment_id: UUID, doing: Doing) -> Did | Refused:
        ending = request_close(connection, doing.policy, payment_id, as_, doing.cause)
        match ending:
            case Refused():
                return ending
            case Closed():
                return Did()
            case _:
                return Did("as soon as its PaymentIntent is canceled", ending)

    return end


_DO: Mapping[BulkAction, Callable[[Connection, UUID, Doing], Did | Refused]] = {
    BulkAction.CHARGE: _charge,
    BulkAction.HOLD: _hold,
    BulkAction.RELEASE: _release,
    BulkAction.WRITE_OFF: _end(PaymentState.UNCOLLECTIBLE),
    BulkAction.VOID: _end(PaymentState.VOID),
}
