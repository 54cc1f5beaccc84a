"""Start, stop and resume a bulk action, with its billing event, in the caller's transaction."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CTE, Connection, Row, Select, exists, func, insert, literal, select, text, update

from shared.bulk.actions import BulkAction
from shared.bulk.preview import Preview, classified, digest_of, preview
from shared.db.billing_events import BillingEvent, Cause, record_event
from shared.db.tables.operators import bulk_actions, bulk_items
from shared.domain.event_types import EventType
from shared.domain.refusals import NO_REASON, Refused
from shared.payments.operator.hold import LONGEST_HOLD

#: Starts and resumes take turns on this lock: the text "duebulk" as a number, so that no other program takes it.
BEGIN_LOCK = int.from_bytes(b"duebulk", "big")


@dataclass(frozen=True)
class ConfirmedPreview:
    """The preview that the operator confirmed: action, filter (JSON, for display), until when (holds), digest."""

    action: BulkAction
    filter: Mapping[str, Any]
    until: date | None
    digest: str


@dataclass(frozen=True)
class Started:
    """The bulk action has started; `snapshot` is its preview."""

    bulk_id: UUID
    snapshot: Preview


@dataclass(frozen=True)
class PreviewChanged:
    """Nothing was started: the preview that the operator confirmed is out of date. `now` is the current one."""

    now: Preview


def begin(
    connection: Connection, wanted: ConfirmedPreview, ids: Select[Any], cause: Cause, machine_now: datetime
) -> Started | PreviewChanged | Refused:
    """Start a bulk action over exactly the previewed payments, or return what changed. Enqueue after the commit.

    If two operators confirm the same preview, the second finds the first one's payments left out, with their name.
    """
    if wanted.until is not None and not cause.at.date() < wanted.until <= cause.at.date() + LONGEST_HOLD:
        return Refused(
            f"{wanted.until} isn't a day within the next {LONGEST_HOLD.days}", "give another day, or none"
        )
    if not cause.reason.strip():
        return NO_REASON
    connection.execute(select(func.pg_advisory_xact_lock(BEGIN_LOCK)))
    found = preview(connection, wanted.action, ids, cause.at, machine_now)
    if isinstance(found, Refused):
        return found
    if found.digest != wanted.digest:
        return PreviewChanged(found)
    if found.count == 0:
        return Refused("there is nothing to do", "choose another filter: all matching payments are left out")
    savepoint = connection.begin_nested()
    bulk_id = _insert(connection, wanted, found, cause)
    # One statement sees one moment: it takes exactly the previewed payments, or nothing is started.
    if _insert_items(connection, bulk_id, classified(wanted.action, ids, cause.at, machine_now)) != wanted.digest:
        savepoint.rollback()
        found = preview(connection, wanted.action, ids, cause.at, machine_now)
        return found if isinstance(found, Refused) else PreviewChanged(found)
    savepoint.commit()
    _record(
        connection, EventType.BULK_ACTION_STARTED, bulk_id, cause, {"action": wanted.action, **found.as_snapshot()}
    )
    return Started(bulk_id, found)


def stop(connection: Connection, bulk_id: UUID, cause: Cause) -> Row[Any] | Refused:
    """Stop a bulk action between two chunks; finished payments stay done. Returns its row as it was before."""
    bulk = _lock(connection, bulk_id)
    refused = _refusal(bulk, cause, "running")
    if bulk is None or refused is not None:
        return refused or NO_REASON
    stopped = connection.execute(
        update(bulk_items)
        .where(bulk_items.c.bulk_id == bulk_id, bulk_items.c.state == "waiting")
        .values(state="stopped")
    ).rowcount
    counts = {**bulk.counts, "waiting": 0, "stopped": bulk.counts.get("stopped", 0) + stopped}
    _change(connection, bulk_id, state="stopped", counts=counts)
    _record(connection, EventType.BULK_ACTION_STOPPED, bulk_id, cause, {"counts": counts})
    return bulk


def resume(connection: Connection, bulk_id: UUID, cause: Cause) -> Row[Any] | Refused:
    """Resume a stopped bulk action. Payments that another one has taken meanwhile are refused, with that reason.

    Returns its row as it was before; the caller enqueues its job.
    """
    connection.execute(select(func.pg_advisory_xact_lock(BEGIN_LOCK)))
    bulk = _lock(connection, bulk_id)
    refused = _refusal(bulk, cause, "stopped")
    if bulk is None or refused is not None:
        return refused or NO_REASON
    other = bulk_items.alias("other")
    is_taken = exists().where(other.c.payment_id == bulk_items.c.payment_id, other.c.state == "waiting")
    stopped = (bulk_items.c.bulk_id == bulk_id, bulk_items.c.state == "stopped")
    left = connection.execute(
        update(bulk_items)
        .where(*stopped, is_taken)
        .values(
            state="refused",
            result="another bulk action took it while this one was stopped",
            done_at=cause.at,
        )
    ).rowcount
    waiting = connection.execute(update(bulk_items).where(*stopped).values(state="waiting")).rowcount
    counts = {**bulk.counts, "waiting": waiting, "stopped": 0, "refused": bulk.counts.get("refused", 0) + left}
    _change(connection, bulk_id, state="running", counts=counts)
    _record(connection, EventType.BULK_ACTION_RESUMED, bulk_id, cause, {"counts": counts})
    return bulk


def _insert(connection: Connection, wanted: ConfirmedPreview, found: Preview, cause: Cause) -> UUID:
    bulk_id: UUID = connection.execute(
        insert(bulk_actions)
        .values(
            action=wanted.action,
            filter=dict(wanted.filter),
            parameters={"until": wanted.until.isoformat()} if wanted.until else {},
            reason=cause.reason.strip(),
            requested_by=cause.actor,
            requested_at=cause.at,
            state="running",
            digest=found.digest,
            sums=dict(found.sums),
            expected=found.count,
            counts={"waiting": found.count, "done": 0, "refused": 0, "stopped": 0},
        )
        .returning(bulk_actions.c.id)
    ).scalar_one()
    return bulk_id


def _insert_items(connection: Connection, bulk_id: UUID, classified_rows: CTE) -> str:
    """Insert the payments that `classified` doesn't leave out as items of the bulk action; return their digest."""
    items = select(
        literal(bulk_id),
        classified_rows.c.id,
        classified_rows.c.amount_minor,
        classified_rows.c.currency,
        text("'waiting'"),
    ).where(classified_rows.c.why.is_(None))
    names = ["bulk_id", "payment_id", "amount_minor", "currency", "state"]
    taken = (
        insert(bulk_items)
        .from_select(names, items)
        .returning(bulk_items.c.payment_id, bulk_items.c.amount_minor)
        .cte("taken")
    )
    digest: str = connection.execute(select(digest_of(taken.c.payment_id, taken.c.amount_minor))).scalar_one()
    return digest


def _lock(connection: Connection, bulk_id: UUID) -> Row[Any] | None:
    return connection.execute(
        select(bulk_actions).where(bulk_actions.c.id == bulk_id).with_for_update(key_share=True)
    ).one_or_none()


def _refusal(bulk: Row[Any] | None, cause: Cause, state: str) -> Refused | None:
    if bulk is None:
        return Refused("there is no such bulk action", "find it in the list")
    if not cause.reason.strip():
        return NO_REASON
    if bulk.state != state:
        return Refused(f"it is {bulk.state}", "nothing: reload the page")
    return None


def _change(connection: Connection, bulk_id: UUID, **values: Any) -> None:
    connection.execute(update(bulk_actions).where(bulk_actions.c.id == bulk_id).values(**values))


def _record(connection: Connection, what: EventType, bulk_id: UUID, cause: Cause, data: Mapping[str, Any]) -> None:
    record_event(
        connection,
        BillingEvent(
            type=what,
            at=cause.at,
            actor=cause.actor,
            reason=cause.reason,
            data={"bulk_id": str(bulk_id), **data},
        ),
    )
