"""The eligibility table: its Python and its SQL agree, and every user of it follows it.

Rows of every kind are written, and each answer of a user is compared with what the table says in Python. The lists
of conditions are spelled out here once more on purpose: a user that drops one, or changes the order, fails.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, create_engine, insert, not_, select, text

from shared.bulk.actions import BulkAction
from shared.bulk.preview import classified
from shared.clock import ManualClock
from shared.db.billing_events import Cause
from shared.db.query_terms import Moment
from shared.db.rows import PaymentRow, SettingsRow, read_one
from shared.db.tables.accounts import accounts, card_blocks, cards, payment_settings
from shared.db.tables.payments import payment_attempts, payment_intents, payments
from shared.domain.calendar import UNTIL_RELEASED
from shared.domain.declines import network_budgets
from shared.domain.refusals import Refused
from shared.domain.states import (
    ENDED,
    AttemptKind,
    AttemptState,
    Lane,
    PaymentKind,
    PaymentState,
    SettingsKind,
    Trigger,
)
from shared.messaging.jobs import ChargePayment, Job
from shared.payments.cancellation import claim_cancellation
from shared.payments.claim import WORDS_OF_STOP, Claimed, NotClaimed, claim_charge
from shared.payments.eligibility import (
    ALREADY_REQUESTED,
    ATTEMPT_OPEN,
    AUTHORISED,
    AWAITS_TRANSFER,
    BACKING_OFF,
    BANK_TRANSFER,
    BY_CARD_AGAIN,
    CARD_BLOCKED,
    CARD_DETACHED,
    CHARGEABLE_STATE,
    CLOSE_PENDING,
    COLLECTION_ENDED,
    CONDITIONS,
    DUE_STATE,
    HAS_NEWER_CARD,
    HELD,
    MONTHLY,
    NO_CARD,
    NO_CUSTOMER,
    PAID,
    REACHED,
    RETRY_SCHEDULED,
    SIBLING_AHEAD,
    WAITS_FOR_CARD,
    WAITS_ITS_TURN,
    Condition,
    Facts,
    as_text,
    clocks_at,
    first_that_holds,
    is_automatic,
    payments_with_card,
)
from shared.payments.look import look_at, over_budget
from shared.payments.operator.charge import WouldCharge, preview_charge, request_charge
from shared.payments.record_outcome import enqueue_if_due
from shared.reconciliation.verify import Scope
from shared.reconciliation.verify.progress import PROGRESS
from shared.runtime import Runtime
from shared.scheduling.daily_run import DailyRun, retry_next_chunk, retryable
from shared.scheduling.due_work import (
    PAYMENTS_BY_CARD_AGAIN,
    PAYMENTS_TO_CLOSE,
    PAYMENTS_WITH_A_NEW_CARD,
    due_payments,
)
from shared.scheduling.pending_work import SHORT_BACKOFF, pending_work
from shared.scheduling.retry_preview import preview_retries
from tests.conftest import sqlalchemy_url
from tests.seed import CURRENCY, default_policy
from tests.servers import Servers
from web.dashboard.queries.alerts import DUE_FOR_TOO_LONG, gather_alert_facts

NOW = datetime(2026, 11, 4, 9, tzinfo=UTC)
#: The two clocks differ, so that a condition that reads the wrong one is found.
MACHINE_NOW = datetime(2026, 12, 20, 12, tzinfo=UTC)
SECOND, HOUR = timedelta(seconds=1), timedelta(hours=1)
REVISION = 5
POLICY = default_policy()
ANNA = "operator:anna"


@dataclass(frozen=True)
class Spec:
    """One payment with everything about it. Offsets are from the clock that the column belongs to."""

    coverage: str = "global"
    kind: str = PaymentKind.MONTHLY
    state: str = PaymentState.DUE
    lane: str = Lane.BATCH
    trigger: str = Trigger.MONTH_START
    requested_by: str | None = None
    next_attempt: timedelta = -2 * HOUR
    held: timedelta | None = None
    backoff: timedelta | None = None
    pending_close_as: str | None = None
    attempt: str | None = None
    settings_kind: str = SettingsKind.CARD
    card: str | None = "good"
    has_customer: bool = True
    #: How much newer the card's revision is than the one that the payment waits for.
    newer_by: int = 1
    due_on: date = date(2026, 11, 1)
    code: str | None = None
    tried: timedelta = HOUR  # ago
    tried_revision: int = REVISION
    more: int = 0  # minor units
    sibling: str | None = None
    #: Only of a sibling itself: it waits for the payment that it is a sibling of.
    is_behind: bool = False
    is_declined_today: bool = False

    def facts(self) -> Facts:
        is_chargeable = self.state in ("due", "retry_scheduled")
        is_waiting = self.state in ("needs_payment_method", "needs_authentication")
        return Facts(
            now=NOW,
            machine_now=MACHINE_NOW,
            kind=self.kind,
            state=self.state,
            lane=self.lane,
            trigger=self.trigger,
            requested_by=self.requested_by,
            next_attempt_at=NOW + self.next_attempt if is_chargeable else None,
            held_until=_instant(NOW, self.held),
            backoff_until=_instant(MACHINE_NOW, self.backoff),
            pending_close_as=self.pending_close_as,
            waiting_for_revision_after=REVISION - self.newer_by if is_waiting else None,
            settings_kind=self.settings_kind,
            card_revision=REVISION,
            has_primary_card=self.card is not None,
            has_customer=self.has_customer,
            has_card=self.card is not None,
            is_card_detached=self.card == "detached",
            is_card_blocked=self.card == "blocked",
            has_open_attempt=self.attempt in ("started", "unknown"),
            has_sibling_ahead=self.sibling in AHEAD or self.is_behind,
        )


FOREVER = timedelta.max
#: Another monthly invoice that the same card pays: how it differs from a plain one of the month before.
SIBLINGS: dict[str, dict[str, Any]] = {
    "older_due": {},
    "older_retry": {"state": PaymentState.RETRY_SCHEDULED, "next_attempt": timedelta(0)},
    "older_after_its_hold": {"held": timedelta(0)},
    "younger_being_charged": {"due_on": date(2026, 12, 1), "attempt": "started", "tried": timedelta(minutes=14)},
    "older_unknown_for_long": {"attempt": "unknown", "tried": timedelta(minutes=15)},
    "older_scheduled": {"state": PaymentState.RETRY_SCHEDULED, "next_attempt": SECOND},
    "older_paid": {"state": PaymentState.PAID},
    "older_held": {"held": SECOND},
    "older_backing_off": {"backoff": SECOND},
    "older_closing": {"pending_close_as": "void"},
    "older_without_card": {"state": PaymentState.NEEDS_PAYMENT_METHOD, "newer_by": 0},
    "older_order": {"kind": PaymentKind.ORDER},
    "younger_due": {"due_on": date(2026, 12, 1)},
    "declined": {"next_attempt": 24 * HOUR, "attempt": "declined", "code": "do_not_honor"},
    "no_funds": {"next_attempt": 24 * HOUR, "attempt": "declined", "code": "insufficient_funds"},
    "no_funds_for_more": {
        "next_attempt": 24 * HOUR,
        "attempt": "declined",
        "code": "insufficient_funds",
        "more": 1,
    },
    "declined_yesterday": {"next_attempt": 24 * HOUR, "attempt": "declined", "tried": 20 * HOUR},
    "declined_other_card": {"next_attempt": 24 * HOUR, "attempt": "declined", "tried_revision": REVISION - 1},
    "order_declined": {"kind": PaymentKind.ORDER, "next_attempt": 24 * HOUR, "attempt": "declined"},
}
AHEAD = ("older_due", "older_retry", "older_after_its_hold", "younger_being_charged")
#: After these, an automatic charge waits for the next business day.
DECLINED_TODAY = ("declined", "no_funds")
VALUES: dict[str, tuple[Any, ...]] = {
    "coverage": ("global", "japan"),
    "kind": tuple(PaymentKind),
    "state": tuple(PaymentState),
    "lane": tuple(Lane),
    "trigger": (Trigger.MONTH_START, Trigger.OPERATOR),
    "requested_by": (None, ANNA),
    "next_attempt": (-2 * HOUR, -timedelta(minutes=30), -SECOND, timedelta(0), SECOND, 48 * HOUR),
    "held": (None, -2 * HOUR, -SECOND, timedelta(0), SECOND, 48 * HOUR, FOREVER),
    "backoff": (
        None, -2 * HOUR, -SECOND, timedelta(0), SECOND, SHORT_BACKOFF, SHORT_BACKOFF + SECOND, HOUR, 2 * HOUR,
        2 * HOUR + SECOND, 9_000 * HOUR, FOREVER,
    ),
    "pending_close_as": (None, "void", "uncollectible"),
    "attempt": (None, *AttemptState),
    "settings_kind": tuple(SettingsKind),
    "card": ("good", None, "detached", "blocked", "used_up"),
    "has_customer": (True, False),
    "newer_by": (1, 0, -1),
    "sibling": (None, *SIBLINGS),
}  # fmt: skip
#: Payments that each user takes; each value of each field is put into each of them.
TAKEN = (
    Spec(),
    Spec(state=PaymentState.RETRY_SCHEDULED, lane=Lane.INTERACTIVE),
    Spec(state=PaymentState.NEEDS_PAYMENT_METHOD),
    Spec(lane=Lane.INTERACTIVE, trigger=Trigger.OPERATOR, requested_by=ANNA),
    Spec(pending_close_as="void"),
)
ONE_AWAY = tuple(
    {replace(taken, **{name: value}): None for taken in TAKEN for name in VALUES for value in VALUES[name]}
)


def _mostly(values: tuple[Any, ...]) -> st.SearchStrategy[Any]:
    """Half of the rows have the first value: those that everything stops say nothing about one condition."""
    return st.booleans().flatmap(lambda is_plain: st.just(values[0]) if is_plain else st.sampled_from(values))


SPECS = st.builds(
    Spec,
    **{
        name: st.sampled_from(values) if name in ("state", "coverage", "lane") else _mostly(values)
        for name, values in VALUES.items()
    },
)


def _instant(clock: datetime, offset: timedelta | None) -> datetime | None:
    if offset is None:
        return None
    return UNTIL_RELEASED if offset == FOREVER else clock + offset


class OneConnection:
    """An engine that hands out the test's one connection, with its uncommitted rows."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        yield self._connection


