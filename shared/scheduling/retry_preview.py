"""What a coverage's daily run would charge if it ran now, and what it would skip and why."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, time
from typing import Any

from sqlalchemy import (
    CTE,
    ColumnElement,
    Connection,
    DateTime,
    ScalarSelect,
    Select,
    Text,
    Uuid,
    bindparam,
    case,
    func,
    literal,
    null,
    select,
    union_all,
)
from sqlalchemy.dialects.postgresql import ARRAY, aggregate_order_by

from shared.db.query_terms import NOW, Moment, one_of
from shared.db.tables.payments import payments
from shared.domain.calendar import instant, local_date
from shared.domain.states import Lane
from shared.payments.eligibility import (
    ATTEMPT_OPEN,
    BANK_TRANSFER,
    CARD_BLOCKED,
    CLOSE_PENDING,
    HELD,
    MONTHLY,
    PAID,
    RETRY_SCHEDULED,
    SIBLING_AHEAD,
    WAITS_FOR_CARD,
    WITHOUT_CARD,
    Condition,
    payments_with_card,
)
from shared.payments.network_budgets import budget_parameters, is_over_budget
from shared.payments.siblings import is_declined_today
from shared.policy import Coverage
from shared.scheduling.daily_run import RETRIED_DAILY

#: Skipped payments are counted up to this number.
COUNT_UP_TO = 10_000
#: How many of the largest payments the confirmation shows.
LARGEST = 10

#: Why a payment isn't charged, in the order in which the reasons are checked.
MEANING_OF_SKIP: Mapping[str, str] = {
    "attempt_open": "an attempt is open: nothing else is charged until its outcome is known",
    "held": "an operator holds it",
    "being_ended": "it is being written off or voided: its PaymentIntent is being canceled",
    "bank_transfer": "the customer now pays by bank transfer: it starts to wait for the transfer",
    "no_card": "no card is registered: it starts to wait for one",
    "card_blocked": "the card network forbids charging its card again: it starts to wait for another card",
    "after_older": "an older invoice of the account is charged first: it follows once that one is paid",
    "declined_today": "its card was declined today for another invoice of the account: it is tried on the next day",
    "network_budget": "its card was declined as often as the network allows: it is postponed",
    "paid": "was declined before, and has been paid since that day began",
    "waits_for_customer": "waits for the customer's new card or confirmation",
    "not_yet_due": "is scheduled for later",
}


#: The obstacles to a charge, in the order in which a claim checks them. Today's declines and the network's budget
#: come after these.
SKIPPED_BY: tuple[tuple[str, Condition], ...] = (
    ("attempt_open", ATTEMPT_OPEN),
    ("held", HELD),
    ("being_ended", CLOSE_PENDING),
    ("bank_transfer", BANK_TRANSFER),
    *(("no_card", condition) for condition in WITHOUT_CARD),
    ("card_blocked", CARD_BLOCKED),
    ("after_older", SIBLING_AHEAD),
)


@dataclass(frozen=True)
class Skipped:
    """Payments that aren't charged for one reason, with examples of their ids. `is_capped`: there are more."""

    reason: str
    payments: int
    amount_minor: int
    examples: tuple[str, ...] = ()

    @property
    def is_capped(self) -> bool:
        return self.payments >= COUNT_UP_TO


@dataclass(frozen=True)
class RetryPreview:
    """What a daily run would charge now; minor units. `digest` changes when a payment or an amount of it does."""

    coverage: str
    currency: str
    payments: int
    amount_minor: int
    largest: tuple[tuple[str, int], ...]
    skipped: tuple[Skipped, ...]
    digest: str


def preview_retries(
    connection: Connection, coverage: Coverage, now: datetime, machine_now: datetime
) -> RetryPreview:
    """Return what the daily run would charge at business time `now`. Locks nothing, writes nothing.

    Each card's budget is read as it is now: of two payments of one card the first may use it up.
    """
    answer = connection.execute(
        _PREVIEW,
        {
            "coverage": coverage.code,
            **Moment(now, machine_now).parameters(),
            "today": instant(local_date(now, coverage.zone), time(0), coverage.zone),
            **budget_parameters(now),
        },
    ).one()
    found = {row["reason"]: row for row in (*(answer.skipped or ()), *(answer.elsewhere or ()))}
    return RetryPreview(
        coverage.code,
        coverage.currency,
        answer.payments,
        int(answer.amount_minor),
        tuple((row["id"], row["amount_minor"]) for row in answer.largest or ()),
        tuple(
            Skipped(reason, row["payments"], int(row["amount_minor"]), tuple(row["examples"] or ()))
            for reason in MEANING_OF_SKIP
            if (row := found.get(reason)) and row["payments"]
        ),
        answer.digest,
    )


