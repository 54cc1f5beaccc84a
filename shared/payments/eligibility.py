"""May this payment be charged now, and if not, why? One table of named conditions, each in Python and in SQL.

A claim reads rows under locks and uses the Python form; the sweep, previews and checks search for rows and use the
SQL form. `tests/payments/test_eligibility.py` shows that the two agree and that each user follows them. A user
selects the conditions that it needs, in its own order. Words for pages stay with the user.

States are literals in the SQL: a plan for any state could not use the partial indexes. The SQL is never NULL, so
`~condition.sql()` is the opposite. It reads `payments`, and where a condition is about the card also
`payment_settings` and `cards`: select from `payments_with_card()`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    FromClause,
    Interval,
    and_,
    exists,
    func,
    literal,
    literal_column,
    or_,
    select,
    tuple_,
)
from sqlalchemy.dialects.postgresql import psycopg2
from sqlalchemy.sql.visitors import replacement_traverse

from shared.clock import FARTHEST_AHEAD, has_come
from shared.db.query_terms import MACHINE_NOW, NOW, TOO_FAR, WAITS_FOR_OPERATOR, is_, one_of, one_of_not
from shared.db.rows import PaymentRow
from shared.db.tables.accounts import card_blocks, cards, payment_settings
from shared.db.tables.payments import payment_attempts, payments
from shared.domain.dunning import OPEN_ATTEMPTS_WAIT
from shared.domain.states import (
    AUTOMATIC,
    CHARGEABLE,
    ENDED,
    OPEN_ATTEMPT,
    WAITING_FOR_CARD,
    Lane,
    PaymentKind,
    PaymentState,
    SettingsKind,
    Trigger,
)


@dataclass(frozen=True)
class Facts:
    """What the Python forms read: both clocks, the payment, its settings, the primary card and its attempts."""

    now: datetime
    machine_now: datetime
    kind: str
    state: str
    lane: str
    trigger: str
    requested_by: str | None
    next_attempt_at: datetime | None
    held_until: datetime | None
    backoff_until: datetime | None
    pending_close_as: str | None
    waiting_for_revision_after: int | None
    settings_kind: str
    card_revision: int
    has_primary_card: bool
    has_customer: bool
    has_card: bool
    is_card_detached: bool
    is_card_blocked: bool
    has_open_attempt: bool
    has_sibling_ahead: bool


@dataclass(frozen=True)
class Clocks:
    """What the SQL forms compare with. By default the parameters that `Moment.parameters` fills in."""

    now: ColumnElement[datetime] = NOW
    machine_now: ColumnElement[datetime] = MACHINE_NOW
    too_far: ColumnElement[datetime] = TOO_FAR


CLOCKS = Clocks()


@dataclass(frozen=True)
class Condition:
    """One named fact about a payment: `holds` in Python, `sql` for queries. Both give the same answer."""

    name: str
    description: str
    holds: Callable[[Facts], bool]
    as_sql: Callable[[Clocks], ColumnElement[bool]]

    def sql(self, clocks: Clocks = CLOCKS) -> ColumnElement[bool]:
        return self.as_sql(clocks)


# -- the state and the next attempt

MONTHLY = Condition(
    "monthly",
    "it collects a monthly invoice; orders are never retried automatically",
    lambda facts: facts.kind == PaymentKind.MONTHLY,
    lambda _: is_(payments.c.kind, PaymentKind.MONTHLY),
)
CHARGEABLE_STATE = Condition(
    "chargeable",
    "its state lets a card be charged once the next attempt is due",
    lambda facts: facts.state in CHARGEABLE,
    lambda _: one_of(payments.c.state, CHARGEABLE),
)
DUE_STATE = Condition(
    "due",
    "it is due",
    lambda facts: facts.state == PaymentState.DUE,
    lambda _: is_(payments.c.state, PaymentState.DUE),
)
RETRY_SCHEDULED = Condition(
    "retry_scheduled",
    "it was declined, and a daily run charges it again",
    lambda facts: facts.state == PaymentState.RETRY_SCHEDULED,
    lambda _: is_(payments.c.state, PaymentState.RETRY_SCHEDULED),
)
REACHED = Condition(
    "reached",
    "the time of its next attempt has come",
    lambda facts: facts.next_attempt_at is not None and facts.next_attempt_at <= facts.now,
    lambda clocks: and_(payments.c.next_attempt_at.is_not(None), payments.c.next_attempt_at <= clocks.now),
)
WAITS_FOR_CARD = Condition(
    "waits_for_card",
    "it waits for the customer's card or confirmation",
    lambda facts: facts.state in WAITING_FOR_CARD,
    lambda _: one_of(payments.c.state, WAITING_FOR_CARD),
)
HAS_NEWER_CARD = Condition(
    "has_newer_card",
    "it waits for a card, and the primary card is newer than the one that blocked it (I15)",
    lambda facts: (
        facts.state in WAITING_FOR_CARD
        and facts.waiting_for_revision_after is not None
        and facts.has_primary_card
        and facts.card_revision > facts.waiting_for_revision_after
    ),
    lambda _: and_(
        one_of(payments.c.state, WAITING_FOR_CARD),
        payments.c.waiting_for_revision_after.is_not(None),
        payment_settings.c.primary_card_id.is_not(None),
        payment_settings.c.card_revision > payments.c.waiting_for_revision_after,
    ),
)
PAID = Condition(
    "paid",
    "it is paid",
    lambda facts: facts.state == PaymentState.PAID,
    lambda _: is_(payments.c.state, PaymentState.PAID),
)
COLLECTION_ENDED = Condition(
    "ended",
    "its collection has ended: paid, carried forward, written off or void",
    lambda facts: facts.state in ENDED,
    lambda _: one_of(payments.c.state, ENDED),
)
AWAITS_TRANSFER = Condition(
    "awaits_transfer",
    "it waits for the customer's bank transfer",
    lambda facts: facts.state == PaymentState.AWAITING_TRANSFER,
    lambda _: is_(payments.c.state, PaymentState.AWAITING_TRANSFER),
)
BY_CARD_AGAIN = Condition(
    "by_card_again",
    "it waits for a bank transfer, and the customer pays by card now",
    lambda facts: facts.state == PaymentState.AWAITING_TRANSFER and facts.settings_kind == SettingsKind.CARD,
    lambda _: and_(
        is_(payments.c.state, PaymentState.AWAITING_TRANSFER), is_(payment_settings.c.kind, SettingsKind.CARD)
    ),
)
AUTHORISED = Condition(
    "authorised",
    "the bank holds the money for it",
    lambda facts: facts.state == PaymentState.AUTHORISED,
    lambda _: is_(payments.c.state, PaymentState.AUTHORISED),
)


# -- what stops a payment whose time has come


def is_held(held_until: datetime | None, now: datetime) -> bool:
    """Whether a hold is in force at business time `now`. One that has expired is none."""
    return held_until is not None and held_until > now


def is_backing_off(backoff_until: datetime | None, machine_now: datetime) -> bool:
    """Whether a back-off is in force. One that a clock ahead of time wrote counts as expired (`has_come`)."""
    return backoff_until is not None and not has_come(backoff_until, machine_now)


HELD = Condition(
    "held",
    "a hold is in force",
    lambda facts: is_held(facts.held_until, facts.now),
    lambda clocks: and_(payments.c.held_until.is_not(None), payments.c.held_until > clocks.now),
)
NOT_HELD = Condition(
    "not_held",
    "no hold is in force",
    lambda facts: not HELD.holds(facts),
    lambda clocks: ~HELD.sql(clocks),
)
CLOSE_PENDING = Condition(
    "close_pending",
    "an operator closes it, and its PaymentIntent is being canceled",
    lambda facts: facts.pending_close_as is not None,
    lambda _: payments.c.pending_close_as.is_not(None),
)
BACKING_OFF = Condition(
    "backing_off",
    "a back-off after an outage is in force",
    lambda facts: is_backing_off(facts.backoff_until, facts.machine_now),
    lambda clocks: and_(
        payments.c.backoff_until.is_not(None),
        payments.c.backoff_until > clocks.machine_now,
        or_(payments.c.backoff_until <= clocks.too_far, payments.c.backoff_until >= WAITS_FOR_OPERATOR),
    ),
)
ATTEMPT_OPEN = Condition(
    "attempt_open",
    "an attempt is under way or its outcome is unknown (I2)",
    lambda facts: facts.has_open_attempt,
    lambda _: (
        exists()
        .where(payment_attempts.c.payment_id == payments.c.id, one_of(payment_attempts.c.state, OPEN_ATTEMPT))
        .correlate(payments)
    ),
)


#: Another monthly payment that the same card pays: `is_sibling` relates it to the query's own.
SIBLING = payments.alias("sibling")
#: A sibling's open attempt keeps the others waiting for so long: an outcome that stays unknown blocks only its own.
_OPEN_ATTEMPTS_WAIT = literal_column(f"interval '{OPEN_ATTEMPTS_WAIT.total_seconds():.0f} seconds'", Interval)


def _of_sibling(condition: Condition, clocks: Clocks) -> ColumnElement[bool]:
    """Return a condition on columns of `payments` as one on the sibling's."""

    def replaced(element: Any, **_: Any) -> Any:
        return SIBLING.c[element.key] if isinstance(element, Column) and element.table is payments else None

    replacing: ColumnElement[bool] = replacement_traverse(condition.sql(clocks), {}, replaced)
    return replacing