@dataclass(frozen=True)
class Rows:
    """The payments in the database, and the facts about each."""

    connection: Connection
    specs: dict[UUID, Spec]
    runtime: Runtime
    enqueued: list[Job]

    def those(self, *all_of: Condition, none_of: Sequence[Condition] = (), **columns: Any) -> set[UUID]:
        """Payments of which the table says so."""
        return {
            payment_id
            for payment_id, spec in self.specs.items()
            if all(condition.holds(spec.facts()) for condition in all_of)
            and not any(condition.holds(spec.facts()) for condition in none_of)
            and all(getattr(spec, name) == value for name, value in columns.items())
        }

    def ids(self, query: Any) -> set[UUID]:
        return set(self.connection.scalars(query, Moment(NOW, MACHINE_NOW).parameters()))

    @contextmanager
    def undone(self) -> Iterator[None]:
        """Roll back everything written inside the block."""
        savepoint = self.connection.begin_nested()
        yield
        savepoint.rollback()


@pytest.fixture(scope="module")
def database(servers: Servers, migrated: str) -> Iterator[Engine]:
    with servers.fresh_database(migrated) as url:
        engine = create_engine(sqlalchemy_url(url))
        yield engine
        engine.dispose()


@pytest.fixture(scope="module")
def one_away(database: Engine) -> Iterator["Rows"]:
    with written(database, ONE_AWAY) as rows:
        yield rows