_COVERAGE = bindparam("coverage", type_=Text)
_TODAY = bindparam("today", type_=DateTime(timezone=True))


def _scheduled() -> CTE:
    """The payments that the daily run reads, with the first obstacle to a charge (null: it would be charged).

    Both lanes are named, so that the index of due payments is used.
    """
    first = case(
        *((condition.sql(), literal(reason)) for reason, condition in SKIPPED_BY),
        (is_declined_today(_TODAY), literal("declined_today")),
        (is_over_budget(), literal("network_budget")),
        else_=null(),
    )
    return (
        select(payments.c.id, payments.c.amount_minor, first.label("reason"))
        .select_from(payments_with_card())
        .where(
            one_of(payments.c.lane, Lane),
            payments.c.coverage == _COVERAGE,
            *(condition.sql() for condition in RETRIED_DAILY),
        )
        .cte("scheduled")
        .prefix_with("MATERIALIZED")
    )


def _elsewhere() -> CTE:
    """Payments that the daily run doesn't read, and that a reader may look for."""
    other: Mapping[str, tuple[ColumnElement[bool], ...]] = {
        "paid": (
            PAID.sql(),
            payments.c.paid_at.between(_TODAY, NOW),
            payments.c.first_declined_at.is_not(None),
        ),
        "waits_for_customer": (WAITS_FOR_CARD.sql(),),
        "not_yet_due": (one_of(payments.c.lane, Lane), RETRY_SCHEDULED.sql(), payments.c.next_attempt_at > NOW),
    }
    return union_all(
        *(
            select(literal(reason).label("reason"), payments.c.id, payments.c.amount_minor)
            .where(payments.c.coverage == _COVERAGE, MONTHLY.sql(), *conditions)
            .limit(COUNT_UP_TO)
            for reason, conditions in other.items()
        )
    ).cte("elsewhere")


def _by_reason(found: CTE) -> ScalarSelect[Any]:
    """Counts, sums and five examples of each reason, as a JSON array."""
    groups = (
        select(
            found.c.reason,
            func.count().label("payments"),
            func.sum(found.c.amount_minor).label("amount_minor"),
            func.array_agg(aggregate_order_by(found.c.id, found.c.id.asc()), type_=ARRAY(Uuid))[1:5].label(
                "examples"
            ),
        )
        .where(found.c.reason.is_not(None))
        .group_by(found.c.reason)
        .subquery("groups")
    )
    return select(func.jsonb_agg(func.to_jsonb(groups.table_valued()))).scalar_subquery()


def _preview() -> Select[Any]:
    """One statement, and so one snapshot. The digest is over what would be charged, in the order of the ids."""
    scheduled = _scheduled()
    is_charged = scheduled.c.reason.is_(None)
    largest = (
        select(scheduled.c.id, scheduled.c.amount_minor)
        .where(is_charged)
        .order_by(scheduled.c.amount_minor.desc(), scheduled.c.id)
        .limit(LARGEST)
        .subquery("largest")
    )
    lines = func.string_agg(
        func.concat(scheduled.c.id, ":", scheduled.c.amount_minor),
        aggregate_order_by(literal(","), scheduled.c.id.asc()),
    ).filter(is_charged)
    of_largest = aggregate_order_by(
        func.to_jsonb(largest.table_valued()), largest.c.amount_minor.desc(), largest.c.id.asc()
    )
    return select(
        func.count().filter(is_charged).label("payments"),
        func.coalesce(func.sum(scheduled.c.amount_minor).filter(is_charged), 0).label("amount_minor"),
        func.encode(func.sha256(func.convert_to(func.coalesce(lines, ""), "UTF8")), "hex").label("digest"),
        select(func.jsonb_agg(of_largest)).scalar_subquery().label("largest"),
        _by_reason(scheduled).label("skipped"),
        _by_reason(_elsewhere()).label("elsewhere"),
    ).select_from(scheduled)


_PREVIEW = _preview()
