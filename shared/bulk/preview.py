"""What a bulk action would do now: counts, sums, and what it leaves out and why, in one set-based statement.

The digest covers the ids and amounts that an operator saw, so that confirming it confirms exactly those.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    CTE,
    ColumnElement,
    Connection,
    Row,
    Select,
    Subquery,
    and_,
    case,
    func,
    literal,
    null,
    select,
)
from sqlalchemy.dialects.postgresql import aggregate_order_by

from shared.bulk.actions import BulkAction
from shared.db.query_terms import is_
from shared.db.session import by_index_only
from shared.db.tables.operators import bulk_actions, bulk_items
from shared.db.tables.payments import payments
from shared.domain.refusals import Refused
from shared.payments.eligibility import (
    ALREADY_REQUESTED,
    ATTEMPT_OPEN,
    AUTHORISED,
    AWAITS_TRANSFER,
    BANK_TRANSFER,
    CARD_BLOCKED,
    CLOSE_PENDING,
    COLLECTION_ENDED,
    HELD,
    NOT_HELD,
    PAID,
    WITHOUT_CARD,
    Condition,
    clocks_at,
    payments_with_card,
)

#: A chunk of 50 takes some tenths of a second: this many finish in minutes, and an operator can still check them.
CAP = 20_000
#: The digest if nothing matches.
NOTHING = hashlib.sha256().hexdigest()

#: Why a payment is left out, as shown, in the order of the checks.
WHY_LEFT_OUT: Mapping[str, str] = {
    "paid": "paid already",
    "ended": "not collected any more: written off, void or carried forward",
    "elsewhere": "in another unfinished bulk action",
    "being_ended": "already being written off or voided",
    "attempt_open": "an attempt is in progress or its outcome is unknown: it may be taking the money",
    "authorised": "the money is on hold at the bank",
    "asked_already": "its charge is already requested",
    "transfer": "the customer pays by bank transfer",
    "held": "held: release it first",
    "held_already": "held already",
    "not_held": "not held",
    "no_card": "no card is registered",
    "card_blocked": "the network forbids charging its card again",
}


#: What leaves a payment out of every action, checked before "another bulk action has it".
ENDED_BY = (("paid", PAID), ("ended", COLLECTION_ENDED))
_WHILE_CHARGED = (("being_ended", CLOSE_PENDING), ("attempt_open", ATTEMPT_OPEN), ("authorised", AUTHORISED))
#: What else leaves a payment out, by action: the first that holds, for which the single action would refuse it.
LEFT_OUT_BY: Mapping[BulkAction, tuple[tuple[str, Condition], ...]] = {
    BulkAction.HOLD: (("being_ended", CLOSE_PENDING), ("held_already", HELD)),
    BulkAction.RELEASE: (("not_held", NOT_HELD),),
    BulkAction.WRITE_OFF: _WHILE_CHARGED,
    BulkAction.VOID: _WHILE_CHARGED,
    BulkAction.CHARGE: (
        *_WHILE_CHARGED,
        ("held", HELD),
        ("asked_already", ALREADY_REQUESTED),
        ("transfer", BANK_TRANSFER),
        ("transfer", AWAITS_TRANSFER),
        *(("no_card", condition) for condition in WITHOUT_CARD),
        ("card_blocked", CARD_BLOCKED),
    ),
}


@dataclass(frozen=True)
class LeftOut:
    """Payments that the action leaves out. If another bulk action `bulk_id` has them, `who` requested it."""

    why: str
    count: int
    who: str | None = None
    bulk_id: UUID | None = None

    @property
    def words(self) -> str:
        return WHY_LEFT_OUT[self.why]


@dataclass(frozen=True)
class Preview:
    """What would be done. `sums` are minor units by currency; `matching` counts left-out payments too."""

    action: BulkAction
    digest: str
    count: int
    sums: Mapping[str, int]
    left_out: tuple[LeftOut, ...] = field(default=())

    @property
    def matching(self) -> int:
        return self.count + sum(one.count for one in self.left_out)

    def as_snapshot(self) -> dict[str, Any]:
        """What the audit log keeps of it."""
        left_out: Counter[str] = Counter()
        for one in self.left_out:
            left_out[one.why] += one.count
        return {"digest": self.digest, "count": self.count, "sums": dict(self.sums), "left_out": left_out}


def preview(
    connection: Connection, action: BulkAction, ids: Select[Any], now: datetime, machine_now: datetime
) -> Preview | Refused:
    """Return what `begin` would do to the payments that `ids` selects (one column). Changes nothing.

    Whether a network's budget allows charging a card is only known at the claim, so it is not checked here.
    """
    by_index_only(connection)
    if (connection.scalar(select(func.count()).select_from(_chosen(ids))) or 0) > CAP:
        return _too_many()  # before each payment is classified
    classified_rows = classified(action, ids, now, machine_now)
    digest = (
        select(digest_of(classified_rows.c.id, classified_rows.c.amount_minor))
        .where(classified_rows.c.why.is_(None))
        .scalar_subquery()
    )
    groups = (classified_rows.c.why, classified_rows.c.who, classified_rows.c.bulk_id, classified_rows.c.currency)
    rows = connection.execute(
        select(
            *groups,
            func.count().label("payments"),
            func.sum(classified_rows.c.amount_minor).label("total_minor"),
            digest.label("digest"),
        ).group_by(*groups)
    ).all()
    return _too_many() if sum(row.payments for row in rows) > CAP else _read(action, rows)


def _chosen(ids: Select[Any]) -> Subquery:
    """The filter's ids, at most CAP + 1."""
    return ids.order_by(None).limit(CAP + 1).subquery("chosen")


