"""Begin, stop and resume a bulk action: in the caller's transaction, with its trail. Ring after the commit."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CTE, Connection, Row, Select, exists, func, insert, literal, select, text, update

from shared.bulk.actions import BulkAction
from shared.bulk.preview import Preview, digest_of, judged, preview
from shared.db.billing_events import BillingEvent, Cause, record_event
from shared.db.tables.operators import bulk_actions, bulk_items
from shared.domain.event_types import EventType
from shared.domain.refusals import NO_REASON, Refused
from shared.payments.operator.hold import LONGEST_HOLD

#: Whoever begins or resumes waits for the other: the text "duebulk" as a number, so that nobody else takes it.
BEGIN_LOCK = int.from_bytes(b"duebulk", "big")


@dataclass(frozen=True)
class Wanted:
    """What a person saw and confirms: the action, over what (`filter` as JSON, to be shown), until when (holds)."""

    action: BulkAction
    filter: Mapping[str, Any]
    until: date | None
    digest: str


@dataclass(frozen=True)
class Begun:
    """The bulk action is at work; `seen` is what it is over."""

    bulk_id: UUID
    snapshot: Preview


@dataclass(frozen=True)
class Changed:
    """Nothing was begun: what the person saw isn't what there is any more. This is."""

    now: Preview


def begin(
    connection: Connection, wanted: Wanted, ids: Select[Any], cause: Cause, machine_now: datetime
) -> Begun | Changed | Refused:
    """Begin a bulk action over exactly the payments that were seen, or say what there is instead.

    Two people who confirm the same: the second finds the first one's payments left out, with their name.
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
        return Changed(found)
    if found.count == 0:
        return Refused("there is nothing to do", "choose another filter: all that matches is left out")
    savepoint = connection.begin_nested()
    bulk_id = _insert(connection, wanted, found, cause)
    # In one statement, and so of one moment: what it takes is what was seen, or nothing is begun.
    if _take(connection, bulk_id, judged(wanted.action, ids, cause.at, machine_now)) != wanted.digest:
        savepoint.rollback()
        found = preview(connection, wanted.action, ids, cause.at, machine_now)
        return found if isinstance(found, Refused) else Changed(found)
    savepoint.commit()
    _tell(
        connection, EventType.BULK_ACTION_STARTED, bulk_id, cause, {"action": wanted.action, **found.as_snapshot()}
    )
    return Begun(bulk_id, found)


def stop(connection: Connection, bulk_id: UUID, cause: Cause) -> Row[Any] | Refused:
    """Stop a bulk action between two chunks; what is done stays done. Returns its row as it was."""
    bulk = _lock(connection, bulk_id)
    refused = _why_not(bulk, cause, "running")
    if bulk is None or refused is not None:
        return refused or NO_REASON
    stopped = connection.execute(
        update(bulk_items)
        .where(bulk_items.c.bulk_id == bulk_id, bulk_items.c.state == "waiting")
        .values(state="stopped")
    ).rowcount
    counts = {**bulk.counts, "waiting": 0, "stopped": bulk.counts.get("stopped", 0) + stopped}
    _change(connection, bulk_id, state="stopped", counts=counts)
    _tell(connection, EventType.BULK_ACTION_STOPPED, bulk_id, cause, {"counts": counts})
    return bulk


def resume(connection: Connection, bulk_id: UUID, cause: Cause) -> Row[Any] | Refused:
    """Go on with a stopped bulk action. Payments that another one has by now are left to it, and it is said.

    Returns its row as it was; ring for it.
    """
    connection.execute(select(func.pg_advisory_xact_lock(BEGIN_LOCK)))
    bulk = _lock(connection, bulk_id)
    refused = _why_not(bulk, cause, "stopped")
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
            result="another bulk action has it: it began while this was stopped",
            done_at=cause.at,
        )
    ).rowcount
    waiting = connection.execute(update(bulk_items).where(*stopped).values(state="waiting")).rowcount
    counts = {**bulk.counts, "waiting": waiting, "stopped": 0, "refused": bulk.counts.get("refused", 0) + left}
    _change(connection, bulk_id, state="running", counts=counts)
    _tell(connection, EventType.BULK_ACTION_RESUMED, bulk_id, cause, {"counts": counts})
    return bulk


def _insert(connection: Connection, wanted: Wanted, found: Preview, cause: Cause) -> UUID:
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


def _take(connection: Connection, bulk_id: UUID, looked: CTE) -> str:
    """Write what `judged` doesn't leave out as a bulk action's items; return the digest of what was written."""
    items = select(
        literal(bulk_id), looked.c.id, looked.c.amount_minor, looked.c.currency, text("'waiting'")
    ).where(looked.c.why.is_(None))
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


def _why_not(bulk: Row[Any] | None, cause: Cause, state: str) -> Refused | None:
    if bulk is None:
        return Refused("there is no such bulk action", "the list has all of them")
    if not cause.reason.strip():
        return NO_REASON
    if bulk.state != state:
        return Refused(f"it is {bulk.state}", "nothing: look at it again")
    return None


def _change(connection: Connection, bulk_id: UUID, **values: Any) -> None:
    connection.execute(update(bulk_actions).where(bulk_actions.c.id == bulk_id).values(**values))


def _tell(connection: Connection, what: EventType, bulk_id: UUID, cause: Cause, data: Mapping[str, Any]) -> None:
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