@contextmanager
def written(engine: Engine, specs: Sequence[Spec]) -> Iterator[Rows]:
    """Write the payments, and roll everything back at the end."""
    with engine.connect() as connection:
        ids = _insert_all(connection, {uuid4(): spec for spec in specs})
        enqueued: list[Job] = []
        runtime = Runtime(
            policy=POLICY,
            engine=cast("Engine", OneConnection(connection)),
            clock=ManualClock(NOW),
            machine_now=lambda: MACHINE_NOW,
            gateways={},
            enqueue=lambda jobs: enqueued.extend(jobs) is None,
            lease=timedelta(minutes=5),
        )
        yield Rows(connection, ids, runtime, enqueued)
        connection.rollback()


def _insert_all(connection: Connection, specs: dict[UUID, Spec]) -> dict[UUID, Spec]:
    """Insert the payments and the siblings that they name; return all of them."""
    with_siblings: dict[UUID, Spec] = {}
    many: dict[Any, list[dict[str, Any]]] = {
        table: [] for table in (accounts, payment_settings, cards, card_blocks, payments)
    }
    intents: list[dict[str, Any]] = []
    attempts: list[dict[str, Any]] = []
    for number, (payment_id, spec) in enumerate(specs.items()):
        account_id, settings_id, card_id = uuid4(), uuid4(), uuid4()
        fingerprint = f"fp_{settings_id}"
        many[accounts].append({"id": account_id, "external_id": str(account_id), "name": "A"})
        many[payment_settings].append(
            {
                "id": settings_id,
                "account_id": account_id,
                "coverage": spec.coverage,
                "kind": spec.settings_kind,
                "stripe_customer_id": f"cus_{settings_id}" if spec.has_customer else None,
                "primary_card_id": card_id if spec.card else None,
                "card_revision": REVISION,
                "billing_details": {},
            }
        )
        if spec.card:
            many[cards].append(
                {
                    "id": card_id,
                    "settings_id": settings_id,
                    "coverage": spec.coverage,
                    "stripe_payment_method_id": f"pm_{card_id}",
                    "brand": "visa",
                    "network": "visa",
                    "last4": "4242",
                    "exp_month": 12,
                    "exp_year": 2030,
                    "fingerprint": fingerprint,
                    "attached_at": NOW,
                    "detached_at": NOW if spec.card == "detached" else None,
                }
            )
        if spec.card == "blocked":
            many[card_blocks].append(
                {
                    "coverage": spec.coverage,
                    "fingerprint": fingerprint,
                    "reason": "stolen",
                    "attempt_id": uuid4(),
                    "blocked_at": NOW,
                }
            )
        of_account = {"account_id": account_id, "settings_id": settings_id}
        many[payments].append(_payment(payment_id, spec, 1_000 + number) | of_account)
        with_siblings[payment_id] = spec
        if spec.sibling:
            sibling_id, sibling = uuid4(), _sibling_of(spec)
            many[payments].append(_payment(sibling_id, sibling, 1_000 + number) | of_account)
            with_siblings[sibling_id] = sibling
        if spec.card == "used_up":  # by another payment, which is void
            other_id = uuid4()
            void = Spec(coverage=spec.coverage, kind=PaymentKind.ORDER, state=PaymentState.VOID)
            many[payments].append(_payment(other_id, void, 1_000) | of_account)
            intents.append(_intent(other_id, spec.coverage))
            attempts += [
                {**_attempt(intents[-1], number, AttemptState.DECLINED), "card_fingerprint": fingerprint}
                for number in range(1, MOST_ATTEMPTS + 1)
            ]
    for payment_id, spec in with_siblings.items():
        if spec.attempt:
            intents.append(_intent(payment_id, spec.coverage))
            attempts.append(
                _attempt(intents[-1], 1, spec.attempt)
                | {"started_at": NOW - spec.tried, "card_revision": spec.tried_revision, "decline_code": spec.code}
            )
    for table, rows in (*many.items(), (payment_intents, intents), (payment_attempts, attempts)):
        if rows:
            connection.execute(insert(table), rows)
    return with_siblings