def _too_many() -> Refused:
    return Refused(
        f"more than {CAP:,} payments match",
        "narrow the filter by state, coverage, amount or age, and do it in parts",
    )


def _read(action: BulkAction, rows: Sequence[Row[Any]]) -> Preview:
    taken = [row for row in rows if row.why is None]
    left_out: dict[tuple[str, str | None, UUID | None], int] = {}
    for row in rows:
        if row.why is not None:
            key = (row.why, row.who, row.bulk_id)
            left_out[key] = left_out.get(key, 0) + row.payments
    order = list(WHY_LEFT_OUT)
    return Preview(
        action,
        rows[0].digest if rows else NOTHING,
        sum(row.payments for row in taken),
        {row.currency: int(row.total_minor) for row in sorted(taken, key=lambda row: str(row.currency))},
        tuple(
            LeftOut(why, count, who, bulk_id)
            for (why, who, bulk_id), count in sorted(
                left_out.items(), key=lambda item: (order.index(item[0][0]), str(item[0][1:]))
            )
        ),
    )


def digest_of(id_: ColumnElement[Any], amount: ColumnElement[Any]) -> ColumnElement[str]:
    """SHA-256 over the lines `id:amount`, in the order of the ids."""
    line = func.concat(id_, ":", amount)
    lines = func.coalesce(func.string_agg(line, aggregate_order_by(literal("\n"), id_)), "")
    return func.encode(func.sha256(func.convert_to(lines, "UTF8")), "hex")


def classified(action: BulkAction, ids: Select[Any], now: datetime, machine_now: datetime) -> CTE:
    """Each payment of the filter, at most CAP + 1, with the reason it is left out (null: it isn't)."""
    chosen = _chosen(ids)
    other, theirs = bulk_items.alias("other"), bulk_actions.alias("theirs")
    clocks = clocks_at(now, machine_now)
    reasons = [
        *((word, condition.sql(clocks)) for word, condition in ENDED_BY),
        ("elsewhere", other.c.bulk_id.is_not(None)),
        *((word, condition.sql(clocks)) for word, condition in LEFT_OUT_BY[action]),
    ]
    why = case(*((condition, literal(word)) for word, condition in reasons), else_=null())
    return (
        select(
            payments.c.id,
            payments.c.amount_minor,
            payments.c.currency,
            why.label("why"),
            case((why == "elsewhere", theirs.c.requested_by), else_=null()).label("who"),
            case((why == "elsewhere", theirs.c.id), else_=null()).label("bulk_id"),
        )
        .select_from(payments_with_card())
        .join(chosen, next(iter(chosen.c)) == payments.c.id)
        .join(other, and_(other.c.payment_id == payments.c.id, is_(other.c.state, "waiting")), isouter=True)
        .join(theirs, theirs.c.id == other.c.bulk_id, isouter=True)
        .cte("classified")
    )