def is_sibling() -> ColumnElement[bool]:
    """Whether SIBLING is another monthly payment of the same account and card settings."""
    return and_(
        SIBLING.c.account_id == payments.c.account_id,  # the index's column
        SIBLING.c.settings_id == payments.c.settings_id,
        SIBLING.c.id != payments.c.id,
        is_(SIBLING.c.kind, PaymentKind.MONTHLY),
    )


def _age(of: FromClause) -> ColumnElement[Any]:
    """The order in which an account's monthly payments are charged: months issued late have one due date."""
    return tuple_(func.coalesce(of.c.period, of.c.due_on), of.c.created_at, of.c.id)


def has_sibling_ahead(clocks: Clocks = CLOCKS) -> ColumnElement[bool]:
    """Whether the card is being charged for a sibling, or is to be charged first for an older one that is due.

    Older is the earlier month. One that something stops is not waited for.
    """
    has_open_attempt = exists().where(
        payment_attempts.c.payment_id == SIBLING.c.id, one_of(payment_attempts.c.state, OPEN_ATTEMPT)
    )
    is_being_charged = has_open_attempt.where(payment_attempts.c.started_at > clocks.now - _OPEN_ATTEMPTS_WAIT)
    goes_first = and_(
        _age(SIBLING) < _age(payments),
        *(_of_sibling(condition, clocks) for condition in (CHARGEABLE_STATE, REACHED)),
        *(~_of_sibling(condition, clocks) for condition in (HELD, CLOSE_PENDING, BACKING_OFF)),
        ~has_open_attempt,
    )
    return (
        exists()
        .select_from(SIBLING)
        .where(
            is_sibling(),
            one_of_not(SIBLING.c.state, ENDED),
            or_(goes_first, is_being_charged),
        )
        .correlate(payments)
    )