def _sibling_of(spec: Spec) -> Spec:
    """Return the sibling with what it has to wait for: the other payment, where that one goes first."""
    of_account = ("coverage", "lane", "settings_kind", "card", "has_customer")
    plain = Spec(due_on=date(2026, 10, 1), **{name: getattr(spec, name) for name in of_account})
    sibling = replace(plain, **SIBLINGS[spec.sibling or ""])
    facts, is_monthly = spec.facts(), spec.kind == PaymentKind.MONTHLY
    goes_first = all(condition.holds(facts) for condition in (CHARGEABLE_STATE, REACHED)) and not any(
        condition.holds(facts) for condition in (HELD, CLOSE_PENDING, BACKING_OFF)
    )
    return replace(
        sibling,
        is_behind=is_monthly
        and spec.state not in ENDED
        and spec.due_on < sibling.due_on
        and goes_first
        and not facts.has_open_attempt,
        is_declined_today=is_monthly and spec.attempt == AttemptState.DECLINED,
    )


def _payment(payment_id: UUID, spec: Spec, amount_minor: int) -> dict[str, Any]:
    facts = spec.facts()
    return {
        "id": payment_id,
        "kind": spec.kind,
        "coverage": spec.coverage,
        "currency": CURRENCY[spec.coverage],
        "amount_minor": amount_minor + spec.more,
        "state": spec.state,
        "lane": spec.lane,
        "trigger": spec.trigger,
        "requested_by": spec.requested_by,
        "next_attempt_at": facts.next_attempt_at,
        "held_until": facts.held_until,
        "backoff_until": facts.backoff_until,
        "pending_close_as": spec.pending_close_as,
        "waiting_for_revision_after": facts.waiting_for_revision_after,
        "due_on": spec.due_on,
        "paid_at": NOW if spec.state == PaymentState.PAID else None,
        "first_declined_at": NOW,
        "attempt_count": 1 if spec.attempt else 0,
    }


MOST_ATTEMPTS = max(budget.max_attempts for budget in network_budgets())


def _intent(payment_id: UUID, coverage: str) -> dict[str, Any]:
    return {
        "id": uuid4(),
        "payment_id": payment_id,
        "ordinal": 1,
        "coverage": coverage,
        "amount_minor": 1,
        "currency": CURRENCY[coverage],
        "stripe_customer_id": "cus",
        "create_parameters": {},
        "api_version": "1",
        "first_sent_at": MACHINE_NOW,
    }


