"""One chunk of a bulk action: act on some payments and mark their items, in one transaction.

So each payment is done once, wherever the worker dies. Chunks of one bulk action take turns on its row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, bindparam, select, update

from shared.bulk.actions import PaymentDone, apply_to_payment, parameters_of
from shared.db.billing_events import BillingEvent, record_event
from shared.db.tables.operators import bulk_actions, bulk_items
from shared.domain.event_types import EventType
from shared.domain.refusals import Refused
from shared.failpoints import Failpoint, reach
from shared.messaging.jobs import Job
from shared.operations.audit_log import AuditAction, AuditEntry, record_action
from shared.payments.locked_rows import lock_all
from shared.runtime import Runtime

#: Payments in one transaction, a dozen statements each: others wait for their locks for some tenths of a second.
CHUNK = 50

_ITEM = update(bulk_items).where(
    bulk_items.c.bulk_id == bindparam("of_bulk"), bulk_items.c.payment_id == bindparam("of_payment")
)


@dataclass(frozen=True)
class Outcome:
    """The result for one item."""

    payment_id: UUID
    result: PaymentDone | Refused

    @property
    def state(self) -> str:
        return "refused" if isinstance(self.result, Refused) else "done"

    @property
    def words(self) -> str | None:
        return self.result.reason if isinstance(self.result, Refused) else self.result.words


def work_on_chunk(connection: Connection, runtime: Runtime, bulk_id: UUID) -> list[Job] | None:
    """Do the next payments of a bulk action; return the jobs to enqueue.

    None if it is finished, was stopped, or another worker holds it.
    """
    bulk = connection.execute(
        select(bulk_actions)
        .where(bulk_actions.c.id == bulk_id, bulk_actions.c.state == "running")
        .with_for_update(key_share=True, skip_locked=True)
    ).one_or_none()
    if bulk is None:
        return None
    ids = connection.scalars(
        select(bulk_items.c.payment_id)
        .where(bulk_items.c.bulk_id == bulk_id, bulk_items.c.state == "waiting")
        .order_by(bulk_items.c.payment_id)
        .limit(CHUNK)
        .with_for_update(skip_locked=True)
    ).all()
    if not ids:
        _finish(connection, runtime, bulk)
        return None
    lock_all(connection, ids)
    parameters = parameters_of(bulk, runtime.policy, runtime.clock.now(), runtime.machine_now())
    outcomes = [Outcome(payment_id, apply_to_payment(connection, payment_id, parameters)) for payment_id in ids]
    _write(connection, bulk, outcomes, runtime)
    results = [one.result for one in outcomes]
    return [one.job for one in results if isinstance(one, PaymentDone) and one.job is not None]


def _write(connection: Connection, bulk: Row[Any], outcomes: Sequence[Outcome], runtime: Runtime) -> None:
    now = runtime.clock.now()
    connection.execute(
        _ITEM.values(state=bindparam("to_state"), result=bindparam("words"), done_at=now),
        [
            {"of_bulk": bulk.id, "of_payment": one.payment_id, "to_state": one.state, "words": one.words}
            for one in outcomes
        ],
    )
    counts = dict(bulk.counts)
    counts["waiting"] = counts.get("waiting", 0) - len(outcomes)
    for one in outcomes:
        counts[one.state] = counts.get(one.state, 0) + 1
    connection.execute(update(bulk_actions).where(bulk_actions.c.id == bulk.id).values(counts=counts))


def _finish(connection: Connection, runtime: Runtime, bulk: Row[Any]) -> None:
    now = runtime.clock.now()
    connection.execute(
        update(bulk_actions).where(bulk_actions.c.id == bulk.id).values(state="finished", finished_at=now)
    )
    record_event(
        connection,
        BillingEvent(
            type=EventType.BULK_ACTION_FINISHED,
            at=now,
            actor="worker",
            reason=bulk.reason,
            data={"bulk_id": str(bulk.id), "action": bulk.action, "counts": bulk.counts},
        ),
    )
    record_action(
        connection,
        AuditEntry(
            AuditAction.BULK_FINISH,
            bulk.requested_by,
            now,
            subject_kind="bulk",
            subject=str(bulk.id),
            reason=bulk.reason,
            outcome="finished",
            result={"action": bulk.action, **bulk.counts},
        ),
    )
    reach(Failpoint.BULK_FINISH_BEFORE_COMMIT)