def is_automatic(payment: Facts | PaymentRow) -> bool:
    """Whether the calendar charges it, and not a customer or an operator."""
    return payment.kind == PaymentKind.MONTHLY and payment.trigger in AUTOMATIC


SIBLING_AHEAD = Condition(
    "sibling_ahead",
    "its card is charged for another invoice of the account first",
    lambda facts: facts.has_sibling_ahead,
    has_sibling_ahead,
)
WAITS_ITS_TURN = Condition(
    "waits_its_turn",
    "the calendar charges it, and its card is charged for another invoice of the account first",
    lambda facts: is_automatic(facts) and facts.state in CHARGEABLE and SIBLING_AHEAD.holds(facts),
    lambda clocks: and_(
        is_(payments.c.kind, PaymentKind.MONTHLY),
        one_of(payments.c.trigger, AUTOMATIC),
        one_of(payments.c.state, CHARGEABLE),
        SIBLING_AHEAD.sql(clocks),
    ),
)


# -- what the customer pays with

BANK_TRANSFER = Condition(
    "bank_transfer",
    "the customer pays by bank transfer",
    lambda facts: facts.settings_kind == SettingsKind.BANK_TRANSFER,
    lambda _: is_(payment_settings.c.kind, SettingsKind.BANK_TRANSFER),
)
NO_CARD = Condition(
    "no_card",
    "no card is registered",
    lambda facts: not facts.has_card,
    lambda _: cards.c.id.is_(None),
)
CARD_DETACHED = Condition(
    "card_detached",
    "its card is detached at the processor",
    lambda facts: facts.is_card_detached,
    lambda _: cards.c.detached_at.is_not(None),
)
NO_CUSTOMER = Condition(
    "no_customer",
    "the account has no customer at the processor",
    lambda facts: not facts.has_customer,
    lambda _: payment_settings.c.stripe_customer_id.is_(None),
)
CARD_BLOCKED = Condition(
    "card_blocked",
    "the card network forbids charging its card again",
    lambda facts: facts.is_card_blocked,
    lambda _: (
        exists()
        .where(card_blocks.c.coverage == cards.c.coverage, card_blocks.c.fingerprint == cards.c.fingerprint)
        .correlate(cards)
    ),
)