def _attempt(intent: dict[str, Any], number: int, state: str) -> dict[str, Any]:
    return {
        "payment_id": intent["payment_id"],
        "number": number,
        "kind": "charge",
        "state": state,
        "payment_intent_id": intent["id"],
        "coverage": intent["coverage"],
        "trigger": Trigger.MONTH_START,
        "lane": Lane.BATCH,
        "card_revision": REVISION,
        "card_fingerprint": None,
        "started_at": NOW - HOUR,
        "decline_code": None,
        "lease_expires_at": MACHINE_NOW + HOUR,
        "look_up_at": MACHINE_NOW + HOUR if state == AttemptState.UNKNOWN else None,
    }


# -- what the table says


def one_of(*names_and_conditions: tuple[str, Condition]) -> dict[Condition, str]:
    return {condition: name for name, condition in names_and_conditions}


WITHOUT_CARD = (NO_CARD, CARD_DETACHED, NO_CUSTOMER)
STOPPED_BY = (HELD, CLOSE_PENDING, BACKING_OFF, ATTEMPT_OPEN, WAITS_ITS_TURN)
SET_ASIDE = {
    BANK_TRANSFER: PaymentState.AWAITING_TRANSFER,
    **dict.fromkeys((*WITHOUT_CARD, CARD_BLOCKED), PaymentState.NEEDS_PAYMENT_METHOD),
}


def is_declined_today(spec: Spec) -> bool:
    return spec.sibling in DECLINED_TODAY or spec.is_declined_today


def is_used_up(spec: Spec) -> bool:
    return spec.card == "used_up"


# -- the conditions themselves


def check_conditions(rows: Rows) -> None:
    """Python and SQL agree, with each kind of clock, negated and as text; no SQL is NULL."""
    parameters = Moment(NOW, MACHINE_NOW).parameters()
    texts = ", ".join(f"{as_text(condition.sql())} AS {condition.name}" for condition in CONDITIONS)
    as_text_query = text(
        f"SELECT payments.id, {texts} FROM payments JOIN payment_settings ON payment_settings.id = settings_id"
        " LEFT JOIN cards ON cards.id = primary_card_id"
    )
    with_parameters = {condition.name: condition.sql() for condition in CONDITIONS}
    with_values = {condition.name: condition.sql(clocks_at(NOW, MACHINE_NOW)) for condition in CONDITIONS}
    negated = {name: not_(sql) for name, sql in with_parameters.items()}
    for query, is_negated in (
        (_labelled(with_parameters), False),
        (_labelled(with_values), False),
        (_labelled(negated), True),
        (as_text_query, False),
    ):
        for row in rows.connection.execute(query, parameters):
            if row.id in rows.specs:
                spec = rows.specs[row.id]
                sql = {condition.name: row._mapping[condition.name] for condition in CONDITIONS}
                assert sql == {one.name: one.holds(spec.facts()) != is_negated for one in CONDITIONS}, spec


def _labelled(conditions: dict[str, Any]) -> Any:
    columns = (sql.label(name) for name, sql in conditions.items())
    return select(payments.c.id, *columns).select_from(payments_with_card())


def check_facts(rows: Rows) -> None:
    for payment_id, spec in rows.specs.items():
        row = rows.connection.execute(select(payments).where(payments.c.id == payment_id))
        payment = read_one(PaymentRow, row)
        row = rows.connection.execute(select(payment_settings).where(payment_settings.c.id == payment.settings_id))
        of_payment = read_one(SettingsRow, row)
        look = look_at(rows.connection, payment, of_payment, NOW, MACHINE_NOW)
        assert look.facts == spec.facts()
        if spec.card:
            assert (over_budget(rows.connection, payment, look) is not None) == is_used_up(spec)


# -- its users


def check_claims(rows: Rows) -> None:
    for payment_id, spec in rows.specs.items():
        facts, payment = spec.facts(), select(payments).where(payments.c.id == payment_id)
        with rows.undone():
            before = rows.connection.execute(payment).one()
            claimed = claim_charge(rows.connection, rows.runtime, payment_id)
            after = rows.connection.execute(payment).one()
        is_woken = HAS_NEWER_CARD.holds(facts) or BY_CARD_AGAIN.holds(facts)
        is_time = (CHARGEABLE_STATE.holds(facts) and REACHED.holds(facts)) or is_woken
        stopped = first_that_holds(STOPPED_BY, facts)
        aside = first_that_holds(SET_ASIDE, facts)
        if not is_time:
            assert isinstance(claimed, NotClaimed), spec
            assert claimed.reason.startswith(("waits: ", "is due at", f"is {spec.state}")), claimed
            assert after == before
        elif stopped:
            assert claimed == NotClaimed(WORDS_OF_STOP[stopped]), spec
            assert after == before
        elif aside is BANK_TRANSFER and spec.attempt is not None:  # its PaymentIntent is live: canceled first (I3)
            assert isinstance(claimed, Claimed), spec
            assert claimed.kind == AttemptKind.CANCEL, spec
        elif aside:
            assert isinstance(claimed, NotClaimed), spec
            assert after.state == SET_ASIDE[aside], spec
        elif is_automatic(spec.facts()) and not HAS_NEWER_CARD.holds(facts) and spec.sibling in AHEAD:
            assert claimed == NotClaimed(WORDS_OF_STOP[WAITS_ITS_TURN]), spec  # it pays by card again
        elif is_automatic(spec.facts()) and not HAS_NEWER_CARD.holds(facts) and is_declined_today(spec):
            assert isinstance(claimed, NotClaimed), spec
            assert after.state == PaymentState.RETRY_SCHEDULED, spec
            assert after.next_attempt_at.astimezone(POLICY.coverage(spec.coverage).zone).isoformat()[:16] == (
                "2026-11-05T09:00"
            )
        elif is_used_up(spec):
            assert isinstance(claimed, NotClaimed), spec
            assert after.state == PaymentState.RETRY_SCHEDULED, spec
        else:
            assert isinstance(claimed, Claimed), (spec, claimed)


def check_cancellations(rows: Rows) -> None:
    closing = rows.those(CLOSE_PENDING, none_of=(COLLECTION_ENDED, BACKING_OFF, ATTEMPT_OPEN))
    for payment_id, spec in rows.specs.items():
        with rows.undone():
            claimed = claim_cancellation(rows.connection, rows.runtime, payment_id)
        assert isinstance(claimed, NotClaimed) == (payment_id not in closing), spec


def check_sweep(rows: Rows) -> None:
    for lane in Lane:
        due = rows.those(CHARGEABLE_STATE, REACHED, none_of=STOPPED_BY, lane=lane)
        assert rows.ids(due_payments(lane)) == due
    assert rows.ids(PAYMENTS_WITH_A_NEW_CARD) == rows.those(HAS_NEWER_CARD, none_of=STOPPED_BY)
    assert rows.ids(PAYMENTS_BY_CARD_AGAIN) == rows.those(BY_CARD_AGAIN, none_of=STOPPED_BY)
    closing = rows.those(CLOSE_PENDING, none_of=(COLLECTION_ENDED, BACKING_OFF, ATTEMPT_OPEN))
    assert rows.ids(PAYMENTS_TO_CLOSE) == closing


def check_enqueue_if_due(rows: Rows) -> None:
    rows.enqueued.clear()
    for payment_id in rows.specs:
        enqueue_if_due(rows.runtime, payment_id)
    due = rows.those(DUE_STATE, REACHED, none_of=(HELD, CLOSE_PENDING, BACKING_OFF))
    assert set(rows.enqueued) == {
        ChargePayment(payment_id, Lane(rows.specs[payment_id].lane)) for payment_id in due
    }


def check_daily_run(rows: Rows) -> None:
    for coverage in POLICY.coverages:
        of_run = {"coverage": coverage}
        chosen = rows.those(RETRY_SCHEDULED, REACHED, MONTHLY, none_of=(HELD, CLOSE_PENDING), **of_run)
        assert rows.ids(select(payments.c.id).where(*retryable(coverage, NOW))) == chosen
        daily = DailyRun(uuid4(), ANNA, coverage, POLICY, NOW, NOW.date())
        cursor: Any = {}
        counts: Any = {}
        jobs: list[Job] = []
        with rows.undone():
            while cursor is not None:
                result = retry_next_chunk(rows.connection, daily, cursor, counts)
                cursor, counts = result.cursor, result.counts
                jobs += result.jobs
        retried = {payment_id for payment_id in chosen if not rows.specs[payment_id].facts().has_open_attempt}
        assert set(jobs) == {ChargePayment(payment_id, Lane.BATCH) for payment_id in retried}
        waiting = rows.those(WAITS_FOR_CARD, MONTHLY, **of_run) | rows.those(
            CHARGEABLE_STATE, HELD, MONTHLY, **of_run
        )
        explained = Counter(
            "held" if HELD.holds(rows.specs[payment_id].facts()) else rows.specs[payment_id].state
            for payment_id in waiting
        )
        assert counts["not_attempted"] == explained


SKIPPED_BY = one_of(
    ("attempt_open", ATTEMPT_OPEN),
    ("held", HELD),
    ("being_ended", CLOSE_PENDING),
    ("bank_transfer", BANK_TRANSFER),
    *(("no_card", condition) for condition in WITHOUT_CARD),
    ("card_blocked", CARD_BLOCKED),
    ("after_older", SIBLING_AHEAD),
)