# -- what an operator requested

#: False during a back-off or a hold: then the charge may be requested again.
ALREADY_REQUESTED = Condition(
    "asked_already",
    "an operator's charge of it waits for a worker",
    lambda facts: (
        facts.state == PaymentState.DUE
        and facts.lane == Lane.INTERACTIVE
        and facts.trigger == Trigger.OPERATOR
        and facts.requested_by is not None
        and not BACKING_OFF.holds(facts)
        and not HELD.holds(facts)
    ),
    lambda clocks: and_(
        is_(payments.c.state, PaymentState.DUE),
        is_(payments.c.lane, Lane.INTERACTIVE),
        is_(payments.c.trigger, Trigger.OPERATOR),
        payments.c.requested_by.is_not(None),
        ~BACKING_OFF.sql(clocks),
        ~HELD.sql(clocks),
    ),
)

#: The table, in the order in which a claim checks.
CONDITIONS: tuple[Condition, ...] = (
    MONTHLY,
    PAID,
    COLLECTION_ENDED,
    AWAITS_TRANSFER,
    BY_CARD_AGAIN,
    AUTHORISED,
    WAITS_FOR_CARD,
    HAS_NEWER_CARD,
    CHARGEABLE_STATE,
    DUE_STATE,
    RETRY_SCHEDULED,
    REACHED,
    HELD,
    NOT_HELD,
    CLOSE_PENDING,
    BACKING_OFF,
    ATTEMPT_OPEN,
    SIBLING_AHEAD,
    WAITS_ITS_TURN,
    BANK_TRANSFER,
    NO_CARD,
    CARD_DETACHED,
    NO_CUSTOMER,
    CARD_BLOCKED,
    ALREADY_REQUESTED,
)

#: What stops a payment whose time has come, in the order in which a claim checks.
STOPPED_BY = (HELD, CLOSE_PENDING, BACKING_OFF, ATTEMPT_OPEN, WAITS_ITS_TURN)
#: Each of these means that there is no card to charge.
WITHOUT_CARD = (NO_CARD, CARD_DETACHED, NO_CUSTOMER)
#: Why a payment that nothing stops is set aside instead of charged; the network's budget comes after these.
SET_ASIDE_BY = (BANK_TRANSFER, *WITHOUT_CARD, CARD_BLOCKED)


def first_that_holds(conditions: Iterable[Condition], facts: Facts) -> Condition | None:
    """Return the first of the conditions that holds."""
    return next((condition for condition in conditions if condition.holds(facts)), None)


def none_of(conditions: Iterable[Condition], clocks: Clocks = CLOCKS) -> tuple[ColumnElement[bool], ...]:
    """Return, as SQL, that none of the conditions holds."""
    return tuple(~condition.sql(clocks) for condition in conditions)


def is_free(clocks: Clocks = CLOCKS) -> tuple[ColumnElement[bool], ...]:
    """Return, as SQL, that nothing stops a payment whose time has come."""
    return none_of(STOPPED_BY, clocks)


def clocks_at(now: datetime, machine_now: datetime) -> Clocks:
    """Clocks that stand at one moment, for queries that are built for it."""
    return Clocks(*(literal(instant, NOW.type) for instant in (now, machine_now, machine_now + FARTHEST_AHEAD)))


def payments_with_card() -> FromClause:
    """Payments with their settings and, if there is one, the primary card: what the SQL forms read."""
    return payments.join(payment_settings, payment_settings.c.id == payments.c.settings_id).outerjoin(
        cards, cards.c.id == payment_settings.c.primary_card_id
    )


#: Named parameters without casts, as `sqlalchemy.text` reads them.
_TEXT_DIALECT = psycopg2.dialect(paramstyle="named")  # type: ignore[no-untyped-call]


def as_text(condition: ColumnElement[bool]) -> str:
    """Write a condition as SQL text, for queries that are text: parameters by name, literals as literals.

    Within a query, because outside of one an EXISTS wouldn't be about the query's own row.
    """
    query = select(payments.c.id).select_from(payments_with_card()).where(condition)
    unknown_yet = {clock.key: None for clock in (NOW, MACHINE_NOW, TOO_FAR)}
    compiled = query.params(unknown_yet).compile(dialect=_TEXT_DIALECT, compile_kwargs={"render_postcompile": True})
    return "(" + str(compiled).partition("WHERE ")[2] + ")"