def check_daily_preview(rows: Rows) -> None:
    for coverage in POLICY.coverages.values():
        of_coverage = {"coverage": coverage.code}
        skipped: Counter[str] = Counter()
        charged = set()
        for payment_id in rows.those(RETRY_SCHEDULED, REACHED, MONTHLY, **of_coverage):
            spec = rows.specs[payment_id]
            obstacle = first_that_holds(SKIPPED_BY, spec.facts())
            if obstacle:
                skipped[SKIPPED_BY[obstacle]] += 1
            elif is_declined_today(spec):
                skipped["declined_today"] += 1
            elif is_used_up(spec):
                skipped["network_budget"] += 1
            else:
                charged.add(payment_id)
        skipped["paid"] = len(rows.those(PAID, MONTHLY, **of_coverage))
        skipped["waits_for_customer"] = len(rows.those(WAITS_FOR_CARD, MONTHLY, **of_coverage))
        skipped["not_yet_due"] = len(rows.those(RETRY_SCHEDULED, MONTHLY, none_of=(REACHED,), **of_coverage))
        found = preview_retries(rows.connection, coverage, NOW, MACHINE_NOW)
        assert {one.reason: one.payments for one in found.skipped} == dict(+skipped)
        assert found.payments == len(charged)
        assert {UUID(payment_id) for payment_id, _ in found.largest} <= charged


REFUSED_BY = {
    PAID: "it was paid at",
    COLLECTION_ENDED: "it is ",
    CLOSE_PENDING: "it is being",
    AWAITS_TRANSFER: "the customer pays by bank transfer",
    AUTHORISED: "the amount is already authorised",
    ATTEMPT_OPEN: "attempt 1",
    ALREADY_REQUESTED: f"{ANNA} already requested this charge",
    BANK_TRANSFER: "the customer pays by bank transfer",
    **dict.fromkeys(WITHOUT_CARD, "no card is registered"),
    CARD_BLOCKED: "the card network forbids charging visa ending in 4242 again (stolen)",
}


def check_operators_charge(rows: Rows) -> None:
    for payment_id, spec in rows.specs.items():
        facts = spec.facts()
        would = preview_charge(rows.connection, payment_id, NOW, MACHINE_NOW)
        with rows.undone():
            requested = request_charge(
                rows.connection, payment_id, Cause(ANNA, NOW, "she called"), MACHINE_NOW, releases_hold=False
            )
        refusing = first_that_holds(REFUSED_BY, facts)
        if refusing or is_used_up(spec):
            words = REFUSED_BY[refusing] if refusing else "visa ending in 4242 may not be charged now"
            for answer in (would, requested):
                assert isinstance(answer, Refused), spec
                assert words in answer.reason, (spec, answer)
            continue
        assert isinstance(would, WouldCharge), (spec, would)
        assert any("it is held" in warning for warning in would.warnings) == HELD.holds(facts)
        assert isinstance(requested, Refused) == HELD.holds(facts), (spec, requested)


_ALWAYS = (("paid", PAID), ("ended", COLLECTION_ENDED))
_CHARGING = (("being_ended", CLOSE_PENDING), ("attempt_open", ATTEMPT_OPEN), ("authorised", AUTHORISED))
LEFT_OUT_BY = {
    BulkAction.HOLD: one_of(*_ALWAYS, ("being_ended", CLOSE_PENDING), ("held_already", HELD)),
    BulkAction.RELEASE: one_of(*_ALWAYS),
    BulkAction.WRITE_OFF: one_of(*_ALWAYS, *_CHARGING),
    BulkAction.VOID: one_of(*_ALWAYS, *_CHARGING),
    BulkAction.CHARGE: one_of(
        *_ALWAYS,
        *_CHARGING,
        ("held", HELD),
        ("asked_already", ALREADY_REQUESTED),
        ("transfer", BANK_TRANSFER),
        ("transfer", AWAITS_TRANSFER),
        *(("no_card", condition) for condition in WITHOUT_CARD),
        ("card_blocked", CARD_BLOCKED),
    ),
}


def check_bulk_preview(rows: Rows) -> None:
    for action, left_out_by in LEFT_OUT_BY.items():
        looked = classified(action, select(payments.c.id), NOW, MACHINE_NOW)
        for row in rows.connection.execute(select(looked.c.id, looked.c.why)):
            if row.id in rows.specs:
                facts = rows.specs[row.id].facts()
                leaving = first_that_holds(left_out_by, facts)
                why = left_out_by[leaving] if leaving else None
                if why is None and action is BulkAction.RELEASE and not HELD.holds(facts):
                    why = "not_held"
                assert row.why == why, (action, rows.specs[row.id])


def check_pending_work(rows: Rows) -> None:
    pending = pending_work(rows.connection, POLICY, NOW, MACHINE_NOW, {})
    is_short = {
        payment_id
        for payment_id, spec in rows.specs.items()
        if spec.backoff is not None and spec.backoff <= SHORT_BACKOFF
    }
    expected = {
        **{
            f"due payments, {lane}": rows.those(CHARGEABLE_STATE, REACHED, none_of=STOPPED_BY, lane=lane)
            for lane in Lane
        },
        "payments with a new card": rows.those(HAS_NEWER_CARD, none_of=STOPPED_BY),
        "payments by card again": rows.those(BY_CARD_AGAIN, none_of=STOPPED_BY),
        "payments to close": rows.those(CLOSE_PENDING, none_of=(COLLECTION_ENDED, BACKING_OFF, ATTEMPT_OPEN)),
        "short back-offs": rows.those(CHARGEABLE_STATE, REACHED, BACKING_OFF) & is_short,
        "short back-offs of closes": rows.those(CLOSE_PENDING, BACKING_OFF) & is_short,
        "open attempts": rows.those(ATTEMPT_OPEN),
    }
    assert pending == {name: len(ids) for name, ids in expected.items() if ids}


def check_verify(rows: Rows) -> None:
    scope = Scope(NOW, MACHINE_NOW)
    patience = scope.forgotten_after

    def found(name: str) -> set[UUID]:
        (check,) = (check for check in PROGRESS if check.name == name)
        query = check.breaks.format_map(scope.relations)
        parameters = {key: value for key, value in scope.parameters.items() if f":{key}" in query}
        return {row.payment_id for row in rows.connection.execute(text(query), parameters)} & set(rows.specs)

    ago = {
        payment_id: replace(spec.facts(), now=NOW - patience, machine_now=MACHINE_NOW - patience)
        for payment_id, spec in rows.specs.items()
    }
    # What lies too far ahead is judged by the clock of now: it is over, and was a while ago.
    backed_off = {
        payment_id
        for payment_id, facts in ago.items()
        if facts.backoff_until is not None
        and facts.backoff_until > MACHINE_NOW - patience
        and (facts.backoff_until <= MACHINE_NOW or BACKING_OFF.holds(rows.specs[payment_id].facts()))
    }
    due = {
        payment_id
        for payment_id, facts in ago.items()
        if CHARGEABLE_STATE.holds(facts)
        and REACHED.holds(facts)
        and first_that_holds((HELD, CLOSE_PENDING, ATTEMPT_OPEN, WAITS_ITS_TURN), facts) is None
    }
    closing = rows.those(CLOSE_PENDING, none_of=(COLLECTION_ENDED, ATTEMPT_OPEN)) - backed_off
    assert found("no-payment-forgotten") == due - backed_off
    assert found("no-ending-forgotten") == rows.those(CLOSE_PENDING, COLLECTION_ENDED) | closing
    woken = rows.those(HAS_NEWER_CARD, none_of=(HELD, CLOSE_PENDING, ATTEMPT_OPEN))
    assert found("no-wake-up-lost") == woken
    unexplained = rows.those(HELD) | rows.those(none_of=(CHARGEABLE_STATE, PAID))
    assert found("waiting-names-its-reason") == unexplained | {
        payment_id for payment_id in rows.those(WAITS_FOR_CARD) if rows.specs[payment_id].newer_by < 0
    }


def check_alerts(rows: Rows) -> None:
    due = {
        payment_id
        for payment_id in rows.those(CHARGEABLE_STATE, none_of=(HELD, ATTEMPT_OPEN, WAITS_ITS_TURN))
        if REACHED.holds(replace(rows.specs[payment_id].facts(), now=NOW - DUE_FOR_TOO_LONG))
    }
    assert gather_alert_facts(rows.connection, NOW, MACHINE_NOW).due_too_long.rows == len(due)


CHECKS = (
    check_conditions,
    check_facts,
    check_claims,
    check_cancellations,
    check_sweep,
    check_enqueue_if_due,
    check_daily_run,
    check_daily_preview,
    check_operators_charge,
    check_bulk_preview,
    check_pending_work,
    check_verify,
    check_alerts,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_table_and_its_users_agree_on_one_changed_value(one_away: Rows, check: Any) -> None:
    with one_away.undone():
        check(one_away)


@settings(
    max_examples=5,
    deadline=None,
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
@given(specs=st.lists(SPECS, min_size=20, max_size=20))
def test_table_and_its_users_agree_on_any_values(database: Engine, specs: list[Spec]) -> None:
    with written(database, specs) as rows:
        for check in CHECKS:
            check(rows)


def test_each_condition_is_true_for_some_rows_and_false_for_others() -> None:
    for condition in CONDITIONS:
        assert {condition.holds(spec.facts()) for spec in ONE_AWAY} == {True, False}, condition.name
    assert len({condition.name for condition in CONDITIONS}) == len(CONDITIONS)
